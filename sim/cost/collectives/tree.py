"""Double binary trees between nodes, with a chain of the members inside each node."""

from __future__ import annotations

from typing import final

import numpy as np

from sim.cost.collectives import ALGORITHMS, Pattern
from sim.cost.collectives.edges import Edges, even_groups, joined, loads, members_per_node
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

    def pattern(self, op: str, members: Ints, fabric: Fabric) -> Pattern:
        """Loads of all chains and trees."""
        assert op in self.ops
        assert members.shape[1] > 1
        assert self.applies(members, fabric)
        (even,) = even_groups(members, fabric)
        is_rooted = op == "broadcast"
        blocks = _from_root(even.blocks, members[:, 0]) if is_rooted else even.blocks
        parents = tree_parents(blocks.shape[1])
        if is_rooted:
            parents = _under_first_node(parents)
        edges = _down_edges(blocks, parents, is_rooted=is_rooted)
        load = loads(edges if is_rooted else joined([edges, _reversed(edges)]), fabric)
        way_s = _longest_way_s(load.edge_latency_s[: len(edges.group)], blocks.shape, parents, is_rooted=is_rooted)
        return Pattern(load.group, load.link, load.bytes_per_byte, way_s if is_rooted else 2 * way_s)


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


def _down_edges(blocks: Ints, parents: Ints, *, is_rooted: bool) -> Edges:
    """Chain edges, (groups, nodes, k, k - 1) with S / k each, then tree edges, (groups, edges, k) with S / 2k each."""
    num_groups, num_nodes, per_node = blocks.shape
    chains = blocks[:, np.arange(num_nodes)[:, None, None], _chains(num_nodes, per_node, is_rooted=is_rooted)]
    tree, child = np.nonzero(parents >= 0)
    parts = [
        (chains[..., :-1], chains[..., 1:], 1 / per_node),
        (blocks[:, parents[tree, child]], blocks[:, child], 1 / (NUM_TREES * per_node)),
    ]
    return joined(
        [
            Edges(
                np.repeat(np.arange(num_groups), source.size // num_groups),
                source.ravel(),
                target.ravel(),
                np.full(source.size, bytes_per_byte),
            )
            for source, target, bytes_per_byte in parts
        ]
    )


def _reversed(edges: Edges) -> Edges:
    return Edges(edges.group, edges.target, edges.source, edges.bytes_per_byte)


def _longest_way_s(edge_latency_s: Floats, shape: tuple[int, ...], parents: Ints, *, is_rooted: bool) -> Floats:
    """Time for an empty message from the roots to the end of the last chain: (groups,).

    edge_latency_s: in the order of `_down_edges`.
    """
    num_groups, num_nodes, per_node = shape
    num_chain_edges = num_groups * num_nodes * per_node * (per_node - 1)
    chain_s = edge_latency_s[:num_chain_edges].reshape(num_groups, num_nodes, per_node, per_node - 1)
    tree, child = np.nonzero(parents >= 0)
    up_s = np.zeros((num_groups, NUM_TREES, num_nodes, per_node))
    up_s[:, tree, child] = edge_latency_s[num_chain_edges:].reshape(num_groups, len(child), per_node)
    way_s = np.zeros_like(up_s)
    if is_rooted:
        way_s[:, :, 1:, 1:] += chain_s[:, 0, 0].cumsum(axis=1)[:, None, None]
    parent_or_self = np.where(parents < 0, np.arange(num_nodes), parents)
    at = np.tile(np.arange(num_nodes), (NUM_TREES, 1))
    while (np.take_along_axis(parents, at, axis=1) >= 0).any():
        way_s += up_s[:, np.arange(NUM_TREES)[:, None], at]
        at = np.take_along_axis(parent_or_self, at, axis=1)
    longest: Floats = (way_s + chain_s.sum(axis=3)[:, None]).max(axis=(1, 2, 3))
    return longest


ALGORITHMS.register("tree")(Tree())
