"""An all_to_all that crosses the network on the sender's rail and is handed on over NVLink in the target's node."""

from __future__ import annotations

from typing import final

import numpy as np

from sim.cost.collectives import ALGORITHMS, Pattern
from sim.cost.collectives.edges import Edges, edge_latency_s, even_groups, joined, loads, members_per_node
from sim.spec.topology import Fabric, Floats, Ints


@final
class TwoLevel:
    """k members on each of N nodes: S / N to the member of one's own position on every other node, S / k to each other
    member of the node, of what came from all nodes.

    Latency: a network step, then an NVLink step. Source: DeepSeek-V3, arXiv 2412.19437, section 3.2.2 (InfiniBand to
    the GPU of the same index, then NVLink). A mixture of experts sends fewer bytes: `sim.cost.collectives.spread`.
    """

    ops = frozenset({"all_to_all"})

    def applies(self, members: Ints, fabric: Fabric) -> bool:
        """All groups on the same number of nodes, with equal shares of two members or more; on one node only NVLink
        is left of it."""
        per_node = members_per_node(members, fabric)
        return bool(per_node[0] > 1 and (per_node == per_node[0]).all())

    def latency_s(self, op: str, members: Ints, fabric: Fabric) -> Floats:
        """Of the slowest message of each level."""
        blocks = self._blocks(op, members, fabric)
        inside, between = _edges(*blocks.shape[1:])
        latency_s = edge_latency_s(joined([inside, between]), blocks.reshape(members.shape), fabric)
        return _latency_s(latency_s, len(inside))

    def pattern(self, op: str, members: Ints, fabric: Fabric) -> Pattern:
        """Loads of both levels."""
        blocks = self._blocks(op, members, fabric)
        inside, between = _edges(*blocks.shape[1:])
        load = loads(joined([inside, between]), blocks.reshape(members.shape), fabric)
        return Pattern(load.group, load.link, load.bytes_per_byte, _latency_s(load.edge_latency_s, len(inside)))

    def _blocks(self, op: str, members: Ints, fabric: Fabric) -> Ints:
        """Members by node: (groups, nodes, members of a node)."""
        assert op in self.ops
        assert self.applies(members, fabric)
        (even,) = even_groups(members, fabric)
        return even.blocks


def _edges(num_nodes: int, per_node: int) -> tuple[Edges, Edges]:
    """Messages inside the nodes, and between members of equal position."""
    node, position = (axis.ravel() for axis in np.indices((num_nodes, per_node)))
    node_in, one, other = (axis.ravel() for axis in np.indices((num_nodes, per_node, per_node)))
    is_other = one != other
    source, target = (node_in * per_node + one)[is_other], (node_in * per_node + other)[is_other]
    inside = Edges(source, target, np.full(len(source), 1 / per_node))
    sender = np.repeat(np.arange(num_nodes * per_node), num_nodes)
    at = np.tile(np.arange(num_nodes), num_nodes * per_node)
    is_remote = at != np.repeat(node, num_nodes)
    receiver = at * per_node + np.repeat(position, num_nodes)
    between = Edges(sender[is_remote], receiver[is_remote], np.full(int(is_remote.sum()), 1 / num_nodes))
    return inside, between


def _latency_s(latency_by_edge_s: Floats, num_inside: int) -> Floats:
    """(groups,), from (groups, edges) with those inside nodes first."""
    slowest: Floats = latency_by_edge_s[:, :num_inside].max(axis=1) + latency_by_edge_s[:, num_inside:].max(
        axis=1, initial=0.0
    )
    return slowest


ALGORITHMS.register("two_level")(TwoLevel())
