"""1F1B: after a warm-up each rank alternates forward and backward passes (PipeDream-Flush, arXiv 2006.09503)."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Literal, final

from sim.program.table import SCHEDULES, Action, Kind, PassTimes, Placement, Table


@final
class OneFOneB:
    """As long as GPipe, but rank r keeps at most p - r micro-batches in flight."""

    placement: Placement = "loop"
    span: Literal["pipeline", "rank"] = "pipeline"

    def refusal(self, p: int, v: int, m: int) -> str | None:
        """One chunk on each rank; any p and m."""
        del p, m
        return None if v == 1 else f"vpp = {v}, but 1f1b has one chunk on each rank (allowed 1)"

    def table(self, p: int, v: int, m: int) -> Table:
        """Actions of each rank in order.

        Rank r runs min(p - r - 1, m) forward passes, then one forward and one backward in turn, then the backward
        passes that are left.
        """
        assert v == 1
        return tuple(tuple(_row(rank, min(p - rank - 1, m), m)) for rank in range(p))

    def bubble_of_ideal(self, p: int, v: int, m: int, times: PassTimes) -> Fraction:
        """(p - 1) / m (arXiv 2104.04473 section 2.2.1)."""
        del v, times
        return Fraction(p - 1, m)

    def bubble_assumptions(self, p: int, v: int, m: int, times: PassTimes) -> None:
        """Holds at any p and m."""
        del p, v, m, times


def _row(stage: int, num_warmup: int, m: int) -> Iterator[Action]:
    for mb in range(num_warmup):
        yield Action(stage, Kind.F, mb)
    for mb in range(num_warmup, m):
        yield Action(stage, Kind.F, mb)
        yield Action(stage, Kind.B, mb - num_warmup)
    for mb in range(m - num_warmup, m):
        yield Action(stage, Kind.B, mb)


SCHEDULES.register("1f1b")(OneFOneB())
