"""Bus bandwidth of a collective against its size, and predicted against measured times of many."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from sim import units
from sim.calibrate.collective_validation import CollectiveValidation
from sim.calibrate.errors import errors_in
from sim.report.figures.style import INK, PNG_DPI, WIDTH_IN, picture
from sim.report.measured import BAND, BAND_COLOUR, COLOURS, PANEL_IN

SWEEP = "collective"
VALIDATION = "collectives"
KIBI = 1024
LEAST_OCTAVES = 16
"""Of sizes on an axis, beyond which only every fourth power of two has a label."""


def write_sweep(table: pd.DataFrame, topology: str, folder: Path) -> Path:
    """Write `figures/collective.svg`, `.png` and `collective.csv`; returns the picture's path.

    table: columns op, gpus, nodes, nbytes, busbw_GBps, algorithm, protocol, and measured_busbw_GBps where there is one.
    """
    return _write(lambda: draw_sweep(table, topology), table, SWEEP, folder)


def write_validation(validation: CollectiveValidation, folder: Path) -> Path:
    """Write `figures/collectives.svg`, `.png` and `collectives.csv`, every row; returns the picture's path."""
    return _write(lambda: draw_validation(validation), validation.table, VALIDATION, folder)


def _write(draw: Callable[[], Canvas], table: pd.DataFrame, name: str, folder: Path) -> Path:
    figures = folder / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    drawn = picture(draw)
    (figures / f"{name}.svg").write_text(drawn.svg, encoding="utf-8", newline="\n")
    (figures / f"{name}.png").write_bytes(drawn.png)
    table.to_csv(folder / f"{name}.csv", index=False, lineterminator="\n")
    return figures / f"{name}.svg"


def draw_sweep(table: pd.DataFrame, topology: str) -> Canvas:
    """A line of bus bandwidth against size, coloured by algorithm and protocol; what was measured as points."""
    canvas = Canvas(figsize=(WIDTH_IN, PANEL_IN), dpi=PNG_DPI, layout="constrained")
    axes = canvas.subplots()
    rows = table[table["nbytes"] > 0]
    axes.plot(rows["nbytes"], rows["busbw_GBps"], color=BAND_COLOUR, linewidth=1, zorder=1)
    how = rows["algorithm"] + ", " + rows["protocol"]
    for index, name in enumerate(dict.fromkeys(how)):
        part = rows[how == name]
        colour = COLOURS[index % len(COLOURS)]
        axes.plot(part["nbytes"], part["busbw_GBps"], color=colour, linewidth=2, marker=".", label=name)
    if "measured_busbw_GBps" in rows:
        measured = rows[rows["measured_busbw_GBps"] > 0]
        axes.scatter(
            measured["nbytes"], measured["measured_busbw_GBps"], s=24, color=INK, marker="x", label="measured", zorder=3
        )
    op, gpus, nodes = rows["op"].iloc[0], int(rows["gpus"].iloc[0]), int(rows["nodes"].iloc[0])
    axes.set_title(f"{op} on {gpus} GPUs, {nodes} {'node' if nodes == 1 else 'nodes'} of {topology}")
    axes.set(xscale="log", ylim=(0, None), xlabel="size (as nccl-tests counts it)", ylabel="bus bandwidth, GB/s")
    _size_axis(axes, rows)
    axes.grid(which="major")
    axes.legend(loc="upper left")
    return canvas


def _size_axis(axes: Axes, rows: pd.DataFrame) -> None:
    """Powers of two with their unit."""
    low, high = np.log2(rows["nbytes"].min()), np.log2(rows["nbytes"].max())
    step = 4 if high - low > LEAST_OCTAVES else 2
    ticks = [2.0**power for power in range(int(np.ceil(low)), int(high) + 1, step)] or [float(rows["nbytes"].min())]
    axes.set_xticks(ticks, [units.text(tick, "bytes") for tick in ticks])
    axes.set_xticks([], minor=True)


def draw_validation(validation: CollectiveValidation) -> Canvas:
    """A panel for each topology, a point for each call, coloured by collective."""
    table = validation.table
    sites = sorted(set(table["topology"]))
    columns = min(len(sites), 2) or 1
    rows = max(1, (len(sites) + columns - 1) // columns)
    canvas = Canvas(figsize=(WIDTH_IN * columns / 2, PANEL_IN * rows), dpi=PNG_DPI, layout="constrained")
    panels = canvas.subplots(rows, columns, squeeze=False).ravel()
    ops = sorted(set(table["op"]))
    for axes, site in zip(panels, sites, strict=False):
        _panel(axes, site, table[table["topology"] == site], dict(zip(ops, COLOURS, strict=False)))
    for axes in panels[len(sites) :]:
        axes.remove()
    return canvas


def _panel(axes: Axes, title: str, table: pd.DataFrame, colours: dict[str, str]) -> None:
    for op, colour in colours.items():
        part = table[table["op"] == op]
        if len(part):
            axes.scatter(
                part["time_s"], part["predicted_s"], s=5, linewidths=0, color=colour, alpha=0.6, label=op,
                rasterized=True,
            )  # fmt: skip
    both = np.concatenate([table["time_s"].to_numpy(), table["predicted_s"].to_numpy()])
    ends = np.array([0.8 * both.min(), 1.25 * both.max()])
    axes.plot(ends, ends, color=INK, linewidth=1)
    axes.fill_between(ends, (1 - BAND) * ends, (1 + BAND) * ends, color=BAND_COLOUR, alpha=0.25, linewidth=0)
    errors = errors_in(table)
    off = "" if errors is None else f": {errors.mape:.1f} % off, sum {errors.bias:+.1f} %"
    axes.set(xscale="log", yscale="log", xlim=ends, ylim=ends, aspect="equal", title=f"{title}{off}")
    axes.set_xlabel("measured")
    axes.set_ylabel(f"predicted (band: within {100 * BAND:.0f} %)")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: units.text(value, "s"))
    axes.grid(which="major")
    axes.legend(loc="upper left", markerscale=3)
