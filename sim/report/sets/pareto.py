"""Which results nothing beats: speed against memory, and against money or energy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from sim import units
from sim.report.figures.style import INK, PNG_DPI, WIDTH_IN
from sim.report.points import Point, told_apart
from sim.report.sets import SET_FIGURES
from sim.report.tables import MILLION
from sim.results.spending import J_BY_KWH

FITS, MISFIT, FRONT = "#0072B2", "#D55E00", "#009E73"
HEIGHT_IN = 4.4
LINE_FRAC = 0.05
"""Height of a label as part of the axes: the faster of two that are closer has one."""


@final
class Pareto:
    """Two panels; a line joins the points that no other beats in both."""

    title = "Speed against memory and cost"
    caption = (
        "Up is faster, left is leaner or cheaper. The line joins the results that fit and that no other beats in both; "
        "crosses do not fit the memory. Cost is that of a million tokens: GPU-hours at the price of each result, or "
        "energy of the data centre where a result has no price."
    )
    place = 1

    def applies(self, points: Sequence[Point]) -> bool:
        """Where there is something to compare."""
        return len(points) > 1

    def draw(self, points: Sequence[Point]) -> Canvas:
        """Memory on the left, cost on the right."""
        unit, costs = million_tokens(points)
        priced = [point for point, cost in zip(points, costs, strict=True) if cost is not None]
        canvas = Canvas(figsize=(WIDTH_IN, HEIGHT_IN), dpi=PNG_DPI, layout="constrained")
        left, right = canvas.subplots(1, 2) if priced else (canvas.subplots(1, 1), None)
        gib = units.parse("1 GiB", "bytes")
        best = _panel(left, points, [point.answers["peak_bytes"] / gib for point in points], "tokens_per_s_per_gpu")
        left.set_xlabel("memory of the fullest GPU (GiB)")
        left.set_ylabel("tokens/s of a GPU")
        left.set_title(f"Best in their memory: {best} of {len(points)}")
        if right is not None:
            cheap = _panel(right, priced, [cost for cost in costs if cost is not None], "tokens_per_s")
            right.set_xlabel(f"a million tokens ({unit})")
            right.set_ylabel("tokens/s of all GPUs")
            right.set_title(f"Best for their cost: {cheap} of {len(priced)}")
        return canvas


def million_tokens(points: Sequence[Point]) -> tuple[str, list[float | None]]:
    """What a million tokens cost at each point, and in what: US dollars, or kWh unless all have a price."""
    if all("usd_per_token" in point.answers for point in points):
        return "US dollars", [MILLION * point.answers["usd_per_token"] for point in points]
    known = [point.answers.get("tokens_per_j") for point in points]
    return "kWh", [None if rate is None else MILLION / rate / J_BY_KWH for rate in known]


def front(costs: Sequence[float], speeds: Sequence[float]) -> list[int]:
    """Positions of the points that no other beats: by rising cost, each faster than all cheaper ones.

    >>> front([1.0, 2.0, 2.0, 3.0], [5.0, 4.0, 7.0, 7.0])
    [0, 2]
    """
    kept: list[int] = []
    for index in sorted(range(len(costs)), key=lambda index: (costs[index], -speeds[index])):
        if not kept or speeds[index] > speeds[kept[-1]]:
            kept.append(index)
    return kept


def _panel(axes: Axes, points: Sequence[Point], costs: Sequence[float], speed: str) -> int:
    """Draw the points and the front; returns how many are on it."""
    speeds = [point.answers[speed] for point in points]
    for fits, marker, colour in ((True, "o", FITS), (False, "X", MISFIT)):
        mine = [index for index, point in enumerate(points) if point.fits is fits]
        axes.scatter(
            [costs[index] for index in mine], [speeds[index] for index in mine], s=30, color=colour, marker=marker
        )
    fitting = [index for index, point in enumerate(points) if point.fits]
    kept = [fitting[index] for index in front([costs[i] for i in fitting], [speeds[i] for i in fitting])]
    axes.plot([costs[i] for i in kept], [speeds[i] for i in kept], color=FRONT, linewidth=1.6, drawstyle="steps-post")
    top = 1.12 * max(speeds)
    names = told_apart(points)
    height: float | None = None
    for index in reversed(kept):
        if height is not None and height - speeds[index] < LINE_FRAC * top:
            continue
        height = speeds[index]
        axes.annotate(
            names[index],
            (costs[index], height),
            xytext=(0, 6),
            textcoords="offset points",
            fontsize=7.5,
            color=INK,
            ha="right" if costs[index] > (min(costs) + max(costs)) / 2 else "left",
        )
    axes.set_ylim(0, top)
    axes.margins(x=0.08)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.grid(visible=True)
    return len(kept)


SET_FIGURES.register("pareto")(Pareto())
