"""GPipe: all forward passes, then all backward passes (arXiv 1811.06965)."""

from __future__ import annotations

from fractions import Fraction
from typing import Literal, final

from sim.program.table import SCHEDULES, Action, Kind, PassTimes, Placement, Table


@final
class GPipe:
    """Keeps every micro-batch of the step in flight.

    The backward passes run in the order of the forward passes, as Megatron-LM and torch.distributed.pipelining do; the
    reverse order of the paper's figure has the same length.
    """

    placement: Placement = "loop"
    span: Literal["pipeline", "rank"] = "pipeline"

    def refusal(self, p: int, v: int, m: int) -> str | None:
        """One chunk on each rank; any p and m."""
        del p, m
        return None if v == 1 else f"vpp = {v}, but gpipe has one chunk on each rank (allowed 1)"

    def table(self, p: int, v: int, m: int) -> Table:
        """F0 .. F(m-1) B0 .. B(m-1) on every rank."""
        assert v == 1
        return tuple(tuple(Action(rank, kind, mb) for kind in (Kind.F, Kind.B) for mb in range(m)) for rank in range(p))

    def bubble_of_ideal(self, p: int, v: int, m: int, times: PassTimes) -> Fraction:
        """(p - 1) / m (arXiv 2104.04473 section 2.2.1)."""
        del v, times
        return Fraction(p - 1, m)

    def bubble_assumptions(self, p: int, v: int, m: int, times: PassTimes) -> None:
        """Holds at any p and m."""
        del p, v, m, times


SCHEDULES.register("gpipe")(GPipe())
