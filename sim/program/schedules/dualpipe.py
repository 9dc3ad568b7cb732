"""DualPipe: micro-batches from both ends of the pipeline, F and B side by side (arXiv 2412.19437 section 3.2.1)."""

from __future__ import annotations

from fractions import Fraction
from typing import Literal, final

from sim.program.schedules.dualpipe_v import DualRow
from sim.program.table import SCHEDULES, Cell, PassTimes, Placement, Table


@final
class DualPipe:
    """Two copies of the model in opposite directions: rank r holds stages r and p - 1 - r, twice 1F1B's parameters, and
    p + 1 micro-batches in flight. The first half of the micro-batches enters at rank 0, the second at rank p - 1.

    The gradients of a stage are reduced over the ranks of both of its copies, which start each step alike.
    """

    placement: Placement = "both"
    span: Literal["pipeline", "rank"] = "pipeline"

    def refusal(self, p: int, v: int, m: int) -> str | None:
        """An even number of ranks, one stage of each direction on each, and enough micro-batches in equal halves."""
        if p % 2:
            return f"pp % 2 = {p} % 2 = 1, but dualpipe folds the pipeline in the middle (allowed 0)"
        if v != 1:
            return f"vpp = {v}, but dualpipe has one stage of each direction on each rank (allowed 1)"
        if m % 2:
            return f"micro-batches % 2 = {m} % 2 = 1, but dualpipe runs half of them in each direction (allowed 0)"
        return None if m >= 2 * p else f"micro-batches = {m}, but dualpipe needs 2 pp = {2 * p} or more"

    def table(self, p: int, v: int, m: int) -> Table:
        """The eight phases of `DualPipe.step` (dualpipe/dualpipe.py of deepseek-ai/DualPipe)."""
        assert self.refusal(p, v, m) is None
        return tuple(_row(rank, p, m) for rank in range(p))

    def bubble_of_ideal(self, p: int, v: int, m: int, times: PassTimes) -> Fraction:
        """(p / 2 - 1) (F&B + B - 3 W) / (m (F + I + W)) (arXiv 2412.19437 table 2)."""
        del v
        bubble = (p // 2 - 1) * (times.forward_and_backward + times.backward - 3 * times.weight_gradient)
        return bubble / (m * times.total)

    def bubble_assumptions(self, p: int, v: int, m: int, times: PassTimes) -> str | None:
        """F = I, and W that fits."""
        del p, v, m
        if times.forward != times.input_gradient or times.weight_gradient > times.forward:
            return "the closed form of dualpipe needs F and I that take equally long, and W that takes no longer"
        return None


def _row(rank: int, p: int, m: int) -> tuple[Cell, ...]:
    """The ranks of the second half do what those of the first do, each for the other direction."""
    place, half = min(rank, p - 1 - rank), m // 2
    first = (0, half) if rank < p // 2 else (half, 0)
    return tuple(DualRow(place, p // 2, half, (place, p - 1 - place), first).cells())


SCHEDULES.register("dualpipe")(DualPipe())
