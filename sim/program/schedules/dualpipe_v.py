"""DualPipeV: chunks in a V, forward and backward passes of two micro-batches in pairs (deepseek-ai/DualPipe)."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Literal, final

from sim.program.table import SCHEDULES, Action, Kind, PassTimes, Placement, Table


@final
class DualPipeV:
    """DualPipe cut in half: each rank holds stages r and 2 p - 1 - r, and no parameters are held twice.

    The passes of a pair are played one after the other, forward first. On a GPU they share it, so that the exchanges of
    one hide behind the kernels of the other: that gain is left out here.
    """

    placement: Placement = "v"
    span: Literal["pipeline", "rank"] = "pipeline"

    def refusal(self, p: int, v: int, m: int) -> str | None:
        """Two chunks on each of several ranks, and enough micro-batches to fill them."""
        if p < 2:
            return f"pp = {p}, but dualpipe_v lays its chunks over several ranks (allowed 2 or more)"
        if v != 2:
            return f"vpp = {v}, but dualpipe_v has two chunks on each rank (allowed 2)"
        return None if m >= 2 * p else f"micro-batches = {m}, but dualpipe_v needs 2 pp = {2 * p} or more"

    def table(self, p: int, v: int, m: int) -> Table:
        """The eight phases of `DualPipeV.step` (dualpipe/dualpipev.py of deepseek-ai/DualPipe)."""
        assert self.refusal(p, v, m) is None
        return tuple(tuple(_Row(rank, p, m).actions()) for rank in range(p))

    def bubble_of_ideal(self, p: int, v: int, m: int, times: PassTimes) -> Fraction:
        """(p - 1) (F&B + B - 3 W - I) / (v m (F + I + W)) with F&B = F + B, that is (p - 1) (F + I - W) above the line.

        The README of deepseek-ai/DualPipe has (PP / 2 - 1) (F&B + B - 3 W) for DualPipe on PP ranks, half of which is
        DualPipeV on p = PP / 2: there the results of a pair leave together. Here those of the forward pass leave before
        the backward pass, which saves I at every hop.
        """
        bubble = (p - 1) * (times.forward + times.input_gradient - times.weight_gradient)
        return bubble / (v * m * times.total)

    def bubble_assumptions(self, p: int, v: int, m: int, times: PassTimes) -> str | None:
        """F = I, and W that fits."""
        del p, v, m
        if times.forward != times.input_gradient or times.weight_gradient > times.forward:
            return "the closed form of dualpipe_v needs F and I that take equally long, and W that takes no longer"
        return None


class _Row:
    """Actions of one rank. Weight gradients that were split off wait in a queue, oldest first."""

    def __init__(self, rank: int, p: int, m: int) -> None:
        self._stages = (rank, 2 * p - 1 - rank)
        self._rank, self._p, self._m = rank, p, m
        self._num_forward, self._num_backward = [0, 0], [0, 0]
        self._waiting: list[tuple[int, int]] = []

    def actions(self) -> Iterator[Action]:
        """All of them."""
        rank, later = self._rank, self._p - self._rank - 1
        yield from (self._forward(0) for _ in range(2 * later))
        for _ in range(rank + 1):
            yield self._forward(0)
            yield self._forward(1)
        for _ in range(later):
            yield self._input_gradient(1)
            yield self._weight_gradient()
            yield self._forward(1)
        for _ in range(self._m - 2 * self._p + rank + 1):
            yield self._forward(0)
            yield self._backward(1)
            yield self._forward(1)
            yield self._backward(0)
        for _ in range(later):
            yield self._backward(1)
            yield self._forward(1)
            yield self._backward(0)
        yield from self._drained()
        for _ in range(later):
            yield self._weight_gradient()
            yield self._input_gradient(0)
        while self._waiting:
            yield self._weight_gradient()

    def _drained(self) -> Iterator[Action]:
        """Backward passes of both chunks in turn; in the second half their weight gradients are split off."""
        for number in range(self._rank + 1):
            for chunk in (1, 0):
                is_split = 2 * number + 1 - chunk > self._rank
                yield self._input_gradient(chunk) if is_split else self._backward(chunk)

    def _forward(self, chunk: int) -> Action:
        self._num_forward[chunk] += 1
        return Action(self._stages[chunk], Kind.F, self._num_forward[chunk] - 1)

    def _backward(self, chunk: int) -> Action:
        self._num_backward[chunk] += 1
        return Action(self._stages[chunk], Kind.B, self._num_backward[chunk] - 1)

    def _input_gradient(self, chunk: int) -> Action:
        mb = self._num_backward[chunk]
        self._num_backward[chunk] += 1
        self._waiting.append((self._stages[chunk], mb))
        return Action(self._stages[chunk], Kind.I, mb)

    def _weight_gradient(self) -> Action:
        stage, mb = self._waiting.pop(0)
        return Action(stage, Kind.W, mb)


SCHEDULES.register("dualpipe_v")(DualPipeV())
