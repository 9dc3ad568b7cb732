"""Interleaved zero bubble: ZB-H1 over several chunks on each rank (torch.distributed.pipelining, arXiv 2401.10241)."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Literal, final

from sim.program.table import SCHEDULES, Action, Kind, PassTimes, Placement, Table


@final
class InterleavedZeroBubble:
    """torch's ScheduleInterleavedZeroBubble: every rank keeps p v chunks in flight, fewer than interleaved 1F1B's first
    rank, because it warms up with p - r - 1 passes fewer."""

    placement: Placement = "loop"
    span: Literal["pipeline", "rank"] = "pipeline"

    def refusal(self, p: int, v: int, m: int) -> str | None:
        """Two ranks or more, two chunks or more, and micro-batches in whole groups of p."""
        if p < 2:
            return f"pp = {p}, but interleaved_zb interleaves chunks of several ranks (allowed 2 or more)"
        if v < 2:
            return f"vpp = {v}, but interleaved_zb needs several chunks on each rank (allowed 2 or more)"
        if m % p:
            return f"micro-batches % pp = {m} % {p} = {m % p}, but interleaved_zb runs them in groups of pp (allowed 0)"
        return None

    def table(self, p: int, v: int, m: int) -> Table:
        """Rank r runs (v - 1) p + p - r - 1 forward passes, then F and I in turn and W r passes behind I."""
        assert self.refusal(p, v, m) is None
        return tuple(tuple(_row(rank, p, v, m)) for rank in range(p))

    def bubble_of_ideal(self, p: int, v: int, m: int, times: PassTimes) -> Fraction:
        """(p - 1) (F + I - W) / (v m (F + I + W)): that of ZB-H1 (arXiv 2401.10241 section 2) with passes of one of v
        chunks above, as arXiv 2104.04473 section 2.2.2 has it for 1F1B."""
        bubble = (p - 1) * (times.forward + times.input_gradient - times.weight_gradient)
        return bubble / (v * m * times.total)

    def bubble_assumptions(self, p: int, v: int, m: int, times: PassTimes) -> str | None:
        """W that fits."""
        del p, v, m
        if times.weight_gradient > min(times.forward, times.input_gradient):
            return "the closed form of interleaved_zb needs weight gradients that take no longer than F and than I"
        return None


def _row(rank: int, p: int, v: int, m: int) -> Iterator[Action]:
    """Forward passes visit chunks 0 .. v - 1 for each group of p micro-batches, backward passes v - 1 .. 0."""
    order = [(chunk, start + mb) for start in range(0, m, p) for chunk in range(v) for mb in range(p)]
    forward = [Action(chunk * p + rank, Kind.F, mb) for chunk, mb in order]
    backward = [((v - 1 - chunk) * p + rank, mb) for chunk, mb in order]
    weights = [Action(stage, Kind.W, mb) for stage, mb in backward]
    num_warmup = v * p - rank - 1
    yield from forward[:num_warmup]
    for number, (stage, mb) in enumerate(backward):
        yield from forward[num_warmup + number : num_warmup + number + 1]
        yield Action(stage, Kind.I, mb)
        if number >= rank:
            yield weights[number - rank]
    yield from weights[v * m - rank :]


SCHEDULES.register("interleaved_zb")(InterleavedZeroBubble())
