"""Where the step goes: a stacked bar for each scenario."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from matplotlib.figure import Figure as Canvas

from sim.report.figures import FIGURES
from sim.report.figures.style import INK, PAPER, sheet, time_axis
from sim.report.tables import seconds, short_names
from sim.report.words import GROUPS, by_group
from sim.simulation import Simulation


@final
class Breakdown:
    """Stacked horizontal bars in seconds, the best layout first."""

    title = "Where the step goes"
    caption = (
        "Each bar is one step; blue and green are kernels, red to yellow is communication that the next kernel waited "
        "for, grey is waiting for others. Mean over ranks; the parts add up to the step."
    )
    place = 1

    def applies(self, simulations: Sequence[Simulation]) -> bool:
        """Always."""
        return len(simulations) > 0

    def draw(self, simulations: Sequence[Simulation]) -> Canvas:
        """One bar for each scenario, its step time at the end."""
        results = [simulation.result for simulation in simulations]
        names = short_names(results)
        canvas, (axes,) = sheet(1.5 + 0.36 * len(results))
        present = {group for result in results for group in by_group(result.breakdown_s)}
        left_s = [0.0] * len(results)
        for group in (group for group in GROUPS if group in present):
            widths = [by_group(result.breakdown_s).get(group, 0.0) for result in results]
            axes.barh(
                range(len(results)),
                widths,
                left=left_s,
                height=0.72,
                color=group.colour,
                edgecolor=PAPER,
                linewidth=0.5,
                label=group.name,
            )
            left_s = [left + width for left, width in zip(left_s, widths, strict=True)]
        for row, (result, end_s) in enumerate(zip(results, left_s, strict=True)):
            note = "" if result.fits else ", does not fit"
            axes.text(end_s, row, f" {seconds(result.step_time_s)}{note}", va="center", color=INK, fontsize=8.5)
        axes.set_yticks(range(len(results)), names)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.16 * max(left_s))
        time_axis(axes.xaxis, max(left_s), "time of a step")
        axes.grid(axis="x")
        axes.tick_params(axis="y", length=0)
        axes.set_title(_point(names[0], simulations))
        canvas.legend(loc="outside lower center", ncols=4, handlelength=1.2, columnspacing=1.4)
        return canvas


def _point(name: str, simulations: Sequence[Simulation]) -> str:
    """What the picture says: where most of the step goes, and who won."""
    best = simulations[0].result
    group, most_s = max(by_group(best.breakdown_s).items(), key=lambda pair: pair[1])
    share = f"{100 * most_s / best.step_time_s:.0f} %"
    if len(simulations) == 1:
        return f"{share} of the step goes to {group.name}"
    verb = "wins" if best.fits else "is fastest, but does not fit,"
    return f"{name} {verb} with {share} of its step in {group.name}"


FIGURES.register("breakdown")(Breakdown())
