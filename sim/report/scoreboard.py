"""The page of a scoreboard: its tables, predicted against measured, errors against features, and every row as CSV."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import jinja2
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from sim import units
from sim.report.figures.style import INK, PNG_DPI, WIDTH_IN, picture
from sim.report.measured import BAND, BAND_COLOUR, COLOURS, PANEL_IN
from sim.report.scoreboard_tables import (
    group_tables,
    residuals_table,
    rows_table,
    sets_table,
    skipped_table,
)
from sim.validation.residuals import NUMERIC, explained
from sim.validation.scoreboard import Scoreboard

PAGE = "scoreboard.html"
NUM_WORST = 20
NUM_FEATURES = 6
MAX_ERROR = 60.0
"""Errors beyond this, %, stand at the edge of the picture of residuals."""


@dataclass(frozen=True)
class Shown:
    """A figure of the page."""

    svg: str
    caption: str


def write_scoreboard(board: Scoreboard, folder: Path, title: str) -> Path:
    """Write `scoreboard.html`, `rows.csv`, `skipped.csv` and two figures; returns the page's path."""
    figures = folder / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    shown = []
    if len(board.table):
        for name, draw, caption in (
            ("scatter", draw_scatter, f"A point for each row; the band is within {100 * BAND:.0f} %."),
            ("residuals", draw_residuals, "Signed errors against the features that explain most of them."),
        ):
            drawn = picture(lambda draw=draw: draw(board))  # type: ignore[misc]
            (figures / f"{name}.svg").write_text(drawn.svg, encoding="utf-8", newline="\n")
            (figures / f"{name}.png").write_bytes(drawn.png)
            shown.append(Shown(drawn.svg[drawn.svg.index("<svg") :], caption))
    board.table.to_csv(folder / "rows.csv", index=False, lineterminator="\n")
    board.skipped.to_csv(folder / "skipped.csv", index=False, lineterminator="\n")
    loader = jinja2.PackageLoader("sim.report", "templates")
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    text = environment.get_template(PAGE).render(
        title=f"Simulated against measured steps: {title}",
        tables=[sets_table(board), *group_tables(board), residuals_table(board), rows_table(board, NUM_WORST)],
        pictures=shown,
        long_tables=[skipped_table(board), rows_table(board)],
    )
    (folder / PAGE).write_text(text, encoding="utf-8", newline="\n")
    return folder / PAGE


def draw_scatter(board: Scoreboard) -> Canvas:
    """Two panels, dense models and mixtures of experts, a point for each row, coloured by GPU."""
    kinds = sorted(set(board.table["kind"]))
    canvas = Canvas(figsize=(WIDTH_IN * len(kinds) / 2, PANEL_IN), dpi=PNG_DPI, layout="constrained")
    panels = canvas.subplots(1, len(kinds), squeeze=False).ravel()
    families = sorted(set(_family(board.table)))
    colours = {name: COLOURS[index % len(COLOURS)] for index, name in enumerate(families)}
    for axes, kind in zip(panels, kinds, strict=True):
        _scatter(axes, str(kind), board.table[board.table["kind"] == kind], colours)
    return canvas


def _family(table: pd.DataFrame) -> pd.Series[str]:
    """The GPU without its memory and form: a100, h100, gb200."""
    return table["gpu"].astype(str).str.split("-").str[0]


def _scatter(axes: Axes, title: str, table: pd.DataFrame, colours: dict[str, str]) -> None:
    family = _family(table)
    for name, colour in colours.items():
        part = table[family == name]
        if len(part):
            axes.scatter(
                part["measured_s"], part["predicted_s"], s=8, linewidths=0, color=colour, alpha=0.7, label=name
            )
    both = np.concatenate([table["measured_s"].to_numpy(dtype=float), table["predicted_s"].to_numpy(dtype=float)])
    ends = np.array([0.8 * both.min(), 1.25 * both.max()])
    axes.plot(ends, ends, color=INK, linewidth=1)
    axes.fill_between(ends, (1 - BAND) * ends, (1 + BAND) * ends, color=BAND_COLOUR, alpha=0.25, linewidth=0)
    axes.set(xscale="log", yscale="log", xlim=ends, ylim=ends, aspect="equal", title=title)
    axes.set_xlabel("measured step")
    axes.set_ylabel("predicted step")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: units.text(value, "s"))
    axes.grid(which="major")
    axes.legend(loc="upper left")


def draw_residuals(board: Scoreboard) -> Canvas:
    """A panel for each of the features that explain most: signed errors of all rows, and the mean of each bin."""
    features = explained(board.table)[:NUM_FEATURES]
    columns = 2
    rows = max(1, -(-len(features) // columns))
    canvas = Canvas(figsize=(WIDTH_IN, PANEL_IN * rows / 1.6), dpi=PNG_DPI, layout="constrained")
    panels = canvas.subplots(rows, columns, squeeze=False).ravel()
    for axes, feature in zip(panels, features, strict=False):
        values = board.table[feature.name]
        errors = board.table["error"].clip(-MAX_ERROR, MAX_ERROR)
        if feature.name in NUMERIC:
            axes.scatter(values, errors, s=5, linewidths=0, color=COLOURS[0], alpha=0.5)
            axes.scatter(
                [float(bin_[0].rstrip("+")) for bin_ in feature.bins],
                [bin_[2] for bin_ in feature.bins],
                color=INK,
                s=18,
            )
            if values.min() > 0 and values.max() > 20 * values.min():
                axes.set_xscale("log")
        else:
            names = [bin_[0] for bin_ in feature.bins]
            axes.scatter(values.astype(str).map(names.index), errors, s=5, linewidths=0, color=COLOURS[0], alpha=0.5)
            axes.scatter(range(len(names)), [bin_[2] for bin_ in feature.bins], color=INK, s=18)
            axes.set_xticks(range(len(names)), names)
        axes.axhline(0, color=INK, linewidth=1)
        axes.set(xlabel=feature.name.replace("_", " "), ylim=(-1.05 * MAX_ERROR, 1.05 * MAX_ERROR))
        axes.set_ylabel("error, %")
        axes.grid(which="major", axis="y")
    for axes in panels[len(features) :]:
        axes.remove()
    return canvas
