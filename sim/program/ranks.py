"""The operations of one pipeline rank over the whole step, as columns.

Blocks repeat with every micro-batch, so each distinct block is compiled once and stamped out by arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sim.program.operations import COMPUTE, STREAMS, Block, Payload
from sim.program.table import Action, Cell, actions_of
from sim.spec.topology import Ints

STREAM_INDEX = {name: index for index, name in enumerate(STREAMS)}


class Payloads:
    """Distinct payloads, numbered in the order in which they were first seen, and the blocks that were compiled."""

    def __init__(self) -> None:
        self.items: list[Payload] = []
        self._index: dict[Payload, int] = {}
        self._compiled: dict[int, _Compiled] = {}

    def index(self, payload: Payload) -> int:
        """Number of `payload`."""
        number = self._index.setdefault(payload, len(self.items))
        if number == len(self.items):
            self.items.append(payload)
        return number

    def compiled(self, block: Block) -> _Compiled:
        """The block as arrays; the same object is compiled once, and kept."""
        if id(block) not in self._compiled:
            self._compiled[id(block)] = _compile(block, self)
        return self._compiled[id(block)]


@dataclass(frozen=True)
class _Compiled:
    """A block as arrays; operations are counted from 0 within the block."""

    payload: Ints
    stream: Ints
    is_beside: NDArray[np.bool_]
    source: Ints
    target: Ints
    first: dict[int, int]
    last: dict[int, int]
    block: Block


@dataclass(frozen=True)
class RankTable:
    """Operations of a pipeline rank in issue order (columns `payload`, `stream`, `block`) and what they come after
    (edges source -> target). Operations are counted from 0 within the rank.

    is_beside: (operations,) communication that compute of its own rank may run beside.

    actions: the schedule's cell of each block; None for the end of the step.  shapes: number of the distinct block of
    a stage that each block repeats.
    entries: for each action, the operations that consume what its neighbour sent.  sends: for each action, its send.
    """

    payload: Ints
    stream: Ints
    block: Ints
    is_beside: NDArray[np.bool_]
    source: Ints
    target: Ints
    actions: tuple[Cell | None, ...]
    shapes: Ints
    entries: dict[Action, tuple[int, ...]]
    sends: dict[Action, int]


def _compile(block: Block, payloads: Payloads) -> _Compiled:
    """Edges are explicit ones and the order on each stream, without those that follow from others."""
    previous: dict[int, int] = {}
    first: dict[int, int] = {}
    ancestors: list[int] = []
    edges: list[tuple[int, int]] = []
    streams: list[int] = []
    for index, operation in enumerate(block.operations):
        stream = STREAM_INDEX[operation.payload.stream]
        after = set(operation.after)
        if stream in previous:
            after.add(previous[stream])
        else:
            first[stream] = index
        previous[stream] = index
        streams.append(stream)
        seen = 0
        for before in sorted(after, reverse=True):
            if not seen >> before & 1:
                edges.append((before, index))
                seen |= ancestors[before] | 1 << before
        ancestors.append(seen)
    table = np.array(edges, dtype=np.int64).reshape(-1, 2)
    numbers = [payloads.index(operation.payload) for operation in block.operations]
    return _Compiled(
        payload=np.array(numbers, dtype=np.int64),
        stream=np.array(streams, dtype=np.int64),
        is_beside=_may_run_beside_compute(streams, ancestors),
        source=table[:, 0],
        target=table[:, 1],
        first=first,
        last=previous,
        block=block,
    )


def _may_run_beside_compute(streams: list[int], ancestors: list[int]) -> NDArray[np.bool_]:
    """Communication of a block, unless it comes after the kernels issued before it and those issued after it wait."""
    compute = STREAM_INDEX[COMPUTE]
    is_beside: NDArray[np.bool_] = np.array(streams, dtype=np.int64) != compute
    before = -1
    issued: list[int] = []
    for index, stream in enumerate(streams):
        if stream != compute:
            if before >= 0 and ancestors[index] >> before & 1:
                issued.append(index)
            continue
        for other in issued:
            is_beside[other] = not ancestors[index] >> other & 1
        before, issued = index, []
    return is_beside


@dataclass
class _Joints:
    """Edges between blocks, found while walking over them."""

    prefetch: int
    edges: list[tuple[int, int]] = field(default_factory=list)
    last: dict[int, int] = field(default_factory=dict)
    tail: list[int] = field(default_factory=list)
    uses: list[int] = field(default_factory=list)

    def add(self, compiled: _Compiled, base: int, *, waits_for_all: bool) -> None:
        """Edges into the block that starts at operation `base`."""
        for stream, index in compiled.first.items():
            if stream in self.last:
                self.edges.append((self.last[stream], base + index))
        awaited = [*self.tail]
        if waits_for_all:
            awaited += self.last.values()
        elif STREAM_INDEX[COMPUTE] in self.last:
            awaited.append(self.last[STREAM_INDEX[COMPUTE]])
        self.edges += [(before, base + entry) for entry in compiled.block.entries for before in awaited]
        for gathers, end in compiled.block.uses:
            if len(self.uses) > self.prefetch:
                released_by = self.uses[-1 - self.prefetch]
                self.edges += [(released_by, base + gather) for gather in gathers]
            self.uses.append(base + end)
        self.tail = [base + index for index in compiled.block.tail]
        for stream, index in compiled.last.items():
            self.last[stream] = base + index


def _shapes(cells: Sequence[Cell | None], blocks: Sequence[Block]) -> Ints:
    """A number for each block, equal where the same block stands in the same stages, with the same neighbours."""
    number: dict[tuple[int, ...], int] = {}
    keys = [
        (id(block), *(() if cell is None else (action.stage for action in actions_of([cell]))))
        for cell, block in zip(cells, blocks, strict=True)
    ]
    return np.array([number.setdefault(key, len(number)) for key in keys], dtype=np.int64)


def rank_table(
    cells: Sequence[Cell | None], blocks: Sequence[Block], payloads: Payloads, *, prefetch: int
) -> RankTable:
    """Stamp out the blocks of a rank one after the other. The block of cell None waits for all that came before.

    prefetch: how many ZeRO-3 units are gathered ahead of the one that computes.
    """
    stamps = [payloads.compiled(block) for block in blocks]
    sizes = np.array([len(stamp.payload) for stamp in stamps], dtype=np.int64)
    bases = np.concatenate([[0], np.cumsum(sizes)])[:-1].tolist()
    joints = _Joints(prefetch)
    entries: dict[Action, tuple[int, ...]] = {}
    sends: dict[Action, int] = {}
    for cell, stamp, base in zip(cells, stamps, bases, strict=True):
        joints.add(stamp, base, waits_for_all=cell is None)
        if cell is not None:
            for action, send in zip(actions_of([cell]), stamp.block.sends, strict=True):
                entries[action] = tuple(base + entry for entry in stamp.block.entries)
                if send is not None:
                    sends[action] = base + send
    between = np.array(sorted(set(joints.edges)), dtype=np.int64).reshape(-1, 2)
    return RankTable(
        payload=np.concatenate([stamp.payload for stamp in stamps]),
        stream=np.concatenate([stamp.stream for stamp in stamps]),
        block=np.repeat(np.arange(len(stamps)), sizes),
        is_beside=np.concatenate([stamp.is_beside for stamp in stamps]),
        source=np.concatenate(
            [stamp.source + base for stamp, base in zip(stamps, bases, strict=True)] + [between[:, 0]]
        ),
        target=np.concatenate(
            [stamp.target + base for stamp, base in zip(stamps, bases, strict=True)] + [between[:, 1]]
        ),
        actions=tuple(cells),
        shapes=_shapes(cells, blocks),
        entries=entries,
        sends=sends,
    )
