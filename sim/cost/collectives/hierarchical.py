"""Reduce_scatter inside the nodes, a ring between nodes for each position, all_gather inside the nodes."""

from __future__ import annotations

from typing import final

import numpy as np

from sim.cost.collectives import ALGORITHMS, Pattern
from sim.cost.collectives.edges import Edges, even_groups, joined, loads, members_per_node
from sim.cost.collectives.ring import bytes_per_edge
from sim.spec.topology import Fabric, Floats, Ints


@final
class Hierarchical:
    """Two levels of rings: S bytes over the k members of a node, S / k bytes over the N nodes for each position.

    The message is cut into chunks that follow each other through the phases, so that all phases load their links at
    once and the collective is one transfer whose loads are the sums. Latency is that of the phases one after the
    other. Source: the two-level all-reduce of Jia et al., arXiv 1807.11205, section 3.3. Error: the time to fill and
    drain the pipeline of chunks is left out (a chunk of every phase but the slowest).
    """

    ops = frozenset({"all_reduce", "all_gather", "reduce_scatter"})

    def applies(self, members: Ints, fabric: Fabric) -> bool:
        """All groups on the same number of nodes, two or more, with equal shares of two members or more."""
        per_node = members_per_node(members, fabric)
        return bool(per_node[0] > 1 and per_node[0] < members.shape[1] and (per_node == per_node[0]).all())

    def pattern(self, op: str, members: Ints, fabric: Fabric) -> Pattern:
        """Loads of both levels of rings: inside nodes with S, between nodes with S / k."""
        assert op in self.ops
        assert self.applies(members, fabric)
        (even,) = even_groups(members, fabric)
        num_groups, num_nodes, per_node = even.blocks.shape
        inside = bytes_per_edge(op, per_node)
        between = bytes_per_edge(op, num_nodes)
        load = loads(
            joined(
                [
                    _ring_edges(even.blocks, np.roll(even.blocks, -1, axis=2), inside),
                    _ring_edges(even.blocks, np.roll(even.blocks, -1, axis=1), between / per_node),
                ]
            ),
            fabric,
        )
        latency = load.edge_latency_s.reshape(2, num_groups, num_nodes, per_node)
        latency_s = inside * _slowest_s(latency[0].sum(axis=2)) + between * _slowest_s(latency[1].sum(axis=1))
        return Pattern(load.group, load.link, load.bytes_per_byte, latency_s)


def _ring_edges(source: Ints, target: Ints, bytes_per_byte: float) -> Edges:
    group = np.broadcast_to(np.arange(len(source))[:, None, None], source.shape)
    return Edges(group.ravel(), source.ravel(), target.ravel(), np.full(source.size, bytes_per_byte))


def _slowest_s(around_s: Floats) -> Floats:
    """(groups, rings) to (groups,): a phase ends when its slowest ring does."""
    slowest: Floats = around_s.max(axis=1)
    return slowest


ALGORITHMS.register("hierarchical")(Hierarchical())
