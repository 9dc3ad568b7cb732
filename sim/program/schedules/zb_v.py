"""ZB-V: zero bubble with 1F1B's activations; two chunks on each rank, laid in a V (arXiv 2401.10241, 2405.15362)."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Literal, final

from sim.program.table import SCHEDULES, Action, Kind, PassTimes, Placement, Table


@final
class ZeroBubbleV:
    """Rank r holds stages r and 2 p - 1 - r, so that the first rank, which fills the pipeline, has its last stage too.

    As with ZB-H2, the gain comes once the optimizer's barrier is bypassed.
    """

    placement: Placement = "v"
    span: Literal["pipeline", "rank"] = "rank"

    def refusal(self, p: int, v: int, m: int) -> str | None:
        """Two chunks on each of several ranks; any m."""
        del m
        if p < 2:
            return f"pp = {p}, but zb_v lays its chunks over several ranks (allowed 2 or more)"
        return None if v == 2 else f"vpp = {v}, but zb_v has two chunks on each rank (allowed 2)"

    def table(self, p: int, v: int, m: int) -> Table:
        """Actions of each rank in order (arXiv 2401.10241; torch has the same order in ScheduleZBVZeroBubble).

        With fewer than 2 p - 1 micro-batches it is the table of so many without those that there are none of.
        """
        assert v == 2
        return tuple(
            tuple(action for action in _row(rank, p, max(m, 2 * p - 1)) if action.microbatch < m) for rank in range(p)
        )

    def bubble_of_ideal(self, p: int, v: int, m: int, times: PassTimes) -> Fraction:
        """None (arXiv 2401.10241)."""
        del p, v, m, times
        return Fraction(0)

    def bubble_assumptions(self, p: int, v: int, m: int, times: PassTimes) -> str | None:
        """Equal passes, and enough micro-batches to fill the pipeline."""
        del v
        if m < 2 * p - 1:
            return f"micro-batches = {m}, but the closed form of zb_v needs 2 pp - 1 = {2 * p - 1} or more"
        if not times.forward == times.input_gradient == times.weight_gradient:
            return "the closed form of zb_v needs F, I and W that take equally long"
        return None


def _row(rank: int, p: int, m: int) -> Iterator[Action]:
    """Warm-up until the first backward pass of the second chunk, all four chunk passes in turn, then what is left."""
    first, second = _Chunk(rank), _Chunk(2 * p - 1 - rank)
    for _ in range(2 * (p - rank) - 1):
        yield first.next(Kind.F)
    for _ in range(rank):
        yield second.next(Kind.F)
        yield first.next(Kind.F)
    for _ in range(p - rank):
        yield from second.next_of(Kind.F, Kind.I, Kind.W)
    while second.count[Kind.F] < m:
        if first.count[Kind.F] < m:
            yield first.next(Kind.F)
        yield from first.next_of(Kind.I, Kind.W)
        yield from second.next_of(Kind.F, Kind.I, Kind.W)
    for _ in range(rank):
        yield first.next(Kind.I)
        yield second.next(Kind.I)
    for _ in range(p - rank):
        yield from first.next_of(Kind.I, Kind.W)
    for chunk in (second, first):
        while chunk.count[Kind.W] < m:
            yield chunk.next(Kind.W)


class _Chunk:
    """A virtual stage while its row is written: how many passes of each kind it has had."""

    def __init__(self, stage: int) -> None:
        self._stage = stage
        self.count = dict.fromkeys(Kind, 0)

    def next(self, kind: Kind) -> Action:
        """The pass of the next micro-batch."""
        self.count[kind] += 1
        return Action(self._stage, kind, self.count[kind] - 1)

    def next_of(self, *kinds: Kind) -> Iterator[Action]:
        """One of each kind."""
        return map(self.next, kinds)


SCHEDULES.register("zb_v")(ZeroBubbleV())
