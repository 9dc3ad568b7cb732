"""The program of a step: operations of every simulated rank, how many ranks each stands for, and what they share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sim.program.flows import Flows
from sim.program.operations import Payload
from sim.program.table import Cell
from sim.spec.topology import Floats, Ints


@dataclass(frozen=True)
class SimulatedRank:
    """One rank of the step that is played, and the real ranks that it stands for.

    rank: the first of them.  pp_rank: their place in the pipeline.  count: how many they are.
    first, end: its slots in the program's columns.  actions: the schedule's cell of each of its blocks.
    shapes: (blocks,) number of the distinct block that each of them repeats.
    """

    rank: int
    pp_rank: int
    count: int
    first: int
    end: int
    actions: tuple[Cell | None, ...]
    shapes: Ints


@dataclass(frozen=True)
class Program:
    """Operations as columns; a slot is one operation on one stream of one simulated rank.

    payload, stream, rank, block: (slots,) index into `payloads`, `STREAMS`, `ranks`, and the rank's actions.
    node: (slots,) the slot that stands for the operation as a whole: a collective is one node, joined by the slots of
    all simulated members; every other slot is its own node.
    flow: (slots,) index into `flows`, -1 for compute.
    source, target: (edges,) nodes: the target starts when all its sources are done. They include each stream's order.
    receiver: (slots,) the simulated rank that a send goes to, -1 elsewhere.
    is_beside: (slots,) communication that compute may run beside, on its own rank or the receiver's.
    pace: (slots,) factor on the time of kernels: slow GPUs, jitter.
    is_irregular: whether blocks that do the same may take different times, as with jitter of every operation.
    """

    payloads: tuple[Payload, ...]
    ranks: tuple[SimulatedRank, ...]
    payload: Ints
    stream: Ints
    rank: Ints
    block: Ints
    node: Ints
    flow: Ints
    source: Ints
    target: Ints
    receiver: Ints
    is_beside: NDArray[np.bool_]
    pace: Floats
    is_irregular: bool
    flows: Flows
    fidelity: str

    @cached_property
    def hops(self) -> Ints:
        """Slots of sends."""
        found: Ints = np.flatnonzero(self.receiver >= 0)
        return found

    @cached_property
    def by_target(self) -> Ints:
        """Edges in the order of their targets."""
        order: Ints = np.argsort(self.target, kind="stable")
        return order

    def nodes(self) -> Ints:
        """Slots that stand for an operation."""
        own: Ints = np.flatnonzero(self.node == np.arange(len(self.node)))
        return own

    def num_operations(self) -> int:
        """Operations of the real step: every slot times the ranks that it stands for."""
        return sum(rank.count * (rank.end - rank.first) for rank in self.ranks)

    def label(self, slot: int) -> str:
        """What the slot is, for messages: rank, action, payload."""
        rank = self.ranks[self.rank[slot]]
        action = rank.actions[self.block[slot]]
        payload = self.payloads[self.payload[slot]]
        return f"rank {rank.rank} {action or 'end of step'}: {payload.label}"
