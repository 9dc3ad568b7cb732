"""Rings of all members, one for each NIC that the members of a node have."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import numpy as np

from sim.cost.collectives import ALGORITHMS, Pattern
from sim.cost.collectives.edges import Edges, edge_latency_s, even_groups, loads
from sim.spec.topology import Fabric, Floats, Ints


def ring_orders(blocks: Ints) -> Ints:
    """Order of the members in each ring: (groups, rings, members), from (groups, nodes, members of a node).

    With k members on a node there are k rings (one, where all members are on one node). In ring c, nodes of even
    number are entered at member c and left at c + 1, the others the other way round: every member sends to the next
    node in one ring, and, where the number of nodes is even, always to the member of its own position.
    """
    num_groups, num_nodes, per_node = blocks.shape
    channel = np.arange(per_node if num_nodes > 1 else 1)[:, None, None]
    is_even = np.arange(num_nodes)[:, None] % 2 == 0
    step = np.arange(per_node)
    position = np.where(is_even, channel - step, channel + 1 + step) % per_node
    place = (np.arange(num_nodes)[:, None] * per_node + position).reshape(len(channel), -1)
    orders: Ints = blocks.reshape(num_groups, -1)[:, place]
    return orders


def bytes_per_edge(op: str, size: int) -> float:
    """Bytes that one edge of a ring of `size` members carries for each byte of the message.

    An all_reduce passes each of `size` shards on 2 (size - 1) times, an all_gather or reduce_scatter size - 1 times; a
    broadcast passes the whole message once. Source: Patarasuk and Yuan, Bandwidth optimal all-reduce algorithms for
    clusters of workstations, JPDC 69 (2009).
    """
    if op == "broadcast":
        return 1.0
    rounds = 2 * (size - 1) if op == "all_reduce" else size - 1
    return rounds / size


@final
class Ring:
    """Each member passes shards to the next one.

    Latency is `bytes_per_edge` x the time for an empty message to go once around: 2 (n - 1) routes of equal latency for
    an all_reduce of n members, n - 1 for an all_gather, reduce_scatter or broadcast, as in NCCL's model
    (src/graph/tuning.cc, 2.30.7), of which the constant part of a launch is left out.
    """

    ops = frozenset({"all_reduce", "all_gather", "reduce_scatter", "broadcast"})

    def applies(self, members: Ints, fabric: Fabric) -> bool:  # noqa: ARG002 - the interface of all algorithms
        """Any groups."""
        return True

    def latency_s(self, op: str, members: Ints, fabric: Fabric) -> Floats:
        """Of the slowest ring."""
        latency_s = np.zeros(len(members))
        for rings in self._rings(op, members, fabric):
            latency_s[rings.rows] = rings.slowest_s(edge_latency_s(rings.edges, rings.members, fabric))
        return latency_s

    def pattern(self, op: str, members: Ints, fabric: Fabric) -> Pattern:
        """Every edge of every ring carries the same bytes; a broadcast leaves out the edges into the first member."""
        parts: list[tuple[Ints, Ints, Floats]] = []
        latency_s = np.zeros(len(members))
        for rings in self._rings(op, members, fabric):
            load = loads(rings.edges, rings.members, fabric)
            parts.append((rings.rows[load.group], load.link, load.bytes_per_byte))
            latency_s[rings.rows] = rings.slowest_s(load.edge_latency_s)
        group, link, bytes_per_byte = (np.concatenate(column) for column in zip(*parts, strict=True))
        return Pattern(group, link, bytes_per_byte, latency_s)

    def _rings(self, op: str, members: Ints, fabric: Fabric) -> Iterator[_Rings]:
        """Groups whose messages go between the same places."""
        size = members.shape[1]
        assert size > 1
        assert op in self.ops
        factor = bytes_per_edge(op, size)
        for even in even_groups(members, fabric):
            _, num_nodes, per_node = even.blocks.shape
            orders = ring_orders(np.arange(size).reshape(1, num_nodes, per_node))[0]
            places = even.blocks.reshape(-1, size)
            if op == "broadcast":
                for some, root in _by_root(places, members[even.rows, 0]):
                    edges, number = _edges(orders, per_node, factor, root)
                    yield _Rings(even.rows[some], places[some], edges, number, factor)
            else:
                edges, number = _edges(orders, per_node, factor, None)
                yield _Rings(even.rows, places, edges, number, factor)


@dataclass(frozen=True)
class _Rings:
    """Rings of groups that are alike.

    rows: which groups.  members: at their places, (rows, members).  edges: messages, those of one pair of places as
    one.  number: which of them each step of each ring is, (rings, steps).  factor: see `bytes_per_edge`.
    """

    rows: Ints
    members: Ints
    edges: Edges
    number: Ints
    factor: float

    def slowest_s(self, latency_by_edge_s: Floats) -> Floats:
        """Latency of the slowest ring of each group, (rows,), from those of the edges, (rows, edges)."""
        slowest: Floats = self.factor * latency_by_edge_s[:, self.number].sum(axis=2).max(axis=1)
        return slowest


def _by_root(members: Ints, root: Ints) -> list[tuple[Ints, int]]:
    """Groups, (groups, places), whose roots have the same place, and that place."""
    place = np.argmax(members == root[:, None], axis=1)
    return [(np.flatnonzero(place == at), at) for at in sorted(set(place.tolist()))]


def _edges(orders: Ints, per_node: int, factor: float, root: int | None) -> tuple[Edges, Ints]:
    """Messages of all rings, those of one pair of places as one, and which message each step of each ring is.

    Without the steps into `root`. A member sends to one other of its node in all rings but one, in which it sends to
    the next node. number: (rings, members of a ring), or one less.
    """
    num_rings, size = orders.shape
    leaves_node = np.arange(size) % per_node == per_node - 1
    slot = orders + np.where(leaves_node, size, 0)
    target = np.roll(orders, -1, axis=1)
    if root is not None:
        slot = slot[target != root].reshape(num_rings, size - 1)
        target = target[target != root].reshape(num_rings, size - 1)
    count = np.bincount(slot.ravel(), minlength=2 * size)
    kept = np.flatnonzero(count)
    target_of_slot = np.zeros(2 * size, dtype=np.int64)
    target_of_slot[slot] = target
    number = np.cumsum(count > 0)[slot] - 1
    return Edges(kept % size, target_of_slot[kept], count[kept] * (factor / num_rings)), number


ALGORITHMS.register("ring")(Ring())
