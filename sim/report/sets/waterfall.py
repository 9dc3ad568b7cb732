"""Where one result is slower than another, cause by cause."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from matplotlib.figure import Figure as Canvas

from sim.report.figures.style import INK, sheet, time_axis
from sim.report.points import Point, told_apart
from sim.report.sets import SET_FIGURES
from sim.report.tables import seconds_beside
from sim.report.words import by_group

TOTAL, MORE, LESS = "#4D4D4D", "#D55E00", "#0072B2"
LEAST_SHARE = 1e-3


@final
class Waterfall:
    """From the step time of the best result to that of the one which it is compared with, the second of `points`."""

    title = "From the best to another"
    caption = (
        "Bars between the two totals are what the other result spends more (up) or less (down) in each group of "
        "causes, mean over GPUs; they add up to the difference of the two step times."
    )
    place = 2

    def applies(self, points: Sequence[Point]) -> bool:
        """Where two results say where their time goes, and process the same tokens in a step."""
        return len(points) > 1 and all(point.breakdown_s for point in points[:2]) and _same_work(*points[:2])

    def draw(self, points: Sequence[Point]) -> Canvas:
        """Totals at both ends."""
        best, other = points[:2]
        names = told_apart([best, other])
        start_s, end_s = best.answers["step_time_s"], other.answers["step_time_s"]
        changes = differences(best, other)
        canvas, (axes,) = sheet(4.2)
        labels = [names[0], *changes, names[1]]
        level_s, highest_s = start_s, max(start_s, end_s)
        axes.bar(0, start_s, color=TOTAL, width=0.7)
        for place, change_s in enumerate(changes.values(), start=1):
            axes.bar(place, change_s, bottom=level_s, color=MORE if change_s > 0 else LESS, width=0.7)
            axes.plot([place - 0.65, place + 0.35], [level_s, level_s], color=INK, linewidth=0.6)
            top_s = max(level_s, level_s + change_s)
            text = ("+" if change_s > 0 else "") + seconds_beside(change_s, end_s)
            axes.annotate(text, (place, top_s), xytext=(0, 3), textcoords="offset points", ha="center", fontsize=8)
            level_s += change_s
            highest_s = max(highest_s, top_s)
        axes.bar(len(labels) - 1, end_s, color=TOTAL, width=0.7)
        for place, total_s in ((0, start_s), (len(labels) - 1, end_s)):
            text = seconds_beside(total_s, total_s)
            axes.annotate(text, (place, total_s), xytext=(0, 3), textcoords="offset points", ha="center", fontsize=8)
        axes.set_xticks(range(len(labels)), [label.replace(" ", "\n", 1) for label in labels], fontsize=7.5)
        lowest_s = min(start_s, end_s)
        axes.set_ylim(0 if lowest_s < 0.7 * max(start_s, end_s) else 0.6 * lowest_s, 1.06 * highest_s)
        time_axis(axes.yaxis, max(start_s, end_s), "time of a step")
        axes.grid(axis="y")
        axes.set_title(_point(names, changes, start_s, end_s))
        return canvas


def differences(best: Point, other: Point) -> dict[str, float]:
    """Seconds that `other` spends more than `best` by group of causes; they add up to the difference of the steps.

    Groups that hardly differ are one bar.
    """
    first, second = by_group(best.breakdown_s), by_group(other.breakdown_s)
    changes = {group.short: second.get(group, 0.0) - first.get(group, 0.0) for group in {**first, **second}}
    least_s = LEAST_SHARE * other.answers["step_time_s"]
    shown = {name: change_s for name, change_s in changes.items() if abs(change_s) >= least_s}
    rest_s = sum(change_s for name, change_s in changes.items() if name not in shown)
    return shown | ({"others": rest_s} if rest_s else {})


def _same_work(best: Point, other: Point) -> bool:
    one, two = (point.answers["tokens_per_s"] * point.answers["step_time_s"] for point in (best, other))
    return abs(one - two) < 1e-6 * one


def _point(names: Sequence[str], changes: dict[str, float], start_s: float, end_s: float) -> str:
    if not changes:
        return f"{names[1]} spends its time as {names[0]} does"
    most = max(changes, key=lambda name: changes[name])
    longer = 100 * (end_s / start_s - 1)
    verdict = f"{longer:.0f} % longer" if longer >= 0 else f"{-longer:.0f} % less"
    return f"{names[1]} takes {verdict} than {names[0]}; most is added by {most}"


SET_FIGURES.register("waterfall")(Waterfall())
