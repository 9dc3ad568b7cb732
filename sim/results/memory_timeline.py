"""Memory over the step: what a rank of each pipeline stage holds from one instant to the next."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from sim.engine.timeline import Timeline
from sim.program.held import NOTHING, Held, phases_of, walk
from sim.program.memory import RankMemory, ranks_memory
from sim.results.idle import compute_slots
from sim.spec.scenario import Scenario
from sim.spec.topology import Floats

NOT_TENSORS = ("fragmentation", "overhead")


@dataclass(frozen=True)
class MemoryCourse:
    """What tensors take on one rank of a pipeline stage, as a step function.

    start_s: (instants,) when a level begins; it lasts until the next one begins, the last one to the end of the step.
    bytes_by_category: (instants,) of each category of `sim.program.memory.StageMemory` that holds tensors.

    Times are those of the first simulated rank of the stage. Units of a pass (embedding, layers, head) share its time
    evenly; what they hold is exact, when they hold it within a pass is not. The highest level is the stage's
    `allocated_bytes`.
    """

    pp_rank: int
    start_s: Floats
    bytes_by_category: dict[str, Floats]

    @property
    def total_bytes(self) -> Floats:
        """(instants,) of all categories."""
        total: Floats = np.sum(list(self.bytes_by_category.values()), axis=0)
        return total


def memory_timeline(timeline: Timeline, scenario: Scenario) -> tuple[MemoryCourse, ...]:
    """A course for each pipeline rank of the scenario's played step, in order."""
    first: dict[int, int] = {}
    for index, rank in enumerate(timeline.program.ranks):
        first.setdefault(rank.pp_rank, index)
    return tuple(_course(rank, *_bounds(timeline, first[rank.pp_rank])) for rank in ranks_memory(scenario))


def _bounds(timeline: Timeline, index: int) -> tuple[Floats, Floats]:
    """Start and end of each block of a simulated rank on its compute stream, s; of the block that ends the step, of its
    last operation, the optimizer. A block without kernels takes no time at the end of the one before."""
    slots = compute_slots(timeline, index)
    numbers = np.arange(len(timeline.program.ranks[index].actions))
    first, after = (np.searchsorted(timeline.program.block[slots], numbers, side) for side in ("left", "right"))
    first[-1] = after[-1] - 1
    ended_s = np.append(0.0, timeline.end_s[slots])
    return np.where(after > first, timeline.start_s[slots[first]], ended_s[first]), ended_s[after]


def _course(rank: RankMemory, start_s: Floats, end_s: Floats) -> MemoryCourse:
    levels = list(_levels(rank, start_s.tolist(), end_s.tolist()))
    times = np.array([time for time, _ in levels])
    # Where a pass begins as another ends, what was held in between lasted for no time.
    lasts = np.append(np.diff(times) > 0, True)
    stages = [rank.at(held).parts_bytes for (_, held), stays in zip(levels, lasts.tolist(), strict=True) if stays]
    names = [name for name in stages[0] if name not in NOT_TENSORS]
    return MemoryCourse(rank.pp_rank, times[lasts], {name: np.array([each[name] for each in stages]) for name in names})


def _levels(rank: RankMemory, start_s: Sequence[float], end_s: Sequence[float]) -> Iterator[tuple[float, Held]]:
    """(start, what is held beside the model state) of each level; start and end are those of the rank's blocks."""
    yield 0.0, NOTHING
    for step, begin_s, done_s in zip(walk(rank.row, rank.stages), start_s[:-1], end_s[:-1], strict=True):
        for begin, phase in phases_of(step.cell, rank.stages):
            yield begin_s + (done_s - begin_s) * begin, step.others + phase
        yield done_s, step.after
    yield start_s[-1], rank.end
    yield end_s[-1], NOTHING
