"""Memory: what the GPUs hold at their worst moment, against what they have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from sim import units
from sim.program.memory import StageMemory, verdict
from sim.report.figures import FIGURES
from sim.report.figures.style import INK, PAPER, sheet
from sim.report.tables import short_names
from sim.report.words import MEMORY
from sim.simulation import Simulation


@final
class Memory:
    """Stacked bars by category: every stage of one scenario, or the fullest stage of several."""

    title = "Memory of the fullest GPU"
    caption = (
        "Peak memory by what it is for: each pipeline rank of a single scenario, the fullest one of each scenario in a "
        "comparison. The line is what the GPU has."
    )
    place = 3

    def applies(self, simulations: Sequence[Simulation]) -> bool:
        """Always."""
        return len(simulations) > 0

    def draw(self, simulations: Sequence[Simulation]) -> Canvas:
        """Horizontal bars in GiB and the capacity line."""
        results = [simulation.result for simulation in simulations]
        if len(results) == 1:
            stages = list(results[0].memory)
            labels = [f"pipeline rank {stage.pp_rank}" for stage in stages]
        else:
            stages = [max(result.memory, key=lambda stage: stage.peak_bytes) for result in results]
            labels = [
                f"{name} (rank {stage.pp_rank})" if len(result.memory) > 1 else name
                for name, stage, result in zip(short_names(results), stages, results, strict=True)
            ]
        canvas, (axes,) = sheet(1.5 + 0.34 * len(stages))
        bars(axes, stages, labels)
        axes.set_title(_point(simulations))
        canvas.legend(loc="outside lower center", ncols=4, handlelength=1.2, columnspacing=1.4)
        return canvas


def bars(axes: Axes, stages: Sequence[StageMemory], labels: Sequence[str]) -> None:
    """A bar for each stage, its sum at the end."""
    gib = units.parse("1 GiB", "bytes")
    left = [0.0] * len(stages)
    for key, (name, colour) in MEMORY.items():
        widths = [stage.parts_bytes[key] / gib for stage in stages]
        if any(widths):
            axes.barh(
                range(len(stages)),
                widths,
                left=left,
                height=0.72,
                color=colour,
                edgecolor=PAPER,
                linewidth=0.5,
                label=name,
            )
        left = [start + width for start, width in zip(left, widths, strict=True)]
    capacities = sorted({stage.capacity_bytes / gib for stage in stages})
    for capacity in capacities:
        axes.axvline(capacity, color=INK, linewidth=1.4, linestyle="--")
        axes.text(capacity, -0.62, f"{capacity:.0f} GiB ", ha="right", va="bottom", fontsize=8, color=INK)
    for row, (end, stage) in enumerate(zip(left, stages, strict=True)):
        note = "" if stage.fits else ", does not fit"
        axes.annotate(
            f"{end:.1f}{note}",
            (end, row),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
            bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 0.5},
        )
    axes.set_yticks(range(len(stages)), labels)
    axes.set_ylim(len(stages) - 0.5, -1.0)
    axes.set_xlim(0, 1.16 * max(*left, *capacities))
    axes.set_xlabel("memory of one GPU (GiB)")
    axes.grid(axis="x")
    axes.tick_params(axis="y", length=0)


def _point(simulations: Sequence[Simulation]) -> str:
    if len(simulations) == 1:
        result = simulations[0].result
        return f"{short_names([result])[0]}: {verdict(result.memory)}"
    misfits = sum(not simulation.result.fits for simulation in simulations)
    return f"{len(simulations) - misfits} of {len(simulations)} layouts fit"


FIGURES.register("memory")(Memory())
