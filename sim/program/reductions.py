"""Gradients of a block on their way: in buckets, beside the backward pass or after it, hop by hop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sim.program.operations import BlockBuilder
from sim.program.passes import BACKWARD, PassBuilder
from sim.program.replication import Calls, Replication
from sim.program.shards import Shard


def gather(builder: BlockBuilder, rep: Replication, shard: Shard, *, again: bool = False) -> list[int]:
    """Start gathering parameters, ahead of what computes; `again`: for the backward pass."""
    return [builder.gather_ahead(call) for call in rep.gathers(shard, again=again)]


def buckets(shards: Sequence[Shard], rep: Replication) -> list[tuple[Shard, int]]:
    """Gradients in the order of `shards`, cut where a bucket is full: (parameters, index of the one that fills it)."""
    full: list[tuple[Shard, int]] = []
    open_shard = Shard(0)
    for index, shard in enumerate(shards):
        open_shard += shard
        if open_shard.total and (rep.fills_bucket(open_shard) or index == len(shards) - 1):
            full.append((open_shard, index))
            open_shard = Shard(0)
    return full


@dataclass(frozen=True)
class _OnWay:
    """A bucket of 4-bit gradients in its first or second hop, and the operations that this hop is."""

    bucket: Shard
    awaited: list[int]
    is_second: bool


class Reductions:
    """Reductions of a block's gradients: none, or bucket by bucket beside what follows, or late, after all of it.

    shards: of the block's units as their gradients come.

    What 4-bit gradients need between their two hops runs among the kernels of the units that follow: DeepSpeed has it
    on a stream of its own, where it takes as much of the GPU.
    """

    def __init__(self, run: PassBuilder, rep: Replication, shards: Sequence[Shard], *, is_last: bool) -> None:
        self._run, self._rep, self._shards, self._is_last = run, rep, shards, is_last
        reduces = rep.reduces(is_last=is_last)
        self._full = {index: shard for shard, index in buckets(shards, rep)} if reduces else {}
        self._late: list[Shard] = []
        self._on_way: list[_OnWay] = []

    def ready(self, index: int) -> Shard | None:
        """Copy the gradients of a unit to where they are reduced: the bucket that they fill."""
        if index in self._full:
            self._run.settle()
        if self._full:
            self._run.add(BACKWARD, *self._rep.copy_in(self._shards[index]))
        return self._full.get(index)

    def start(self, bucket: Shard | None) -> None:
        """Start the reduction of a bucket beside what follows, or keep it."""
        if not self._rep.overlaps_reduce:
            self._late += [] if bucket is None else [bucket]
            return
        self._advance()
        if bucket is not None:
            self._run.flush()
            self._start(bucket)

    def finish(self) -> None:
        """Start what was kept, and see to what is on its way; the next block waits for it."""
        builder = self._run.builder
        for bucket in self._late:
            builder.tail += self._start(bucket)
        while self._on_way:
            self._advance()
        self._run.flush()

    def _start(self, bucket: Shard) -> list[int]:
        """The calls on `bucket` that may start now: their numbers."""
        builder = self._run.builder
        if not self._rep.is_int4:
            return [
                number
                for chain in self._rep.reductions(bucket, is_last=self._is_last)
                for number in _play(builder, chain)
            ]
        started = [builder.communicate(call) for call in self._rep.first_hop(bucket)]
        self._on_way.append(_OnWay(bucket, started, is_second=False))
        return started

    def _advance(self) -> None:
        """Bring every bucket between its hops one hop further."""
        run, moving, self._on_way = self._run, self._on_way, []
        for one in moving:
            for number in one.awaited:
                run.wait(number)
            if one.is_second:
                run.add(BACKWARD, *self._rep.after_hops(one.bucket))
                continue
            run.add(BACKWARD, *self._rep.between_hops(one.bucket))
            run.flush()
            started = [run.builder.communicate(call) for call in self._rep.second_hop(one.bucket)]
            self._on_way.append(_OnWay(one.bucket, started, is_second=True))


def _play(builder: BlockBuilder, chain: Calls) -> list[int]:
    """Issue calls that run one after the other: their numbers."""
    numbers: list[int] = []
    for call in chain:
        numbers.append(builder.follow(call, numbers[-1]) if numbers else builder.communicate(call))
    return numbers
