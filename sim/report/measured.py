"""Predicted against measured times of kernels: a panel for each GPU, a point for each kernel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from sim import units
from sim.calibrate.errors import errors_in, is_headline
from sim.calibrate.validation import Validation
from sim.report.figures.style import INK, PNG_DPI, WIDTH_IN, picture

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""By number format, in the order of their names."""

BAND = 0.1
BAND_COLOUR = "#8c939b"
PANEL_IN = 4.3
MAX_POINTS = 4000
"""Of a panel; of more rows every n-th is drawn, in the order of their measured times."""


def write_measured(validation: Validation, folder: Path) -> Path:
    """Write `figures/KIND.svg`, `.png` and `KIND.csv`, every row with its prediction; returns the picture's path."""
    figures = folder / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    drawn = picture(lambda: draw(validation))
    (figures / f"{validation.kind}.svg").write_text(drawn.svg, encoding="utf-8", newline="\n")
    (figures / f"{validation.kind}.png").write_bytes(drawn.png)
    validation.table.to_csv(folder / f"{validation.kind}.csv", index=False, lineterminator="\n")
    return figures / f"{validation.kind}.svg"


def draw(validation: Validation) -> Canvas:
    """Two panels beside each other; rows of other sizes than training's are faint."""
    gpus = validation.gpus
    columns = min(len(gpus), 2)
    rows = (len(gpus) + columns - 1) // columns
    canvas = Canvas(figsize=(WIDTH_IN * columns / 2, PANEL_IN * rows), dpi=PNG_DPI, layout="constrained")
    panels = canvas.subplots(rows, columns, squeeze=False).ravel()
    formats = sorted(validation.table["format"].unique())
    colours = {name: COLOURS[index % len(COLOURS)] for index, name in enumerate(formats)}
    for axes, gpu in zip(panels, gpus, strict=False):
        _panel(axes, gpu, validation.table[validation.table["gpu"] == gpu], colours)
    for axes in panels[len(gpus) :]:
        axes.remove()
    return canvas


def _panel(axes: Axes, gpu: str, table: pd.DataFrame, colours: dict[str, str]) -> None:
    table = table.sort_values("time_s", kind="stable")
    drawn = table.iloc[:: -(-len(table) // MAX_POINTS)]
    is_training = drawn["is_training"].astype(bool)
    for name, colour in colours.items():
        for rows, alpha, label in (
            (drawn[(drawn["format"] == name) & is_training], 0.6, name),
            (drawn[(drawn["format"] == name) & ~is_training], 0.12, None),
        ):
            if len(rows):
                axes.scatter(
                    rows["time_s"], rows["predicted_s"], s=5, linewidths=0, color=colour, alpha=alpha, label=label,
                    rasterized=True,
                )  # fmt: skip
    both = np.concatenate([table["time_s"].to_numpy(), table["predicted_s"].to_numpy()])
    ends = np.array([0.8 * both.min(), 1.25 * both.max()])
    axes.plot(ends, ends, color=INK, linewidth=1)
    axes.fill_between(ends, (1 - BAND) * ends, (1 + BAND) * ends, color=BAND_COLOUR, alpha=0.25, linewidth=0)
    axes.set(xscale="log", yscale="log", xlim=ends, ylim=ends, aspect="equal", title=_title(gpu, table))
    axes.set_xlabel("measured")
    axes.set_ylabel(f"predicted (band: within {100 * BAND:.0f} %)")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: units.text(value, "s"))
    axes.grid(which="major")
    handles, labels = axes.get_legend_handles_labels()
    if labels:
        legend = axes.legend(handles, labels, loc="upper left", markerscale=3)
        for handle in legend.legend_handles:
            if handle is not None:
                handle.set_alpha(1)


def _title(gpu: str, table: pd.DataFrame) -> str:
    errors = errors_in(table[is_headline(table)])
    if errors is None:
        return f"{gpu}: no row of training sizes"
    return f"{gpu}: {errors.mape:.1f} % off, sum {errors.bias:+.1f} %"
