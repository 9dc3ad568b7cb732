"""What the algorithms share: members by node, and messages between GPUs turned into loads of links."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sim.spec.topology import Fabric, Floats, Ints


@dataclass(frozen=True)
class Edges:
    """Messages of a collective. Columns of equal length.

    group, source GPU, target GPU, and the bytes that go from one to the other for each byte of the message.
    """

    group: Ints
    source: Ints
    target: Ints
    bytes_per_byte: Floats


@dataclass(frozen=True)
class Loads:
    """Bytes on links for each byte of the message, each (group, link) once, and the latency of each message, s."""

    group: Ints
    link: Ints
    bytes_per_byte: Floats
    edge_latency_s: Floats


@dataclass(frozen=True)
class EvenGroups:
    """Groups with the same number of members on each of their nodes.

    rows: which groups.  blocks: their members, (rows, nodes, members of a node), nodes in ascending order and
    members of a node in the group's order.
    """

    rows: Ints
    blocks: Ints


def loads(edges: Edges, fabric: Fabric) -> Loads:
    """Sum of the messages on each link, routed one by one."""
    routes = fabric.routes(edges.source, edges.target)
    num_links = len(fabric.links)
    group, link = edges.group[routes.pair], routes.link
    each = routes.share * edges.bytes_per_byte[routes.pair]
    # Most links carry one group, whose sum needs no sorting.
    owner = np.full(num_links, -1, dtype=np.int64)
    owner[link] = group
    has_several = np.zeros(num_links, dtype=bool)
    has_several[link[owner[link] != group]] = True
    several = has_several[link]
    alone = np.bincount(link[~several], weights=each[~several], minlength=num_links).astype(np.float64)
    single = np.flatnonzero((owner >= 0) & ~has_several)
    keys, place = np.unique(group[several] * num_links + link[several], return_inverse=True)
    shared = np.bincount(place, weights=each[several], minlength=len(keys)).astype(np.float64)
    return Loads(
        np.concatenate([owner[single], keys // num_links]),
        np.concatenate([single, keys % num_links]),
        np.concatenate([alone[single], shared]),
        routes.latency_s,
    )


def joined(parts: list[Edges]) -> Edges:
    """One after the other."""
    return Edges(
        np.concatenate([part.group for part in parts]),
        np.concatenate([part.source for part in parts]),
        np.concatenate([part.target for part in parts]),
        np.concatenate([part.bytes_per_byte for part in parts]),
    )


def even_groups(members: Ints, fabric: Fabric) -> Iterator[EvenGroups]:
    """The groups by how many nodes they are on. Those with unequal counts come last, each member as its own node.

    members: (groups, members of a group).
    """
    size = members.shape[1]
    by_node = np.argsort(fabric.node_of(members), axis=1, kind="stable")
    ordered = np.take_along_axis(members, by_node, axis=1)
    per_node = members_per_node(members, fabric)
    for count in sorted(set(per_node.tolist()), reverse=True):
        rows = np.flatnonzero(per_node == count)
        width = max(count, 1)
        yield EvenGroups(rows, ordered[rows].reshape(len(rows), size // width, width))


def members_per_node(members: Ints, fabric: Fabric) -> Ints:
    """Members that each group, (groups, members), has on each of its nodes; 0 where the counts differ."""
    size = members.shape[1]
    node = np.sort(fabric.node_of(members), axis=1)
    is_first = node[:, 1:] != node[:, :-1]
    num_nodes = 1 + is_first.sum(axis=1)
    per_node = size // num_nodes
    expected = np.arange(1, size) % per_node[:, None] == 0
    is_even = (is_first == expected).all(axis=1)
    even: Ints = np.where(is_even, per_node, 0)
    return even
