"""Every result as a line over its settings and answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import matplotlib as mpl
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure as Canvas

from sim import units
from sim.report.figures.style import INK, PNG_DPI, WIDTH_IN
from sim.report.points import Point, Value, varied
from sim.report.sets import SET_FIGURES
from sim.report.sets.importance import shares

COLOURS = "viridis_r"
MOST_AXES = 6
MOST_TICKS = 9
HEIGHT_IN = 4.6


@final
class ParallelCoordinates:
    """An axis for each setting that differs, then memory and speed."""

    title = "Every result over its settings"
    caption = (
        "A line is a result: follow the dark ones, the fastest, back to what they have in common. Settings stand at "
        "even distances, those that decide the most first; results that do not fit the memory are dashed."
    )
    place = 4

    def applies(self, points: Sequence[Point]) -> bool:
        """Where at least two settings differ."""
        return len(points) > 2 and len(varied(points)) > 1

    def draw(self, points: Sequence[Point]) -> Canvas:
        """Lines from left to right, the fastest drawn last."""
        canvas = Canvas(figsize=(WIDTH_IN, HEIGHT_IN), dpi=PNG_DPI, layout="constrained")
        axes = canvas.subplots()
        values = varied(points)
        order = [path for path, _ in shares(points)] or list(values)
        paths = order[:MOST_AXES]
        gib = units.parse("1 GiB", "bytes")
        memory = [point.answers["peak_bytes"] / gib for point in points]
        speed = [point.answers["tokens_per_s_per_gpu"] for point in points]
        columns = [[_place(values[path], point.settings[path]) for point in points] for path in paths]
        columns += [_scaled(memory), _scaled(speed)]
        colours, scale = mpl.colormaps[COLOURS], Normalize(min(speed), max(speed))
        for index in sorted(range(len(points)), key=lambda index: speed[index]):
            style = "-" if points[index].fits else (0, (3, 3))
            heights = [column[index] for column in columns]
            axes.plot(range(len(columns)), heights, color=colours(scale(speed[index])), linestyle=style, linewidth=1.2)
        for place, path in enumerate(paths):
            _ticks(axes, place, [str(value) for value in values[path]])
        for place, column in ((len(paths), memory), (len(paths) + 1, speed)):
            _ticks(axes, place, [f"{min(column):,.0f}", f"{max(column):,.0f}"])
        names = [path.replace(".", ".\n", 1) for path in paths]
        axes.set_xticks(range(len(columns)), [*names, "memory\n(GiB)", "tokens/s\nof a GPU"])
        axes.set_xlim(-0.35, len(columns) - 0.6)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        canvas.colorbar(ScalarMappable(scale, COLOURS), ax=axes, label="tokens/s of a GPU", pad=0.01)
        axes.set_title(f"The fastest of {len(points)}: {_best(points, paths)}")
        return canvas


def _place(values: Sequence[Value], value: Value) -> float:
    """Height of a setting's value among all that it has, 0..1."""
    return values.index(value) / (len(values) - 1)


def _scaled(column: Sequence[float]) -> list[float]:
    low, high = min(column), max(column)
    return [(value - low) / (high - low) if high > low else 0.5 for value in column]


def _ticks(axes: mpl.axes.Axes, place: int, labels: Sequence[str]) -> None:
    """Values along one of the axes; of many only some are written."""
    axes.axvline(place, color=INK, linewidth=0.8)
    step = -(-len(labels) // MOST_TICKS)
    for index in range(0, len(labels), step):
        height = index / (len(labels) - 1) if len(labels) > 1 else 0.5
        axes.annotate(labels[index][:18], (place, height), xytext=(3, 2), textcoords="offset points", fontsize=7.5)


def _best(points: Sequence[Point], paths: Sequence[str]) -> str:
    best = points[0]
    return ", ".join(f"{path.split('.')[-1]} {best.settings[path]}" for path in paths[:4])


SET_FIGURES.register("parallel")(ParallelCoordinates())
