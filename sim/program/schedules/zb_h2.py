"""ZB-H2: no bubble within a rank's own span, for about twice the activations of 1F1B (arXiv 2401.10241)."""

from __future__ import annotations

from fractions import Fraction
from typing import Literal, final

from sim.program.schedules.zb_h1 import split_row
from sim.program.table import SCHEDULES, PassTimes, Placement, Table


@final
class ZeroBubbleH2:
    """Ranks begin in turn and end in turn: every one is busy throughout where F = I = W.

    The gain comes once the optimizer's barrier is bypassed, so that each rank goes on with its next step; within one
    step that ends together, the bubble is (p - 1) F.
    """

    placement: Placement = "loop"
    span: Literal["pipeline", "rank"] = "rank"

    def refusal(self, p: int, v: int, m: int) -> str | None:
        """One chunk on each rank; any p and m."""
        del p, m
        return None if v == 1 else f"vpp = {v}, but zb_h2 has one chunk on each rank (allowed 1)"

    def table(self, p: int, v: int, m: int) -> Table:
        """Rank r warms up with 2 (p - r - 1) forward passes, and is 2 r weight gradients behind its input gradients
        (arXiv 2401.10241 section 2.2 and figure 3): 2 p - 1 micro-batches are in flight."""
        assert v == 1
        return tuple(tuple(split_row(rank, 2 * (p - rank - 1), 2 * rank, m)) for rank in range(p))

    def bubble_of_ideal(self, p: int, v: int, m: int, times: PassTimes) -> Fraction:
        """(p - 1) (F + I - 2 W) / (m (F + I + W)) (arXiv 2401.10241 section 2)."""
        del v
        bubble = (p - 1) * (times.forward + times.input_gradient - 2 * times.weight_gradient)
        return bubble / (m * times.total)

    def bubble_assumptions(self, p: int, v: int, m: int, times: PassTimes) -> str | None:
        """Enough micro-batches for the warm-up of the first rank, and W that fits."""
        del v
        if m < 2 * p - 1:
            return f"micro-batches = {m}, but the closed form of zb_h2 needs 2 pp - 1 = {2 * p - 1} or more"
        if p > 1 and times.weight_gradient > min(times.forward, times.input_gradient):
            return "the closed form of zb_h2 needs weight gradients that take no longer than F and than I"
        return None


SCHEDULES.register("zb_h2")(ZeroBubbleH2())
