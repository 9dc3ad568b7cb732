"""Rings of all members, one for each NIC that the members of a node have."""

from __future__ import annotations

from typing import final

import numpy as np

from sim.cost.collectives import ALGORITHMS, Pattern
from sim.cost.collectives.edges import Edges, even_groups, joined, loads
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

    def pattern(self, op: str, members: Ints, fabric: Fabric) -> Pattern:
        """Every edge of every ring carries the same bytes; a broadcast leaves out the edges into the first member."""
        size = members.shape[1]
        assert size > 1
        assert op in self.ops
        factor = bytes_per_edge(op, size)
        parts: list[Edges] = []
        shapes: list[tuple[Ints, tuple[int, ...]]] = []
        for even in even_groups(members, fabric):
            orders = ring_orders(even.blocks)
            source, target = orders, np.roll(orders, -1, axis=2)
            if op == "broadcast":
                source, target = _without_edges_into(members[even.rows, 0], source, target)
            group = np.broadcast_to(even.rows[:, None, None], source.shape)
            each = np.full(source.size, factor / orders.shape[1])
            parts.append(Edges(group.ravel(), source.ravel(), target.ravel(), each))
            shapes.append((even.rows, source.shape))
        load = loads(joined(parts), fabric)
        latency_s = factor * _around_s(load.edge_latency_s, shapes, len(members))
        return Pattern(load.group, load.link, load.bytes_per_byte, latency_s)


def _without_edges_into(root: Ints, source: Ints, target: Ints) -> tuple[Ints, Ints]:
    """Sources and targets, (groups, rings, members - 1), of the edges that do not end at the group's root."""
    kept = target != root[:, None, None]
    shape = (*source.shape[:2], source.shape[2] - 1)
    return source[kept].reshape(shape), target[kept].reshape(shape)


def _around_s(edge_latency_s: Floats, shapes: list[tuple[Ints, tuple[int, ...]]], num_groups: int) -> Floats:
    """Sum of the edges' latencies in the slowest ring of each group."""
    around = np.zeros(num_groups)
    start = 0
    for rows, shape in shapes:
        end = start + int(np.prod(shape))
        around[rows] = edge_latency_s[start:end].reshape(shape).sum(axis=2).max(axis=1)
        start = end
    return around


ALGORITHMS.register("ring")(Ring())
