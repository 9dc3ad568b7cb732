"""Interleaved 1F1B: every rank holds v chunks of the model, so that the pipeline fills v times faster."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Literal, final

from sim.program.table import SCHEDULES, Action, Kind, PassTimes, Placement, Table


@final
class Interleaved1F1B:
    """Megatron-LM's order (arXiv 2104.04473 section 2.2; megatron/core/pipeline_parallel/schedules.py).

    The first rank keeps 1 + (p - 1) / (p v) of 1F1B's activations, and the pipeline sends v times as often.
    """

    placement: Placement = "loop"
    span: Literal["pipeline", "rank"] = "pipeline"

    def refusal(self, p: int, v: int, m: int) -> str | None:
        """Two ranks or more, two chunks or more, and micro-batches in whole groups of p."""
        if p < 2:
            return f"pp = {p}, but interleaved_1f1b interleaves chunks of several ranks (allowed 2 or more)"
        if v < 2:
            return f"vpp = {v}, but interleaved_1f1b needs several chunks on each rank (allowed 2 or more)"
        if m % p:
            return (
                f"micro-batches % pp = {m} % {p} = {m % p}, but interleaved_1f1b runs them in groups of pp (allowed 0)"
            )
        return None

    def table(self, p: int, v: int, m: int) -> Table:
        """Actions of each rank in order.

        Rank r runs min(2 (p - r - 1) + (v - 1) p, v m) forward passes, then one forward and one backward in turn, then
        the backward passes that are left.
        """
        assert self.refusal(p, v, m) is None
        return tuple(tuple(_row(rank, p, v, m)) for rank in range(p))

    def bubble_of_ideal(self, p: int, v: int, m: int, times: PassTimes) -> Fraction:
        """(p - 1) / (v m) (arXiv 2104.04473 section 2.2.2)."""
        del times
        return Fraction(p - 1, v * m)

    def bubble_assumptions(self, p: int, v: int, m: int, times: PassTimes) -> None:
        """Holds wherever the schedule runs: m % p == 0 is asked for by `refusal`."""
        del p, v, m, times


def _row(rank: int, p: int, v: int, m: int) -> Iterator[Action]:
    """Forward passes visit chunks 0 .. v - 1 for each group of p micro-batches, backward passes v - 1 .. 0."""
    order = [(chunk, start + mb) for start in range(0, m, p) for chunk in range(v) for mb in range(p)]
    forward = [Action(chunk * p + rank, Kind.F, mb) for chunk, mb in order]
    backward = [Action((v - 1 - chunk) * p + rank, Kind.B, mb) for chunk, mb in order]
    num_warmup = min(2 * (p - rank - 1) + (v - 1) * p, v * m)
    yield from forward[:num_warmup]
    for pair in zip(forward[num_warmup:], backward, strict=False):
        yield from pair
    yield from backward[v * m - num_warmup :]


SCHEDULES.register("interleaved_1f1b")(Interleaved1F1B())
