"""NVLSTree: the switches of each node reduce, and double binary trees join the nodes."""

from __future__ import annotations

from typing import final

import numpy as np

from sim.cost.collectives import ALGORITHMS, Pattern
from sim.cost.collectives.edges import Edges, edge_latency_s, even_groups, joined, loads, members_per_node
from sim.cost.collectives.nvls import switch_bytes_per_byte, switches_reduce
from sim.cost.collectives.tree import tree_edges, tree_parents, way_up_s
from sim.spec.topology import Fabric, Floats, Ints


@final
class NvlsTree:
    """k members on each of N nodes: each holds a k-th of the node's sum, which goes up and down two trees of its own.

    Loads: the ports to the switch as `nvls` with k members, and S / 2k up and down every edge of 2k trees. Latency: up
    to the switch, up and down the deepest tree, and to the switch again. Source: NCCL's src/device/all_reduce.h
    (RunWorkColl for NVLS_TREE) and src/graph/tuning.cc, 2.30.7.
    """

    ops = frozenset({"all_reduce"})

    def applies(self, members: Ints, fabric: Fabric) -> bool:
        """All groups on the same number of nodes, two or more, with equal shares of two members or more."""
        per_node = members_per_node(members, fabric)
        is_even = bool(1 < per_node[0] < members.shape[1] and (per_node == per_node[0]).all())
        return switches_reduce(fabric) and is_even

    def latency_s(self, op: str, members: Ints, fabric: Fabric) -> Floats:
        """Of the deepest tree, up and down, between two rounds over the switch."""
        blocks = self._blocks(op, members, fabric)
        inside, down = _edges(*blocks.shape[1:])
        return _latency_s(blocks, edge_latency_s(joined([inside, down]), blocks.reshape(members.shape), fabric))

    def pattern(self, op: str, members: Ints, fabric: Fabric) -> Pattern:
        """Loads of the switches and of all trees."""
        blocks = self._blocks(op, members, fabric)
        inside, down = _edges(*blocks.shape[1:])
        up = Edges(down.target, down.source, down.bytes_per_byte)
        load = loads(joined([inside, down, up]), blocks.reshape(members.shape), fabric)
        latency_s = _latency_s(blocks, load.edge_latency_s[:, : len(inside) + len(down)])
        return Pattern(load.group, load.link, load.bytes_per_byte, latency_s)

    def _blocks(self, op: str, members: Ints, fabric: Fabric) -> Ints:
        """Members by node: (groups, nodes, members of a node)."""
        assert op in self.ops
        assert self.applies(members, fabric)
        (even,) = even_groups(members, fabric)
        return even.blocks


def _edges(num_nodes: int, per_node: int) -> tuple[Edges, Edges]:
    """Ports to the switches, and trees from parent to child."""
    places = np.arange(num_nodes * per_node).reshape(num_nodes, per_node)
    ports = np.full(places.size, switch_bytes_per_byte(per_node))
    inside = Edges(places.ravel(), np.roll(places, -1, axis=1).ravel(), ports)
    return inside, tree_edges(tree_parents(num_nodes), per_node)


def _latency_s(blocks: Ints, latency_by_edge_s: Floats) -> Floats:
    """(groups,), from the latencies of both parts of `_edges`, (groups, edges)."""
    num_groups, num_nodes, per_node = blocks.shape
    inside = num_nodes * per_node
    parents = tree_parents(num_nodes)
    climb_s = way_up_s(latency_by_edge_s[:, inside:], parents, per_node).reshape(num_groups, -1).max(axis=1)
    around: Floats = 2 * (latency_by_edge_s[:, :inside].max(axis=1) + climb_s)
    return around


ALGORITHMS.register("nvls_tree")(NvlsTree())
