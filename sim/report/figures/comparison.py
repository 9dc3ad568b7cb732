"""Time against memory: what a faster step costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from matplotlib.figure import Figure as Canvas

from sim import units
from sim.report.figures import FIGURES
from sim.report.figures.style import INK, sheet, time_axis
from sim.report.tables import gibibytes, short_names
from sim.simulation import Simulation

FITS, MISFIT = "#0072B2", "#D55E00"
LINE_FRAC, CHARACTER_FRAC, LABEL_GAP_FRAC = 0.052, 0.0095, 0.015
"""Height of a line, width of a character and distance of a label from its point, as parts of the axes."""


@final
class Comparison:
    """One point for each scenario: memory of the fullest GPU, and time of a step."""

    title = "Step time against memory"
    caption = (
        "Lower is faster, left is leaner; crosses do not fit the GPU's memory, which is the dashed line. "
        "Step time is on a logarithmic scale."
    )
    place = 4

    def applies(self, simulations: Sequence[Simulation]) -> bool:
        """Where there is something to compare."""
        return len(simulations) > 1

    def draw(self, simulations: Sequence[Simulation]) -> Canvas:
        """Points with their names."""
        results = [simulation.result for simulation in simulations]
        gib = units.parse("1 GiB", "bytes")
        memory = [result.peak_bytes / gib for result in results]
        time_s = [result.step_time_s for result in results]
        canvas, (axes,) = sheet(4.4)
        for capacity in sorted({result.scenario.gpu.memory_bytes for result in results}):
            axes.axvline(capacity / gib, color=INK, linestyle="--", linewidth=1.2)
            axes.annotate(
                f"{gibibytes(capacity)} ",
                (capacity / gib, 1.0),
                xycoords=("data", "axes fraction"),
                ha="right",
                va="top",
                rotation=90,
                fontsize=8,
            )
        axes.set_yscale("log")
        axes.set_ylim(min(time_s) * 0.93, max(time_s) * 1.1)
        axes.set_xlim(0, max(*memory, *(result.scenario.gpu.memory_bytes / gib for result in results)) * 1.25)
        for fits, marker, colour in ((True, "o", FITS), (False, "X", MISFIT)):
            mine = [index for index, result in enumerate(results) if result.fits is fits]
            axes.scatter(
                [memory[index] for index in mine],
                [time_s[index] for index in mine],
                s=42,
                color=colour,
                marker=marker,
                zorder=3,
            )
        to_axes = axes.transScale + axes.transLimits
        points = [tuple(to_axes.transform(point)) for point in zip(memory, time_s, strict=True)]
        names = short_names(results)
        for name, point, corner in zip(names, points, label_corners(names, points), strict=True):
            axes.annotate(
                name,
                point,
                xytext=corner,
                xycoords="axes fraction",
                textcoords="axes fraction",
                va="center",
                fontsize=8,
                arrowprops={"arrowstyle": "-", "color": INK, "linewidth": 0.4, "shrinkA": 0, "shrinkB": 3},
            )
        axes.set_xlabel("memory of the fullest GPU (GiB)")
        time_axis(axes.yaxis, max(time_s), "time of a step")
        axes.yaxis.set_minor_formatter(axes.yaxis.get_major_formatter())
        axes.grid(which="both")
        best = min(range(len(results)), key=lambda index: (not results[index].fits, time_s[index]))
        leanest = min(range(len(results)), key=lambda index: memory[index])
        axes.set_title(_point(names, best, leanest, time_s))
        return canvas


def _point(names: Sequence[str], best: int, leanest: int, time_s: Sequence[float]) -> str:
    if best == leanest:
        return f"{names[best]} is both the fastest and the leanest"
    slower = 100 * (time_s[leanest] / time_s[best] - 1)
    return f"The leanest, {names[leanest]}, takes {slower:.0f} % longer than {names[best]}"


def label_corners(names: Sequence[str], points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Where each label begins, right of its point: at its height, or the nearest line above or below that is free.

    >>> label_corners(["a", "b"], [(0.5, 0.5), (0.5, 0.5)])
    [(0.515, 0.5), (0.515, 0.552)]
    """
    placed: list[tuple[float, float, float]] = []
    for name, (x, y) in zip(names, points, strict=True):
        left, right = x + LABEL_GAP_FRAC, x + LABEL_GAP_FRAC + CHARACTER_FRAC * len(name)
        taken = [height for begin, end, height in placed if begin < right and left < end]
        taken += [other_y for other_x, other_y in points if left <= other_x <= right]
        lines = sorted(range(-len(names), len(names) + 1), key=lambda line: (abs(line), -line))
        heights = [round(y + line * LINE_FRAC, 6) for line in lines]
        free = [height for height in heights if all(abs(height - other) >= LINE_FRAC * (1 - 1e-6) for other in taken)]
        placed.append((left, right, free[0] if free else y))
    return [(round(left, 6), height) for left, _, height in placed]


FIGURES.register("comparison")(Comparison())
