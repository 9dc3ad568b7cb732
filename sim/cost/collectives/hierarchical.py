"""Reduce_scatter inside the nodes, a ring between nodes for each position, all_gather inside the nodes."""

from __future__ import annotations

from typing import final

import numpy as np

from sim.cost.collectives import ALGORITHMS, Pattern
from sim.cost.collectives.edges import Edges, edge_latency_s, even_groups, joined, loads, members_per_node
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

    def latency_s(self, op: str, members: Ints, fabric: Fabric) -> Floats:
        """Of both levels, one after the other."""
        blocks = self._blocks(op, members, fabric)
        edges = _edges(op, *blocks.shape[1:])
        return _latency_s(op, blocks, edge_latency_s(edges, blocks.reshape(members.shape), fabric))

    def pattern(self, op: str, members: Ints, fabric: Fabric) -> Pattern:
        """Loads of both levels of rings: inside nodes with S, between nodes with S / k."""
        blocks = self._blocks(op, members, fabric)
        load = loads(_edges(op, *blocks.shape[1:]), blocks.reshape(members.shape), fabric)
        return Pattern(load.group, load.link, load.bytes_per_byte, _latency_s(op, blocks, load.edge_latency_s))

    def _blocks(self, op: str, members: Ints, fabric: Fabric) -> Ints:
        """Members by node: (groups, nodes, members of a node)."""
        assert op in self.ops
        assert self.applies(members, fabric)
        (even,) = even_groups(members, fabric)
        return even.blocks


def _edges(op: str, num_nodes: int, per_node: int) -> Edges:
    """Both levels, (2, nodes, members of a node)."""
    places = np.arange(num_nodes * per_node).reshape(num_nodes, per_node)
    inside = bytes_per_edge(op, per_node)
    between = bytes_per_edge(op, num_nodes) / per_node
    return joined(
        [
            _ring_edges(places, np.roll(places, -1, axis=1), inside),
            _ring_edges(places, np.roll(places, -1, axis=0), between),
        ]
    )


def _latency_s(op: str, blocks: Ints, latency_by_edge_s: Floats) -> Floats:
    """(groups,), from the latencies of `_edges`, (groups, edges)."""
    num_groups, num_nodes, per_node = blocks.shape
    latency = latency_by_edge_s.reshape(num_groups, 2, num_nodes, per_node)
    inside = bytes_per_edge(op, per_node) * _slowest_s(latency[:, 0].sum(axis=2))
    return inside + bytes_per_edge(op, num_nodes) * _slowest_s(latency[:, 1].sum(axis=1))


def _ring_edges(source: Ints, target: Ints, bytes_per_byte: float) -> Edges:
    return Edges(source.ravel(), target.ravel(), np.full(source.size, bytes_per_byte))


def _slowest_s(around_s: Floats) -> Floats:
    """(groups, rings) to (groups,): a phase ends when its slowest ring does."""
    slowest: Floats = around_s.max(axis=1)
    return slowest


ALGORITHMS.register("hierarchical")(Hierarchical())
