"""Double binary trees between nodes, with a chain of the members inside each node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from sim.cost.collectives import ALGORITHMS, Pattern
from sim.cost.collectives.edges import Edges, edge_latency_s, even_groups, joined, loads, members_per_node
from sim.spec.topology import Fabric, Floats, Ints

NUM_TREES = 2


def tree_parents(num_nodes: int) -> Ints:
    """Parent of each node in the two trees, (2, nodes); -1 for a root.

    In the first tree a node's distance to its parent is its lowest set bit. The second is the first mirrored
    (for an even number of nodes) or shifted by one (odd), so that hardly any node has children in both.
    Source: Sanders, Speck and Traeff, Two-tree algorithms for full bandwidth broadcast, reduction and scan, Parallel
    Computing 35 (2009), in the form of NCCL's src/graph/trees.cc.

    >>> tree_parents(4)
    array([[-1,  2,  0,  2],
           [ 1,  3,  1, -1]])
    """
    first = _binary_tree(num_nodes)
    nodes = np.arange(num_nodes)
    other = nodes[::-1] if num_nodes % 2 == 0 else np.roll(nodes, 1)
    second = np.full(num_nodes, -1)
    number = np.argsort(other)
    has_parent = first[other] >= 0
    second[has_parent] = number[first[other][has_parent]]
    return np.stack([first, second])


def _binary_tree(num_nodes: int) -> Ints:
    node = np.arange(num_nodes)
    bit = node & -node
    up = (node ^ bit) | (bit << 1)
    parent = np.where(up < num_nodes, up, node ^ bit)
    parent[0] = -1
    return parent


@final
class Tree:
    """k members on each of N nodes: 2k trees with S / 2k bytes each, the c-th member at the node's head in two of them.

    An all_reduce sends its share up every edge and down again; a broadcast, from the group's first member, down only.
    Latency: the longest way down, twice for an all_reduce: 2 ((k - 1) NVLink + floor(log2 N) network) routes, as in
    NCCL's model (src/graph/tuning.cc, 2.30.7), of which the constant part of a launch is left out. Error: NCCL expects
    0.5 to 0.9 of the tree's rate below 16 MiB; left out.
    """

    ops = frozenset({"all_reduce", "broadcast"})

    def applies(self, members: Ints, fabric: Fabric) -> bool:
        """All groups on the same number of nodes with equal shares."""
        per_node = members_per_node(members, fabric)
        return bool(per_node[0] > 0 and (per_node == per_node[0]).all())

    def latency_s(self, op: str, members: Ints, fabric: Fabric) -> Floats:
        """Of the longest way down; twice for an all_reduce."""
        trees = self._trees(op, members, fabric)
        return trees.latency_s(edge_latency_s(trees.down, trees.members, fabric))

    def pattern(self, op: str, members: Ints, fabric: Fabric) -> Pattern:
        """Loads of all chains and trees."""
        trees = self._trees(op, members, fabric)
        down = trees.down
        edges = down if trees.is_rooted else joined([down, Edges(down.target, down.source, down.bytes_per_byte)])
        load = loads(edges, trees.members, fabric)
        latency_s = trees.latency_s(load.edge_latency_s[:, : len(down)])
        return Pattern(load.group, load.link, load.bytes_per_byte, latency_s)

    def _trees(self, op: str, members: Ints, fabric: Fabric) -> _Trees:
        assert op in self.ops
        assert members.shape[1] > 1
        assert self.applies(members, fabric)
        (even,) = even_groups(members, fabric)
        is_rooted = op == "broadcast"
        blocks = _from_root(even.blocks, members[:, 0]) if is_rooted else even.blocks
        num_nodes, per_node = blocks.shape[1:]
        parents = tree_parents(num_nodes)
        if is_rooted:
            parents = _under_first_node(parents)
        chain, number = _chain_edges(num_nodes, per_node, is_rooted=is_rooted)
        down = joined([chain, tree_edges(parents, per_node)])
        return _Trees(blocks.reshape(members.shape), down, number, parents, is_rooted)


@dataclass(frozen=True)
class _Trees:
    """Trees and chains, the same in all groups.

    members: at their places, (groups, members).  down: messages away from the roots, of chains and then of trees.
    number: which message each step of each chain is, (nodes, k, k - 1).  parents: see `tree_parents`.
    is_rooted: of a broadcast.
    """

    members: Ints
    down: Edges
    number: Ints
    parents: Ints
    is_rooted: bool

    def latency_s(self, latency_by_edge_s: Floats) -> Floats:
        """(groups,), from the latencies of `down`, (groups, edges)."""
        per_node = self.number.shape[1]
        num_tree_edges = int((self.parents >= 0).sum()) * per_node
        chain_s = latency_by_edge_s[:, self.number]
        tree_s = latency_by_edge_s[:, len(self.down) - num_tree_edges :]
        way_s = _longest_way_s(chain_s, tree_s, self.parents, is_rooted=self.is_rooted)
        return way_s if self.is_rooted else 2 * way_s


def _from_root(blocks: Ints, root: Ints) -> Ints:
    """The members with nodes and positions turned so that each group's root is [0, 0]; positions stay aligned."""
    num_groups, num_nodes, per_node = blocks.shape
    place = np.argmax(blocks.reshape(num_groups, -1) == root[:, None], axis=1)
    node = (place[:, None] // per_node + np.arange(num_nodes)) % num_nodes
    position = (place[:, None] % per_node + np.arange(per_node)) % per_node
    turned: Ints = blocks[np.arange(num_groups)[:, None, None], node[:, :, None], position[:, None, :]]
    return turned


def _under_first_node(parents: Ints) -> Ints:
    """Both trees fed by node 0: it has no parent, and what was the root of the second tree is its child."""
    rooted = np.where(parents < 0, 0, parents)
    rooted[:, 0] = -1
    return rooted


def _chains(num_nodes: int, per_node: int, *, is_rooted: bool) -> Ints:
    """Positions along the chain of each (node, channel), (nodes, k, k).

    Channel c starts at its head c. In a broadcast the first node's chains start at the root and pass by the heads.
    """
    start = np.tile(np.arange(per_node), (num_nodes, 1))
    if is_rooted:
        start[0] = 0
    chains: Ints = (start[:, :, None] + np.arange(per_node)) % per_node
    return chains


def _chain_edges(num_nodes: int, per_node: int, *, is_rooted: bool) -> tuple[Edges, Ints]:
    """Messages of S / k for each chain that passes, those from one member to the next as one.

    Second: which message each step of each chain is, (nodes, k, k - 1).
    """
    first = np.arange(num_nodes)[:, None, None] * per_node
    source = first + _chains(num_nodes, per_node, is_rooted=is_rooted)[:, :, :-1]
    count = np.bincount(source.ravel(), minlength=num_nodes * per_node)
    kept = np.flatnonzero(count)
    target = kept // per_node * per_node + (kept + 1) % per_node
    return Edges(kept, target, count[kept] / per_node), np.cumsum(count > 0)[source] - 1


def tree_edges(parents: Ints, per_node: int) -> Edges:
    """From each parent to its child, (edges of both trees, k), S / 2k each."""
    tree, child = np.nonzero(parents >= 0)
    position = np.arange(per_node)
    source = parents[tree, child][:, None] * per_node + position
    target = child[:, None] * per_node + position
    return Edges(source.ravel(), target.ravel(), np.full(source.size, 1 / (NUM_TREES * per_node)))


def _longest_way_s(chain_step_s: Floats, tree_edge_s: Floats, parents: Ints, *, is_rooted: bool) -> Floats:
    """Time for an empty message from the roots to the end of the last chain: (groups,).

    chain_step_s: (groups, nodes, k, k - 1).  tree_edge_s: (groups, edges of both trees x k).
    """
    num_groups, num_nodes, per_node = chain_step_s.shape[:3]
    first_s = np.zeros((num_groups, NUM_TREES, num_nodes, per_node))
    if is_rooted:
        first_s[:, :, 1:, 1:] += chain_step_s[:, 0, 0].cumsum(axis=1)[:, None, None]
    way_s = first_s + way_up_s(tree_edge_s, parents, per_node)
    longest: Floats = (way_s + chain_step_s.sum(axis=3)[:, None]).max(axis=(1, 2, 3))
    return longest


def way_up_s(tree_edge_s: Floats, parents: Ints, per_node: int) -> Floats:
    """Latency between each head and the root of each of its trees: (groups, trees, nodes, k).

    tree_edge_s: of `tree_edges`, (groups, edges).
    """
    num_groups, num_nodes = len(tree_edge_s), parents.shape[1]
    tree, child = np.nonzero(parents >= 0)
    up_s = np.zeros((num_groups, NUM_TREES, num_nodes, per_node))
    up_s[:, tree, child] = tree_edge_s.reshape(num_groups, len(child), per_node)
    way_s = np.zeros_like(up_s)
    parent_or_self = np.where(parents < 0, np.arange(num_nodes), parents)
    at = np.tile(np.arange(num_nodes), (NUM_TREES, 1))
    while (np.take_along_axis(parents, at, axis=1) >= 0).any():
        way_s += up_s[:, np.arange(NUM_TREES)[:, None], at]
        at = np.take_along_axis(parent_or_self, at, axis=1)
    return way_s


ALGORITHMS.register("tree")(Tree())
