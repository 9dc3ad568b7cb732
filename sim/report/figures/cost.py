"""What a simulation costs against what is simulated: four panels, and the numbers behind them."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import NullLocator

from sim import units
from sim.report.figures.style import INK, PNG_DPI, WIDTH_IN, picture
from sim.study.bench import Curve, Parts, Point, Timing

COLOURS = {"lower": "#0072B2", "play": "#D55E00", "summarise": "#009E73"}
MARKERS = {"lower": "s", "play": "^", "summarise": "D"}
GUIDE = "#8c939b"
HEIGHT_IN = 7.0
COLUMNS = (
    "name",
    "axis",
    "value",
    "seconds",
    "lower_s",
    "play_s",
    "summarise_s",
    "operations",
    "operations_per_s",
    "ratio",
    "play_ratio",
    "base",
    "slower",
    "peak_bytes",
)
"""Of `cost.csv`; a row has the fields of a `Timing`, and of a point of a curve its axis and value."""

Row = dict[str, str | int | float | None]


def write_cost(timings: Sequence[Timing], curves: Sequence[Curve], folder: Path) -> Path:
    """Write `figures/cost.svg` and `.png`, `cost.csv` and `cost.json`; returns the path of the picture."""
    figures = folder / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    drawn = picture(lambda: draw(curves))
    (figures / "cost.svg").write_text(drawn.svg, encoding="utf-8", newline="\n")
    (figures / "cost.png").write_bytes(drawn.png)
    (folder / "cost.csv").write_text(cost_csv(timings, curves), encoding="utf-8", newline="\n")
    content = {
        "timings": [dataclasses.asdict(timing) for timing in timings],
        "curves": [dataclasses.asdict(curve) for curve in curves],
    }
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    (folder / "cost.json").write_text(text, encoding="utf-8", newline="\n")
    return figures / "cost.svg"


def cost_csv(timings: Sequence[Timing], curves: Sequence[Curve]) -> str:
    """One line for each timing and for each point of a curve; an empty cell where a number does not exist."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(_timing_row(timing) for timing in timings)
    writer.writerows(_point_row(curve, point) for curve in curves for point in curve.points)
    return text.getvalue()


def _timing_row(timing: Timing) -> Row:
    fields = dataclasses.asdict(timing)
    parts = fields.pop("parts") or {}
    return fields | parts | {"operations_per_s": timing.operations_per_s}


def _point_row(curve: Curve, point: Point) -> Row:
    return dataclasses.asdict(point.parts) | {
        "name": curve.held,
        "axis": curve.axis,
        "value": point.value,
        "seconds": point.parts.total_s,
        "operations": point.operations,
        "operations_per_s": point.operations / point.parts.total_s,
    }


def draw(curves: Sequence[Curve]) -> Canvas:
    """A panel for each curve, two beside each other; all have one scale of time."""
    canvas = Canvas(figsize=(WIDTH_IN, HEIGHT_IN), dpi=PNG_DPI, layout=ConstrainedLayoutEngine(h_pad=0.1, w_pad=0.08))
    grid = canvas.subplots((len(curves) + 1) // 2, 2, sharey=True, squeeze=False)
    panels = list(grid.ravel())
    for axes, curve in zip(panels, curves, strict=False):
        _panel(axes, curve)
    parts = [point.parts for curve in curves for point in curve.points]
    shortest_s = min(min(times) for times in _times(parts).values())
    panels[0].set_ylim(0.8 * shortest_s, 1.25 * max(part.total_s for part in parts))
    for axes in panels[len(curves) :]:
        axes.remove()
    for axes in grid[:, 0]:
        axes.set_ylabel("time of a simulation")
    for axes in panels[: len(curves)]:
        axes.yaxis.set_major_formatter(lambda value, _: units.text(value, "s"))
    handles, labels = panels[0].get_legend_handles_labels()
    canvas.legend(handles, labels, loc="outside lower center", ncols=len(labels), handlelength=2.2)
    return canvas


def _panel(axes: Axes, curve: Curve) -> None:
    values = [point.value for point in curve.points]
    total_s = [point.parts.total_s for point in curve.points]
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.plot(values, total_s, color=INK, linewidth=2.2, marker="o", markersize=5, label="whole simulation", zorder=4)
    for name, time_s in _times(point.parts for point in curve.points).items():
        axes.plot(values, time_s, color=COLOURS[name], marker=MARKERS[name], markersize=4, linewidth=1.2, label=name)
    proportional_s = [total_s[0] * value / values[0] for value in values]
    axes.plot(values, proportional_s, color=GUIDE, linestyle=(0, (4, 3)), linewidth=1, label="in proportion", zorder=1)
    axes.set_xticks(values, [f"{value:,}" for value in values])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(which="major")
    axes.set_xlabel(curve.axis)
    axes.set_title(_point(curve), pad=18)
    axes.annotate(curve.held, (0, 1), xytext=(0, 5), xycoords="axes fraction", textcoords="offset points", fontsize=8.5)


def _times(parts: Iterable[Parts]) -> dict[str, list[float]]:
    """Time of each part, s, at every point; lowering has the cluster's tables in it."""
    listed = list(parts)
    return {
        "lower": [part.lower_s for part in listed],
        "play": [part.play_s for part in listed],
        "summarise": [part.summarise_s for part in listed],
    }


def _point(curve: Curve) -> str:
    """What the panel says: how much more time the largest takes than the smallest."""
    first, last = curve.points[0], curve.points[-1]
    times = last.parts.total_s / first.parts.total_s
    return f"{last.value / first.value:,.0f} x the {curve.axis}: {times:,.3g} x the time"
