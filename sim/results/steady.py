"""The step of a steady run: steps follow each other on every rank, whether or not the others have finished theirs."""

from __future__ import annotations

import numpy as np

from sim.engine.timeline import Timeline
from sim.results.idle import Window
from sim.spec.topology import Floats


def own_spans(timeline: Timeline) -> tuple[Floats, Floats]:
    """When each simulated rank begins its first and ends its last operation, of any stream, s: (ranks,) each."""
    firsts = np.array([rank.first for rank in timeline.program.ranks])
    begins: Floats = np.minimum.reduceat(timeline.start_s, firsts)
    ends: Floats = np.maximum.reduceat(timeline.end_s, firsts)
    return begins, ends


def period_s(timeline: Timeline) -> float:
    """Time from step to step: the longest that a rank has from its first to its last operation.

    The played step, repeated after this time, breaks no order: every operation of a step keeps its distance to those
    that it comes after, and a rank is done with a step before it begins the next. With a global gradient norm all ranks
    end together and this is the time of a step alone, up to what their optimizers differ. What two steps that run at
    once send over the same links is not seen.
    """
    begins, ends = own_spans(timeline)
    return float((ends - begins).max())


def period_of_rank(timeline: Timeline, rank: int, step_s: float) -> Window:
    """The part of the played step, `step_s` long, that repeats on a simulated rank: what it waits at its ends only
    because nothing comes before and after is left out, the beginning first."""
    begins, _ = own_spans(timeline)
    spare_s = timeline.step_s - step_s
    start_s = min(spare_s, float(begins[rank]))
    return Window(start_s, start_s + step_s)
