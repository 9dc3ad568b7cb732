"""ZB-H1: 1F1B with split backward passes; weight gradients fill the pipeline's end (arXiv 2401.10241)."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Literal, final

from sim.program.table import SCHEDULES, Action, Kind, PassTimes, Placement, Table


@final
class ZeroBubbleH1:
    """No rank keeps more micro-batches in flight than 1F1B's first one: p.

    The paper's B is our I.
    """

    placement: Placement = "loop"
    span: Literal["pipeline", "rank"] = "pipeline"

    def refusal(self, p: int, v: int, m: int) -> str | None:
        """One chunk on each rank; any p and m."""
        del p, m
        return None if v == 1 else f"vpp = {v}, but zb_h1 has one chunk on each rank (allowed 1)"

    def table(self, p: int, v: int, m: int) -> Table:
        """Rank r warms up as in 1F1B, with p - r - 1 forward passes, and is r weight gradients behind its input
        gradients (arXiv 2401.10241 section 2.1 and figure 3)."""
        assert v == 1
        return tuple(tuple(split_row(rank, p - rank - 1, rank, m)) for rank in range(p))

    def bubble_of_ideal(self, p: int, v: int, m: int, times: PassTimes) -> Fraction:
        """(p - 1) (F + I - W) / (m (F + I + W)) (arXiv 2401.10241 section 2)."""
        del v
        bubble = (p - 1) * (times.forward + times.input_gradient - times.weight_gradient)
        return bubble / (m * times.total)

    def bubble_assumptions(self, p: int, v: int, m: int, times: PassTimes) -> str | None:
        """Enough micro-batches for every rank's weight gradients to find their place, and W that fits into it."""
        del v
        if m < p:
            return f"micro-batches = {m}, but the closed form of zb_h1 needs pp = {p} or more"
        if p > 1 and times.weight_gradient > min(times.forward, times.input_gradient):
            return "the closed form of zb_h1 needs weight gradients that take no longer than F and than I"
        return None


def split_row(stage: int, num_warmup: int, delay: int, m: int) -> Iterator[Action]:
    """Actions of a stage: `num_warmup` forward passes, then F and I in turn and W `delay` micro-batches behind I."""
    warmup = min(num_warmup, m)
    for mb in range(warmup):
        yield Action(stage, Kind.F, mb)
    for mb in range(m):
        if mb + warmup < m:
            yield Action(stage, Kind.F, mb + warmup)
        yield Action(stage, Kind.I, mb)
        if mb >= delay:
            yield Action(stage, Kind.W, mb - delay)
    for mb in range(max(m - delay, 0), m):
        yield Action(stage, Kind.W, mb)


SCHEDULES.register("zb_h1")(ZeroBubbleH1())
