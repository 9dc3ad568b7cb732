"""Memory over the step: what tensors take on ranks of the pipeline, from the first pass to the optimizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Patch

from sim import units
from sim.program.memory import StageMemory
from sim.report.figures import FIGURES
from sim.report.figures.style import INK, sheet, time_axis
from sim.report.tables import gibibytes, short_names
from sim.report.words import MEMORY
from sim.results.memory_timeline import MemoryCourse, memory_timeline
from sim.simulation import Simulation
from sim.spec.topology import Floats, Ints

WIDE_FRAC = 0.6
"""Where a peak is below this part of what the GPU has, the axis ends at the peak, so that the course can be read."""

MOST_PANELS = 4
"""Pipelines of more ranks are shown by their first, their fullest and their last one."""

MOST_LEVELS = 300
"""Levels that one panel can tell apart; of more, the fullest in each part of the step is drawn."""


@final
class MemoryTimeline:
    """A panel for each pipeline rank: bytes by category, stacked, over the time of the step."""

    title = "Memory over the step"
    caption = (
        "What tensors take on a rank of each pipeline stage (of a deep pipeline: the first, the fullest and the last), "
        "by what it is for. The highest level is the allocated peak; the dotted line adds what PyTorch's allocator "
        "reserves beyond it and what CUDA and NCCL take, the dashed one is what the GPU has. Of the best layout."
    )
    place = 6

    def applies(self, simulations: Sequence[Simulation]) -> bool:
        """Always."""
        return len(simulations) > 0

    def draw(self, simulations: Sequence[Simulation]) -> Canvas:
        """Panels of the first simulation, one below the other."""
        best = simulations[0]
        stages = shown(best.result.memory)
        courses = memory_timeline(best.timeline, best.scenario)
        canvas, panels = sheet(0.9 + 1.55 * len(stages), rows=len(stages))
        present = [name for name in MEMORY if any(np.any(_of(courses[each.pp_rank], name)) for each in stages)]
        for axes, stage in zip(panels, stages, strict=True):
            _panel(axes, courses[stage.pp_rank], stage, present, best.timeline.step_s)
        panels[-1].tick_params(labelbottom=True)
        time_axis(panels[-1].xaxis, best.timeline.step_s, "time in the step")
        fullest = max(best.result.memory, key=lambda stage: stage.allocated_bytes)
        name = short_names([best.result])[0]
        panels[0].set_title(f"{name}: {gibibytes(fullest.allocated_bytes)} of tensors on rank {fullest.pp_rank}")
        handles = [Patch(facecolor=MEMORY[key][1], label=MEMORY[key][0]) for key in present]
        canvas.legend(handles=handles, loc="outside lower center", ncols=4, handlelength=1.2, columnspacing=1.4)
        return canvas


def shown(stages: Sequence[StageMemory]) -> list[StageMemory]:
    """The stages that have a panel."""
    if len(stages) <= MOST_PANELS:
        return list(stages)
    fullest = max(stages, key=lambda stage: stage.peak_bytes)
    return sorted({stage.pp_rank: stage for stage in (stages[0], fullest, stages[-1])}.values(), key=_pp_rank)


def _pp_rank(stage: StageMemory) -> int:
    return stage.pp_rank


def _of(course: MemoryCourse, category: str) -> Floats:
    return course.bytes_by_category.get(category, np.zeros(1))


def _panel(axes: Axes, course: MemoryCourse, stage: StageMemory, present: Sequence[str], step_s: float) -> None:
    gib = units.parse("1 GiB", "bytes")
    begins_s, drawn = levels(course, step_s)
    start_s = np.append(begins_s, step_s)
    low = np.zeros(len(start_s))
    for name in present:
        values = _of(course, name)[drawn] / gib
        high = low + np.append(values, values[-1])
        axes.fill_between(start_s, low, high, step="post", color=MEMORY[name][1], linewidth=0)
        low = high
    peak, capacity = stage.peak_bytes / gib, stage.capacity_bytes / gib
    axes.axhline(peak, color=INK, linewidth=1, linestyle=":")
    axes.axhline(capacity, color=INK, linewidth=1.4, linestyle="--")
    is_low = peak < WIDE_FRAC * capacity
    axes.annotate(
        f"{peak:.1f} of {capacity:.0f} GiB ",
        (1, peak),
        xycoords=("axes fraction", "data"),
        xytext=(0, 1),
        textcoords="offset points",
        ha="right",
        va="bottom",
        fontsize=8,
    )
    axes.set_xlim(0, step_s)
    axes.set_ylim(0, 1.15 * (peak if is_low else max(peak, capacity)))
    axes.set_ylabel(f"rank {stage.pp_rank} (GiB)")
    axes.tick_params(labelbottom=False)


def levels(course: MemoryCourse, step_s: float) -> tuple[Floats, Ints]:
    """Start (s) and number of the levels that are drawn: all, or of many the fullest in each part of the step."""
    if len(course.start_s) <= MOST_LEVELS:
        return course.start_s, np.arange(len(course.start_s))
    parts = np.arange(MOST_LEVELS)
    edges_s = step_s / MOST_LEVELS * parts.astype(np.float64)
    level = np.concatenate([np.arange(len(course.start_s)), np.searchsorted(course.start_s, edges_s, "right") - 1])
    part = np.concatenate([np.searchsorted(edges_s, course.start_s, "right") - 1, parts])
    order = np.lexsort((course.total_bytes[level], part))
    last = np.append(np.flatnonzero(np.diff(part[order])), len(order) - 1)
    fullest: Ints = level[order[last]]
    return edges_s, fullest


FIGURES.register("memory_timeline")(MemoryTimeline())
