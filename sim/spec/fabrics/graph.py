"""A user's own graph: any nodes and edges, with routes over the fewest hops."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Self, final

import numpy as np
from pydantic import model_validator
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from sim.spec.fabrics.cluster import check_size
from sim.spec.fabrics.graph_file import GPU, Graph
from sim.spec.fabrics.tables import Part, Table, routes_of
from sim.spec.quantity import Count
from sim.spec.sourced import numbers
from sim.spec.topology import FABRICS, FabricSpec, Ints, Links, Routes

MAX_CELLS = 2**22
"""Distances and reached links that are held at once."""


@FABRICS.register("graph")
class OwnGraph(FabricSpec):
    """The graph of a file or of the topology itself; `gpus_per_node` neighbouring GPUs are a node.

    Bytes of a pair take the paths of fewest hops; at each node they split evenly over the next hops of such paths, as
    equal-cost routing does.
    """

    gpus_per_node: Count
    graph: Graph

    @model_validator(mode="after")
    def _is_a_cluster(self) -> Self:
        num_gpus = sum(node.kind == GPU for node in self.graph.nodes)
        if num_gpus % self.gpus_per_node:
            raise ValueError(
                f"gpus_per_node must divide the GPUs of the graph (got {self.gpus_per_node} of {num_gpus})"
            )
        check_size(num_gpus)
        links, size = self._links(), len(self.graph.nodes)
        joins = csr_array((np.ones(len(links)), (links.source, links.target)), shape=(size, size))
        num_parts, part = connected_components(joins, directed=True, connection="strong")
        if num_parts > 1:
            apart = self._ordered()[int(np.argmax(part != part[0]))]
            raise ValueError(
                f"the graph is in parts: node {apart!r} and {self._ordered()[0]!r} do not reach each other"
            )
        return self

    def facts(self) -> Collection[str]:
        """The graph as one, and the number beside it."""
        return [*numbers(self), "graph"]

    def build(self) -> Table:
        """GPUs first, in the order of the file, then the other kinds, one after the other."""
        links = self._links()
        counts = dict.fromkeys([GPU, *(node.kind for node in self.graph.nodes)], 0)
        for node in self.graph.nodes:
            counts[node.kind] += 1
        return Table(self.gpus_per_node, counts, links, Shortest(links, len(self.graph.nodes)).routes)

    def _ordered(self) -> list[str]:
        """Ids in the order of the node numbers."""
        kinds = list(dict.fromkeys([GPU, *(node.kind for node in self.graph.nodes)]))
        return [node.id for kind in kinds for node in self.graph.nodes if node.kind == kind]

    def _links(self) -> Links:
        number = {node: place for place, node in enumerate(self._ordered())}
        kind = {node.id: node.kind for node in self.graph.nodes}
        edges = self.graph.edges
        ways = 1 if self.graph.directed else 2
        names = [edge.tier or "_".join(sorted((kind[edge.source], kind[edge.target]))) for edge in edges]
        tiers = tuple(dict.fromkeys(names))
        ends = [np.array([number[end] for end in column], dtype=np.int64) for column in self._ends()]
        wire = np.array([edge.bytes_per_s for edge in edges])
        return Links(
            source=np.concatenate(ends[:ways]),
            target=np.concatenate(ends[::-1][:ways]),
            bytes_per_s=np.tile(wire * np.array([edge.efficiency for edge in edges]), ways),
            wire_bytes_per_s=np.tile(wire, ways),
            latency_s=np.tile(np.array([edge.latency_s for edge in edges]), ways),
            tier=np.tile(np.array([tiers.index(name) for name in names], dtype=np.int64), ways),
            tiers=tiers,
        )

    def _ends(self) -> tuple[list[str], list[str]]:
        return [edge.source for edge in self.graph.edges], [edge.target for edge in self.graph.edges]


@final
@dataclass(frozen=True)
class Shortest:
    """Routes of fewest hops over any links, split evenly at each node; no rows where nothing leads to the target."""

    links: Links
    num_nodes: int

    def routes(self, source: Ints, target: Ints) -> Routes:
        """Some targets at a time; each pair moves on hop by hop."""
        parts: list[Part] = [(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), 1.0)]
        targets, number = np.unique(target, return_inverse=True)
        step = max(1, MAX_CELLS // max(len(self.links), self.num_nodes))
        for first in range(0, len(targets), step):
            some = targets[first : first + step]
            pair = np.flatnonzero((number >= first) & (number < first + len(some)) & (source != target))
            parts += self._walk(pair, source[pair], number - first, self._hops(some))
        return routes_of(len(source), parts, self.links)

    def _hops(self, targets: Ints) -> Ints:
        """Hops from each node to each target: (targets, nodes)."""
        hops = np.full((len(targets), self.num_nodes), -1, dtype=np.int64)
        hops[np.arange(len(targets)), targets] = 0
        distance = 0
        while True:
            row, link = np.nonzero((hops == distance)[:, self.links.target])
            new = hops[row, self.links.source[link]] < 0
            if not new.any():
                return hops
            distance += 1
            hops[row[new], self.links.source[link[new]]] = distance

    @cached_property
    def _leaving(self) -> tuple[Ints, Ints, Ints]:
        """Links in the order of their sources; first place and number of those of each node."""
        order = np.argsort(self.links.source, kind="stable")
        count = np.bincount(self.links.source, minlength=self.num_nodes)
        return order, np.cumsum(count) - count, count

    def _walk(self, pair: Ints, node: Ints, row: Ints, hops: Ints) -> Iterator[Part]:
        """Rows of pairs, hop by hop. row: of each pair's target in `hops`, for all pairs."""
        order, first, count = self._leaving
        bytes_frac = np.ones(len(pair))
        while len(pair):
            state = np.repeat(np.arange(len(pair)), count[node])
            place = np.arange(len(state)) - np.repeat(np.cumsum(count[node]) - count[node], count[node])
            link = order[first[node[state]] + place]
            head = self.links.target[link]
            nearer = hops[row[pair[state]], head] == hops[row[pair[state]], node[state]] - 1
            state, link, head = state[nearer], link[nearer], head[nearer]
            share = bytes_frac[state] / np.bincount(state)[state]
            yield pair[state], link, share
            goes_on = hops[row[pair[state]], head] > 0
            key, at = np.unique(pair[state[goes_on]] * self.num_nodes + head[goes_on], return_inverse=True)
            bytes_frac = np.bincount(at, weights=share[goes_on], minlength=len(key)).astype(np.float64)
            pair, node = key // self.num_nodes, key % self.num_nodes
