"""How all figures look, and how they are saved: no display, no date, the same bytes every time."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure as Canvas

from sim import units
from sim.report.figures import Figure
from sim.simulation import Simulation

INK = "#1b1f24"
PAPER = "#fefefe"
FAINT = "#d0d4d9"
"""Text and lines, background, and grid. The page replaces these three by its own colours, which follow the reader's
dark mode."""

WIDTH_IN = 9.6
PNG_DPI = 130
SHORT_MS = 100

LOOK: dict[Any, Any] = {
    "svg.hashsalt": "sim",
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.axisbelow": True,
    "figure.facecolor": PAPER,
    "grid.color": FAINT,
    "grid.linewidth": 0.7,
    "hatch.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "xtick.color": INK,
    "ytick.color": INK,
}


@dataclass(frozen=True)
class Picture:
    """A figure as SVG text and PNG bytes."""

    svg: str
    png: bytes


def render(figure: Figure, simulations: Sequence[Simulation]) -> Picture:
    """Draw a figure of the report."""
    return picture(lambda: figure.draw(simulations))


def picture(draw: Callable[[], Canvas]) -> Picture:
    """Draw in the project's look; the same figure gives the same bytes."""
    with mpl.rc_context(LOOK):
        canvas = draw()
        vector, raster = io.BytesIO(), io.BytesIO()
        canvas.savefig(vector, format="svg", backend="svg", metadata={"Date": None, "Creator": None})
        canvas.savefig(raster, format="png", backend="agg", metadata={"Software": None})
    return Picture(vector.getvalue().decode("utf-8"), raster.getvalue())


def time_axis(axis: Axis, longest_s: float, what: str) -> None:
    """Label an axis that is in seconds; short steps read better in ms."""
    millisecond_s = units.parse("1 ms", "s")
    unit, unit_s = ("ms", millisecond_s) if longest_s < SHORT_MS * millisecond_s else ("s", 1.0)
    axis.set_major_formatter(lambda value, _: f"{value / unit_s:.6g}")
    axis.set_label_text(f"{what} ({unit})")


def sheet(height_in: float, rows: int = 1) -> tuple[Canvas, list[Axes]]:
    """An empty figure of the page's width and its axes, one below the other."""
    canvas = Canvas(figsize=(WIDTH_IN, height_in), dpi=PNG_DPI, layout="constrained")
    axes = canvas.subplots(rows, 1, squeeze=False)
    return canvas, list(axes.ravel())
