"""The cluster, folded: one node for all GPUs, NICs or switches that cannot be told apart.

Two nodes are alike when they are of one kind and have the same number of links of each sort to and from nodes that are
alike: the coarsest stable partition, found on the integer tables. The full graph (`sim.spec.topology.graph`) is never
built.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sim.spec.colours import Partition, bags, number, partition, refined, salts
from sim.spec.topology import Fabric, Ints, Links

if TYPE_CHECKING:
    import networkx as nx


@dataclass(frozen=True)
class NodeClass:
    """Nodes of the fabric that are alike. name: of the first one.  count: how many they are."""

    name: str
    kind: str
    count: int


@dataclass(frozen=True)
class LinkClass:
    """Links of one sort from the nodes of one class to those of another.

    source, target: names of the classes.  count: links of one source node.  total: links of all of them.  The rest as
    in `Links`, of each link.
    """

    source: str
    target: str
    count: int
    total: int
    bytes_per_s: float
    wire_bytes_per_s: float
    latency_s: float
    tier: str


def classes(fabric: Fabric) -> tuple[list[NodeClass], list[LinkClass]]:
    """The fabric's nodes and links by class, in the order of their first members."""
    names = fabric.node_names()
    kinds = [name.rstrip("0123456789") for name in names]
    number_by_kind = {kind: place for place, kind in enumerate(dict.fromkeys(kinds))}
    sort = _sorts(fabric.links)
    node = _refine(np.array([number_by_kind[kind] for kind in kinds]), fabric.links, sort)
    counts = node.counts().tolist()
    nodes = [NodeClass(names[first], kinds[first], counts[own]) for own, first in enumerate(node.first.tolist())]
    return nodes, _link_classes(nodes, node, fabric.links, sort)


def quotient(fabric: Fabric) -> nx.MultiDiGraph:
    """The fabric's classes as a NetworkX graph: a directed one, in which a pair may have links of several sorts.

    Nodes are named after their first members and carry `kind` and `count`. Edges carry `count`, the links that one node
    of the source has to nodes of the target, `total`, bytes_per_s, wire_bytes_per_s, latency_s and tier.
    """
    import networkx as nx  # noqa: PLC0415 - slow to import, and only pictures, tests and exports ask for a graph

    nodes, links = classes(fabric)
    built = nx.MultiDiGraph()
    for node in nodes:
        built.add_node(node.name, kind=node.kind, count=node.count)
    for link in links:
        built.add_edge(
            link.source,
            link.target,
            count=link.count,
            total=link.total,
            bytes_per_s=link.bytes_per_s,
            wire_bytes_per_s=link.wire_bytes_per_s,
            latency_s=link.latency_s,
            tier=link.tier,
        )
    return built


def _sorts(links: Links) -> Partition:
    """Links by what they are alone: rates, latency and tier."""
    columns = (links.bytes_per_s, links.wire_bytes_per_s, links.latency_s)
    return partition(links.tier, *(number(column) for column in columns))


def _refine(kind: Ints, links: Links, sort: Partition) -> Partition:
    """Coarsest stable partition of the nodes that starts from their kinds, (nodes,)."""
    salt = salts(sort.number)
    node = partition(kind)
    while True:
        leaving = bags(len(kind), links.source, node, links.target, salt)
        arriving = bags(len(kind), links.target, node, links.source, salt)
        finer = refined(node, leaving, arriving)
        if len(finer) == len(node):
            return node
        node = finer


def _link_classes(nodes: list[NodeClass], node: Partition, links: Links, sort: Partition) -> list[LinkClass]:
    """Links of the first node of each class tell those of all."""
    is_told = np.zeros(len(node.number), dtype=bool)
    is_told[node.first] = True
    rows = np.flatnonzero(is_told[links.source])
    source, target = node.number[links.source[rows]], node.number[links.target[rows]]
    alike = partition(source, target, sort.number[rows])
    found = []
    for row, count in zip(alike.first.tolist(), alike.counts().tolist(), strict=True):
        link, near, far = rows[row], nodes[source[row]], nodes[target[row]]
        found.append(
            LinkClass(
                source=near.name,
                target=far.name,
                count=count,
                total=count * near.count,
                bytes_per_s=float(links.bytes_per_s[link]),
                wire_bytes_per_s=float(links.wire_bytes_per_s[link]),
                latency_s=float(links.latency_s[link]),
                tier=links.tiers[links.tier[link]],
            )
        )
    return found
