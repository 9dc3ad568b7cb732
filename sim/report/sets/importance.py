"""Which settings decide the speed."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean, pvariance
from typing import final

from matplotlib.figure import Figure as Canvas

from sim.report.figures.style import sheet
from sim.report.points import Point, Value, varied
from sim.report.sets import SET_FIGURES

COLOUR = "#0072B2"
MOST = 14
LEAST_POINTS = 4


@final
class Importance:
    """One bar for each setting that differs."""

    title = "Which settings decide the speed"
    caption = (
        "Share of the variance of log(tokens/s of a GPU) that a setting explains alone: the variance of the means of "
        "its values over that of all results (a first-order Sobol index over these results). Settings that change "
        "together share what they explain, so bars may add up to more than 100 %."
    )
    place = 5

    def applies(self, points: Sequence[Point]) -> bool:
        """Where something varies, and often enough that groups have several members."""
        return len(points) >= LEAST_POINTS and any(share for _, share in shares(points))

    def draw(self, points: Sequence[Point]) -> Canvas:
        """The largest on top."""
        found = shares(points)[:MOST]
        canvas, (axes,) = sheet(1.2 + 0.28 * len(found))
        axes.barh([name for name, _ in found], [100 * share for _, share in found], color=COLOUR, height=0.7)
        for row, (_, share) in enumerate(found):
            axes.annotate(f" {100 * share:.0f} %", (100 * share, row), va="center", fontsize=8)
        axes.invert_yaxis()
        axes.set_xlim(0, 108)
        axes.set_xlabel("share of the variance of log(tokens/s of a GPU) (%)")
        axes.set_title(f"{found[0][0]} decides the most: {100 * found[0][1]:.0f} %")
        return canvas


def shares(points: Sequence[Point]) -> list[tuple[str, float]]:
    """(setting, share of variance that it explains alone), the largest first.

    Var(E[y | setting]) / Var(y) with y = log(tokens/s of a GPU), each point weighing the same. A setting that differs
    at every point explains everything by its definition and is left out. Source: Saltelli et al., Global Sensitivity
    Analysis (2008), section 1.2.4.
    """
    speeds = [math.log(point.answers["tokens_per_s_per_gpu"]) for point in points]
    total = pvariance(speeds) if speeds else 0.0
    if total == 0:
        return []
    found = []
    for path, values in varied(points).items():
        if len(values) == len(points):
            continue
        groups: dict[Value, list[float]] = defaultdict(list)
        for point, speed in zip(points, speeds, strict=True):
            groups[point.settings[path]].append(speed)
        mean = fmean(speeds)
        between = sum(len(group) * (fmean(group) - mean) ** 2 for group in groups.values()) / len(points)
        found.append((path, between / total))
    return sorted(found, key=lambda item: (-item[1], item[0]))


SET_FIGURES.register("importance")(Importance())
