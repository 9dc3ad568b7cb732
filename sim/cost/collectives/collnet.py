"""CollNet: the switches of the network add what the nodes send, and multicast the sum (InfiniBand SHARP)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from sim.cost.collectives import ALGORITHMS, Pattern
from sim.cost.collectives.edges import Edges, edge_latency_s, even_groups, members_per_node
from sim.cost.collectives.edges import loads as loads_of
from sim.cost.collectives.nvls import switch_bytes_per_byte, switches_reduce
from sim.spec.topology import Fabric, Floats, Ints

DIRECT_STEPS = 31.0 / 14.0
"""Latency of a way through switches that add, over that of a network step with Simple (CollNetDirect, 31 and 14 us;
NCCL 2.30.7, src/graph/tuning.cc)."""

NVLS_STEPS = 1.0
"""The same where NVSwitches add inside the nodes, over that of a step of NVLSTree. NCCL has 18 and 20.9 us (same
source), but no way is shorter than its hops."""


@final
class CollNet:
    """k members on each of N nodes: each sends a k-th of its node's sum up a tree of switches and gets the total.

    Inside the nodes NVSwitches add and multicast as for `nvls` where they can; else every member sends each other one
    its part, before and after (NCCL's CollNetDirect), 2 (k - 1) / k bytes for each byte. Between them S / k bytes pass
    once each way over every link of a position's tree, however many nodes are below it: a ring would pass nearly twice
    as many. Latency: two rounds inside a node and one way up and down the network.
    Source: Graham et al., Scalable Hierarchical Aggregation Protocol (SHARP), COMHPC 2016, section III; NCCL's
    src/transport/coll_net.cc and src/device/all_reduce.h. Error: not measured. The tree has the links that messages
    between its nodes take (all spines, where routes spread), also where a hash would choose them one by one.
    """

    ops = frozenset({"all_reduce"})

    def applies(self, members: Ints, fabric: Fabric) -> bool:
        """All groups on the same number of nodes, two or more, with equal shares, and switches that reduce."""
        nccl = fabric.links.nccl
        per_node = members_per_node(members, fabric)
        is_even = bool(0 < per_node[0] < members.shape[1] and (per_node == per_node[0]).all())
        return nccl is not None and nccl.sharp and is_even

    def latency_s(self, op: str, members: Ints, fabric: Fabric) -> Floats:
        """Of both rounds inside the nodes and the way over the longest of the trees' routes."""
        parts = self._parts(op, members, fabric)
        between_s = edge_latency_s(parts.between, parts.members, fabric).max(axis=1)
        whole: Floats = self._rounds_s(parts, fabric) + parts.steps * between_s
        return whole

    def pattern(self, op: str, members: Ints, fabric: Fabric) -> Pattern:
        """Loads inside the nodes and of the trees of all positions."""
        parts = self._parts(op, members, fabric)
        inside = loads_of(parts.inside, parts.members, fabric)
        group, link, share = _trees(parts, fabric)
        num_links = len(fabric.links)
        keys, place = np.unique(
            np.concatenate([inside.group, group]) * num_links + np.concatenate([inside.link, link]), return_inverse=True
        )
        each = np.concatenate([inside.bytes_per_byte, share / parts.per_node])
        total = np.bincount(place, weights=each, minlength=len(keys)).astype(np.float64)
        return Pattern(keys // num_links, keys % num_links, total, self.latency_s(op, members, fabric))

    def _rounds_s(self, parts: _Parts, fabric: Fabric) -> Floats:
        """Two rounds inside the nodes, (groups,)."""
        if parts.per_node == 1:
            return np.zeros(len(parts.members))
        rounds: Floats = 2 * edge_latency_s(parts.inside, parts.members, fabric).max(axis=1)
        return rounds

    def _parts(self, op: str, members: Ints, fabric: Fabric) -> _Parts:
        assert op in self.ops
        assert self.applies(members, fabric)
        (even,) = even_groups(members, fabric)
        num_nodes, per_node = even.blocks.shape[1:]
        places = np.arange(num_nodes * per_node).reshape(num_nodes, per_node)
        has_nvls = switches_reduce(fabric) and per_node > 1
        inside = _ports(places) if has_nvls else _pairs(places)
        between = Edges(places.ravel(), np.roll(places, -1, axis=0).ravel(), np.ones(places.size))
        steps = NVLS_STEPS if has_nvls else DIRECT_STEPS
        return _Parts(even.blocks.reshape(members.shape), per_node, inside, between, steps)


@dataclass(frozen=True)
class _Parts:
    """A collective's two levels, the same in all groups.

    members: at their places, (groups, nodes x k), node by node.  inside: messages inside nodes.  between: from each
    node to the next, (nodes, k), whose routes together are the tree of each position, up and down.  steps: latency of
    the tree over that of its routes.
    """

    members: Ints
    per_node: int
    inside: Edges
    between: Edges
    steps: float


def _ports(places: Ints) -> Edges:
    """Ports up of one member and down of the next, with an all_reduce in the NVSwitches. places: (nodes, k)."""
    load = np.full(places.size, switch_bytes_per_byte(places.shape[1]))
    return Edges(places.ravel(), np.roll(places, -1, axis=1).ravel(), load)


def _pairs(places: Ints) -> Edges:
    """Every member of a node to every other one, S / k before the network's sum and S / k after it."""
    per_node = places.shape[1]
    source, target = np.nonzero(~np.eye(per_node, dtype=bool))
    return Edges(places[:, source].ravel(), places[:, target].ravel(), np.full(len(places) * len(source), 2 / per_node))


def _trees(parts: _Parts, fabric: Fabric) -> tuple[Ints, Ints, Floats]:
    """Rows (group, link, bytes for each byte of a position's part): once, whichever routes of a position share a link.

    A (group, link) stands once for each position that uses it.
    """
    num_links = len(fabric.links)
    source, target = (parts.members[:, end].ravel() for end in (parts.between.source, parts.between.target))
    routes = fabric.routes(source, target)
    group, edge = np.divmod(routes.pair, len(parts.between))
    tree = group * parts.per_node + edge % parts.per_node
    keys, place = np.unique(tree * num_links + routes.link, return_inverse=True)
    share = np.zeros(len(keys))
    np.maximum.at(share, place, routes.share)
    return keys // num_links // parts.per_node, keys % num_links, share


ALGORITHMS.register("collnet")(CollNet())
