"""What the algorithms share: members by node, and messages between members turned into loads of links."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sim.spec.topology import Fabric, Floats, Ints


@dataclass(frozen=True)
class Edges:
    """Messages of a collective between the places of a group, the same in every group. Columns of equal length.

    source, target: places in the group's list of members.  bytes_per_byte: what goes from one to the other for each
    byte of the message. A pair of places may stand several times.
    """

    source: Ints
    target: Ints
    bytes_per_byte: Floats

    def __len__(self) -> int:
        return len(self.source)


@dataclass(frozen=True)
class Loads:
    """Bytes on links for each byte of the message, each (group, link) once, and the latencies of the messages.

    edge_latency_s: (groups, edges).
    """

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


def edge_latency_s(edges: Edges, members: Ints, fabric: Fabric) -> Floats:
    """Latency of each message of each group: (groups, edges)."""
    routes = fabric.routes(members[:, edges.source].ravel(), members[:, edges.target].ravel())
    return routes.latency_s.reshape(len(members), len(edges))


def loads(edges: Edges, members: Ints, fabric: Fabric) -> Loads:
    """Sum of the messages of each group, (groups, places), on each link, routed one by one."""
    num_groups = len(members)
    routes = fabric.routes(members[:, edges.source].ravel(), members[:, edges.target].ravel())
    num_links = len(fabric.links)
    group, link = np.repeat(np.arange(num_groups), len(edges))[routes.pair], routes.link
    each = routes.share * np.tile(edges.bytes_per_byte, num_groups)[routes.pair]
    # Most links carry one group, whose sum needs no sorting.
    owner = np.full(num_links, -1, dtype=np.int64)
    owner[link] = group
    has_several = np.zeros(num_links, dtype=bool)
    has_several[link[owner[link] != group]] = True
    several = np.flatnonzero(has_several[link])
    total = np.bincount(link, weights=each, minlength=num_links).astype(np.float64)
    single = np.flatnonzero((owner >= 0) & ~has_several)
    keys, place = np.unique(group[several] * num_links + link[several], return_inverse=True)
    shared = np.bincount(place, weights=each[several], minlength=len(keys)).astype(np.float64)
    return Loads(
        np.concatenate([owner[single], keys // num_links]),
        np.concatenate([single, keys % num_links]),
        np.concatenate([total[single], shared]),
        routes.latency_s.reshape(num_groups, len(edges)),
    )


def joined(parts: list[Edges]) -> Edges:
    """One after the other."""
    return Edges(
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
