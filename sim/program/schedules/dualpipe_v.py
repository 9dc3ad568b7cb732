"""DualPipeV: chunks in a V, forward and backward passes of two micro-batches in pairs (deepseek-ai/DualPipe)."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Literal, final

from sim.program.table import SCHEDULES, Action, Cell, Kind, Pair, PassTimes, Placement, Table


@final
class DualPipeV:
    """DualPipe cut in half: each rank holds stages r and 2 p - 1 - r, and no parameters are held twice."""

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
        return tuple(tuple(DualRow(rank, p, m, (rank, 2 * p - 1 - rank), (0, 0)).cells()) for rank in range(p))

    def bubble_of_ideal(self, p: int, v: int, m: int, times: PassTimes) -> Fraction:
        """(p - 1) (F&B + B - 3 W) / (v m (F + I + W)).

        The README of deepseek-ai/DualPipe has (PP / 2 - 1) (F&B + B - 3 W) for DualPipe on PP ranks, half of which is
        DualPipeV on p = PP / 2.
        """
        bubble = (p - 1) * (times.forward_and_backward + times.backward - 3 * times.weight_gradient)
        return bubble / (v * m * times.total)

    def bubble_assumptions(self, p: int, v: int, m: int, times: PassTimes) -> str | None:
        """F = I, and W that fits."""
        del p, v, m
        if times.forward != times.input_gradient or times.weight_gradient > times.forward:
            return "the closed form of dualpipe_v needs F and I that take equally long, and W that takes no longer"
        return None


class DualRow:
    """Cells of one rank that runs two chunks of the model at once (the eight phases of `step` in dualpipe/dualpipe.py
    and dualpipe/dualpipev.py). Weight gradients that were split off wait in a queue, oldest first.

    place: of the rank among the p that fill the pipeline.  m: micro-batches of each chunk.  stages: of both chunks.
    first: the first micro-batch of each.
    """

    def __init__(self, place: int, p: int, m: int, stages: tuple[int, int], first: tuple[int, int]) -> None:
        self._stages, self._first = stages, first
        self._place, self._p, self._m = place, p, m
        self._num_forward, self._num_backward = [0, 0], [0, 0]
        self._waiting: list[tuple[int, int]] = []

    def cells(self) -> Iterator[Cell]:
        """All of them."""
        place, later = self._place, self._p - self._place - 1
        yield from (self._forward(0) for _ in range(2 * later))
        for _ in range(place + 1):
            yield self._forward(0)
            yield self._forward(1)
        for _ in range(later):
            yield self._input_gradient(1)
            yield self._weight_gradient()
            yield self._forward(1)
        for number in range(self._m - 2 * self._p + place + 1):
            if number == 0 and not later:
                # The source keeps these two apart, which shortens the bubble.
                yield self._forward(0)
                yield self._backward(1)
            else:
                yield self._pair(0, 1)
            yield self._pair(1, 0)
        for _ in range(later):
            yield self._backward(1)
            yield self._pair(1, 0)
        yield from self._drained()
        for _ in range(later):
            yield self._weight_gradient()
            yield self._input_gradient(0)
        while self._waiting:
            yield self._weight_gradient()

    def _pair(self, forward: int, backward: int) -> Pair:
        return Pair(self._forward(forward), self._backward(backward))

    def _drained(self) -> Iterator[Action]:
        """Backward passes of both chunks in turn; in the second half their weight gradients are split off."""
        for number in range(self._place + 1):
            for chunk in (1, 0):
                is_split = 2 * number + 1 - chunk > self._place
                yield self._input_gradient(chunk) if is_split else self._backward(chunk)

    def _forward(self, chunk: int) -> Action:
        return Action(self._stages[chunk], Kind.F, self._next(self._num_forward, chunk))

    def _backward(self, chunk: int) -> Action:
        return Action(self._stages[chunk], Kind.B, self._next(self._num_backward, chunk))

    def _input_gradient(self, chunk: int) -> Action:
        mb = self._next(self._num_backward, chunk)
        self._waiting.append((self._stages[chunk], mb))
        return Action(self._stages[chunk], Kind.I, mb)

    def _weight_gradient(self) -> Action:
        stage, mb = self._waiting.pop(0)
        return Action(stage, Kind.W, mb)

    def _next(self, counts: list[int], chunk: int) -> int:
        counts[chunk] += 1
        return self._first[chunk] + counts[chunk] - 1


SCHEDULES.register("dualpipe_v")(DualPipeV())
