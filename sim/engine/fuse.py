"""Runs of operations between which nothing can be observed, played as one event.

A block (one forward or backward of a micro-batch) is a run where it starts with one operation, ends with one, and what
lies between takes fixed times on streams that are idle whenever such a block begins: then the times inside, counted
from its start, are the same for every micro-batch. Blocks with contended flows, with other simulated ranks in a
collective, or with communication that outlives them (gradient buckets, parameter gathers) are played operation by
operation. Either way every operation has its start and end.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.program.operations import COMPUTE, PP_BACKWARD, PP_FORWARD
from sim.program.program import Program
from sim.program.ranks import STREAM_INDEX
from sim.spec.topology import Floats, Ints

BACKGROUND = [STREAM_INDEX[name] for name in (PP_FORWARD, PP_BACKWARD, "dp_reduce", "dp_gather")]
"""Streams whose operations the next block does not wait for."""


@dataclass(frozen=True)
class Runs:
    """leader: (slots,) first operation of the run that a slot belongs to, itself where it is played alone.
    offset_s: (slots,) start of the slot after its leader's.  duration_s: (slots,) time of the run that a slot leads."""

    leader: Ints
    offset_s: Floats
    duration_s: Floats


@dataclass(frozen=True)
class _Inside:
    """A block's operations, counted from its first slot.

    in_run: operations that end with the block's last compute at the latest (or with the communication that follows it
    and that the next block waits for).  start_s: their start after the block's.  total_s: time of the run; None where
    the block is no run.  loose: streams of operations that may outlive it.
    """

    in_run: NDArray[np.bool_]
    start_s: Floats
    total_s: float | None
    loose: frozenset[int]


def unfused(program: Program, duration_s: Floats) -> Runs:
    """Every operation by itself."""
    return Runs(program.node, np.zeros(len(program.node)), duration_s)


def fuse(program: Program, duration_s: Floats, is_fixed: NDArray[np.bool_]) -> Runs:
    """Find the runs.

    duration_s: (slots,) time of each operation that takes a fixed time.  is_fixed: (slots,) which those are.
    """
    leader = program.node.copy()
    offset_s = np.zeros(len(leader))
    total_s = duration_s.copy()
    is_alone = is_fixed & (np.bincount(program.node, minlength=len(leader)) == 1)
    edges = _Edges(program)
    for rank in program.ranks:
        bases = rank.first + np.searchsorted(program.block[rank.first : rank.end], np.arange(len(rank.shapes)))
        ends = np.append(bases[1:], rank.end)
        # A block's first repetition may have nothing before it, so the last one is looked at.
        chosen = [np.flatnonzero(rank.shapes == shape)[-1] for shape in range(int(rank.shapes.max()) + 1)]
        blocks = [_inside(edges, range(int(bases[b]), int(ends[b])), duration_s, is_alone) for b in chosen]
        # On a loose stream, something of an earlier block may still run when a block begins.
        loose = frozenset[int]().union(*(block.loose for block in blocks))
        for shape, block in enumerate(blocks):
            inside = np.flatnonzero(block.in_run)
            if block.total_s is None or loose & set(program.stream[bases[chosen[shape]] + inside].tolist()):
                continue
            slots = bases[rank.shapes == shape][:, None] + inside[None, :]
            leader[slots] = slots[:, :1]
            offset_s[slots] = block.start_s[inside]
            total_s[slots[:, 0]] = block.total_s
    return Runs(leader, offset_s, total_s)


class _Edges:
    """Edges of the program by target and by source."""

    def __init__(self, program: Program) -> None:
        self.program = program
        order = np.argsort(program.target, kind="stable")
        self._into = (program.source[order], program.target[order])
        order = np.argsort(program.source, kind="stable")
        self._out_of = (program.target[order], program.source[order])

    def within(self, slots: range) -> list[list[int]]:
        """For each operation of a block, those of the same block that it comes after, both counted from its start."""
        source, target = self._near(self._into, slots)
        inner = (source >= slots.start) & (source < slots.stop)
        before: list[list[int]] = [[] for _ in slots]
        for u, v in zip((source[inner] - slots.start).tolist(), (target[inner] - slots.start).tolist(), strict=True):
            before[v].append(u)
        return before

    def leaks(self, slots: range, members: Ints, last: int) -> bool:
        """Whether anything but the order on streams of the rank reaches into a run after its first operation, or leaves
        it before its last.

        members: operations of the run; last: the one that ends it.
        """
        source, target = self._near(self._into, slots)
        enters = np.isin(target, members[1:]) & ((source < slots.start) | (source >= slots.stop))
        begins = source[target == slots.start]
        allowed = self._in_order(source, target) | np.isin(source, begins)
        reached, origin = self._near(self._out_of, slots)
        leaves = np.isin(origin, members) & (origin != last) & ((reached < slots.start) | (reached >= slots.stop))
        return bool((enters & ~allowed).any() or (leaves & ~self._in_order(origin, reached)).any())

    def _near(self, edges: tuple[Ints, Ints], slots: range) -> tuple[Ints, Ints]:
        lo, hi = np.searchsorted(edges[1], [slots.start, slots.stop])
        return edges[0][lo:hi], edges[1][lo:hi]

    def _in_order(self, source: Ints, target: Ints) -> NDArray[np.bool_]:
        """Edges that are the order on a stream of one rank."""
        rank, stream = self.program.rank, self.program.stream
        same: NDArray[np.bool_] = (
            (rank[source] == rank[target]) & (stream[source] == stream[target]) & (source < target)
        )
        return same


def _inside(edges: _Edges, slots: range, duration_s: Floats, is_alone: NDArray[np.bool_]) -> _Inside:
    """Times inside a block. Its operations stand in an order in which each comes after what it waits for."""
    before = edges.within(slots)
    stream = edges.program.stream[slots.start : slots.stop]
    last = int(np.flatnonzero(~np.isin(stream, BACKGROUND))[-1])
    in_run = np.zeros(len(slots), dtype=bool)
    in_run[last] = True
    for index in range(last, -1, -1):
        if in_run[index]:
            in_run[before[index]] = True
    loose = frozenset(stream[~in_run].tolist()) - {STREAM_INDEX[COMPUTE]}
    start_s, end_s = np.zeros(len(slots)), np.zeros(len(slots))
    length = duration_s[slots.start : slots.stop]
    members = np.flatnonzero(in_run)
    for index in members.tolist():
        start_s[index] = max((end_s[u] for u in before[index]), default=0.0)
        end_s[index] = start_s[index] + length[index]
    is_run = (
        [index for index in members.tolist() if not before[index]] == [0]
        and bool(is_alone[slots.start + members].all())
        and _leaves_at_end(before, in_run, last)
        and not edges.leaks(slots, slots.start + members, slots.start + last)
    )
    return _Inside(in_run, start_s, float(end_s[last]) if is_run else None, loose)


def _leaves_at_end(before: list[list[int]], in_run: NDArray[np.bool_], last: int) -> bool:
    """Whether what is outside the run, but in its block, waits for the end of the run only."""
    outside = np.flatnonzero(~in_run).tolist()
    return all(u == last or not in_run[u] for index in outside for u in before[index])
