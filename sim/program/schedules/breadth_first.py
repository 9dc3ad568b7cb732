"""Breadth-first: interleaved chunks, each run for all micro-batches before the next (arXiv 2211.05953)."""

from __future__ import annotations

from fractions import Fraction
from typing import Literal, final

from sim.program.table import SCHEDULES, Action, Kind, PassTimes, Placement, Table


@final
class BreadthFirst:
    """GPipe with v chunks on each rank: as short a bubble as interleaved 1F1B, with every micro-batch in flight. Its
    gain is that the gradients of a chunk are complete, and can be reduced, long before those of the next.

    The paper's depth-first schedule is `interleaved_1f1b`.
    """

    placement: Placement = "loop"
    span: Literal["pipeline", "rank"] = "pipeline"

    def refusal(self, p: int, v: int, m: int) -> str | None:
        """Several chunks on each of several ranks; any m."""
        del m
        if p < 2:
            return f"pp = {p}, but breadth_first interleaves chunks of several ranks (allowed 2 or more)"
        return None if v >= 2 else f"vpp = {v}, but breadth_first needs several chunks on each rank (allowed 2 or more)"

    def table(self, p: int, v: int, m: int) -> Table:
        """Forward passes of chunk 0 for all micro-batches, then of chunk 1, ..; backward passes from the last chunk on
        (arXiv 2211.05953)."""
        assert self.refusal(p, v, m) is None
        return tuple(
            tuple(
                Action(chunk * p + rank, kind, mb)
                for kind, chunks in ((Kind.F, range(v)), (Kind.B, range(v - 1, -1, -1)))
                for chunk in chunks
                for mb in range(m)
            )
            for rank in range(p)
        )

    def bubble_of_ideal(self, p: int, v: int, m: int, times: PassTimes) -> Fraction:
        """(p - 1) / (v m) (arXiv 2211.05953)."""
        del times
        return Fraction(p - 1, v * m)

    def bubble_assumptions(self, p: int, v: int, m: int, times: PassTimes) -> str | None:
        """A chunk's first micro-batch has come around when the rank is done with the chunk before."""
        del v, times
        return f"micro-batches = {m}, but the closed form of breadth_first needs pp = {p} or more" if m < p else None


SCHEDULES.register("breadth_first")(BreadthFirst())
