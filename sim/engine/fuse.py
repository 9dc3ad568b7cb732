"""Runs of operations between which nothing can be observed, played as one event.

A block (one forward or backward of a micro-batch) is a run where it starts with one operation, ends with one, and what
lies between takes fixed times (compute at a given rate) on streams that are idle whenever such a block begins: then
what happens inside is the same for every micro-batch, up to the communication from outside that runs beside it and
slows its compute (see `sim.engine.runs`). Blocks with contended flows, with other simulated ranks in a collective,
with communication that outlives them (gradient buckets, parameter gathers), or with operations that their host holds up
are played operation by operation. Either way every operation has its start and end.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.engine.runs import Phase, PhaseKey, Run, phases
from sim.program.operations import COMPUTE, PP_BACKWARD, PP_FORWARD, STREAMS
from sim.program.program import Program
from sim.program.ranks import STREAM_INDEX
from sim.spec.topology import Floats, Ints

IS_BACKGROUND = np.isin(STREAMS, [PP_FORWARD, PP_BACKWARD, "dp_reduce", "dp_replica", "dp_gather"])
"""(streams,) those whose operations the next block does not wait for."""


@dataclass(frozen=True)
class Runs:
    """leader: (slots,) first operation of the run that a slot belongs to, itself where it is played alone.
    duration_s: (slots,) time of the run that a slot leads.  of: the runs by the slot that leads them."""

    leader: Ints
    duration_s: Floats
    of: dict[int, Run]


@dataclass(frozen=True)
class Alone:
    """What each slot does when nothing else runs.

    duration_s: (slots,) its time.  is_fixed: (slots,) whether that is known before.  is_held: (slots,) whether it may
    start when its host has issued it, and not before.  slows: (payloads,) factor on the time of compute while the
    payload moves.
    """

    duration_s: Floats
    is_fixed: NDArray[np.bool_]
    is_held: NDArray[np.bool_]
    slows: Floats


@dataclass(frozen=True)
class _Inside:
    """A block's operations, counted from its first slot.

    in_run: operations that end with the block's last compute at the latest (or with the communication that follows it
    and that the next block waits for).  run: None where they are none.  loose: streams of operations that may outlive
    the block.
    """

    in_run: NDArray[np.bool_]
    run: Run | None
    loose: frozenset[int]


def unfused(program: Program, duration_s: Floats) -> Runs:
    """Every operation by itself."""
    return Runs(program.node, duration_s, {})


def fuse(program: Program, alone: Alone) -> Runs:
    """Find the runs."""
    leader = program.node.copy()
    duration_s = alone.duration_s.copy()
    is_alone = alone.is_fixed & (np.bincount(program.node, minlength=len(leader)) == 1)
    finder = _Finder(_Edges(program), alone, is_alone, {}, {})
    runs: dict[int, Run] = {}
    for rank in program.ranks:
        bases = rank.first + np.searchsorted(program.block[rank.first : rank.end], np.arange(len(rank.shapes)))
        ends = np.append(bases[1:], rank.end)
        # A block's first repetition may have nothing before it, so the last one is looked at.
        chosen = [np.flatnonzero(rank.shapes == shape)[-1] for shape in range(int(rank.shapes.max()) + 1)]
        if not any(finder.may_be_run(range(int(bases[b]), int(ends[b]))) for b in chosen):
            continue
        blocks = [finder.inside(range(int(bases[b]), int(ends[b]))) for b in chosen]
        # On a loose stream, something of an earlier block may still run when a block begins.
        loose = frozenset[int]().union(*(block.loose for block in blocks))
        for shape, block in enumerate(blocks):
            inside = np.flatnonzero(block.in_run)
            if block.run is None or loose & set(program.stream[bases[chosen[shape]] + inside].tolist()):
                continue
            slots = bases[rank.shapes == shape][:, None] + inside[None, :]
            slots = slots[~alone.is_held[slots].any(axis=1)]
            leader[slots] = slots[:, :1]
            duration_s[slots[:, 0]] = block.run.ends(1.0)[-1]
            runs |= dict.fromkeys(slots[:, 0].tolist(), block.run)
    return Runs(leader, duration_s, runs)


class _Edges:
    """Edges of the program by target and by source."""

    def __init__(self, program: Program) -> None:
        self.program = program
        order = program.by_target
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
        is_member = np.zeros(len(slots), dtype=bool)
        is_member[members - slots.start] = True
        source, target = self._near(self._into, slots)
        begins = source[target == slots.start]
        enters = is_member[target - slots.start] & (target != members[0])
        enters &= (source < slots.start) | (source >= slots.stop)
        source, target = source[enters], target[enters]
        if not (self._in_order(source, target) | (source[:, None] == begins).any(axis=1)).all():
            return True
        reached, origin = self._near(self._out_of, slots)
        leaves = is_member[origin - slots.start] & (origin != last)
        leaves &= (reached < slots.start) | (reached >= slots.stop)
        return not bool(self._in_order(origin[leaves], reached[leaves]).all())

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


@dataclass(frozen=True)
class _Finder:
    """Looks into blocks. known: their phases, see `phases`.  runs: those found before, see `_run`."""

    edges: _Edges
    alone: Alone
    is_alone: NDArray[np.bool_]
    known: dict[PhaseKey, Phase]
    runs: dict[tuple[object, ...], Run]

    def may_be_run(self, slots: range) -> bool:
        """Whether all that the next block waits for is alone: a quick look, as with a slow GPU it never is."""
        own = slice(slots.start, slots.stop)
        return bool((self.is_alone[own] | IS_BACKGROUND[self.edges.program.stream[own]]).all())

    def inside(self, slots: range) -> _Inside:
        """A block. Its operations stand in an order in which each comes after what it waits for."""
        edges, program = self.edges, self.edges.program
        before = edges.within(slots)
        stream = program.stream[slots.start : slots.stop]
        in_run = np.zeros(len(slots), dtype=bool)
        awaited = np.flatnonzero(~IS_BACKGROUND[stream])
        if not len(awaited):  # weight gradients of a stage without layers: reductions at most
            return _Inside(in_run, None, frozenset(stream.tolist()))
        last = int(awaited[-1])
        in_run[last] = True
        for index in range(last, -1, -1):
            if in_run[index]:
                in_run[before[index]] = True
        loose = frozenset(stream[~in_run].tolist()) - {STREAM_INDEX[COMPUTE]}
        members = np.flatnonzero(in_run)
        # What begins with communication waits for no compute stream, so its kernels would not be slowed from outside.
        is_run = (
            stream[0] == STREAM_INDEX[COMPUTE]
            and [index for index in members.tolist() if not before[index]] == [0]
            and bool(self.is_alone[slots.start + members].all())
            and _leaves_at_end(before, in_run, last)
            and not edges.leaks(slots, slots.start + members, slots.start + last)
        )
        return _Inside(in_run, self._run(slots, members, before) if is_run else None, loose)

    def _run(self, slots: range, members: Ints, before: list[list[int]]) -> Run:
        """The run of a block; blocks that do the same in the same times, on whatever rank, share one."""
        program, own = self.edges.program, slots.start + members
        place = {index: number for number, index in enumerate(members.tolist())}
        inner = [[place[other] for other in before[index]] for index in members.tolist()]
        payload, work_s = program.payload[own], self.alone.duration_s[own]
        key = (members.tobytes(), payload.tobytes(), work_s.tobytes(), tuple(map(tuple, inner)))
        if key not in self.runs:
            is_compute = (program.stream[own] == STREAM_INDEX[COMPUTE]).tolist()
            factors = self.alone.slows[payload].tolist()
            slows = [None if computes else factor for computes, factor in zip(is_compute, factors, strict=True)]
            self.runs[key] = Run(members, phases(work_s.tolist(), slows, inner, self.known))
        return self.runs[key]


def _leaves_at_end(before: list[list[int]], in_run: NDArray[np.bool_], last: int) -> bool:
    """Whether what is outside the run, but in its block, waits for the end of the run only."""
    outside = np.flatnonzero(~in_run).tolist()
    return all(u == last or not in_run[u] for index in outside for u in before[index])
