"""Groups of routers, fully connected inside, every two groups joined by cables: HPE's Slingshot."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self, final

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from sim.spec.fabrics.access import Access, block
from sim.spec.fabrics.cluster import Block, Port, check_size, links_of
from sim.spec.fabrics.fully_connected import mesh_link
from sim.spec.fabrics.routing import Switched
from sim.spec.fabrics.tables import Part, Table, routes_of, starts_of
from sim.spec.quantity import Count
from sim.spec.topology import FABRICS, Calibrated, Fabric, Ints, Links, Routes

TIERS = ("nvlink", "pcie", "nic", "local", "global")


@FABRICS.register("dragonfly")
class Dragonfly(Switched, Calibrated):
    """Nodes on routers; `routers_per_group` routers have a cable to each other one of the group (local_link).

    Every two groups have `cables_per_pair` cables (global_link), on different routers. Routes are minimal: at most one
    local hop on each side of a global one. Slingshot also takes longer ways around congestion (Valiant's), which are
    left out; with them a pair of groups has more bandwidth than its own cables.
    """

    nodes: Count
    gpus_per_node: Count
    nics_per_node: Count
    nodes_per_router: Count
    routers_per_group: Count
    cables_per_pair: Count
    nvlink: Port
    pcie: Port
    nic: Port
    local_link: Port
    global_link: Port

    @model_validator(mode="after")
    def _is_wired(self) -> Self:
        if self.gpus_per_node % self.nics_per_node:
            raise ValueError(
                f"nics_per_node must divide gpus_per_node (got {self.nics_per_node} NICs for {self.gpus_per_node} GPUs)"
            )
        if self.cables_per_pair > self.routers_per_group:
            raise ValueError(
                "cables_per_pair must be at most routers_per_group, as each is on a router of its own"
                f" (got {self.cables_per_pair} cables for {self.routers_per_group} routers)"
            )
        check_size(self.nodes * self.gpus_per_node, self._num_groups * self.routers_per_group, self.routers_per_group)
        check_size(0, self._num_groups**2, self.cables_per_pair)
        return self

    @property
    def _num_groups(self) -> int:
        return -(-self.nodes // (self.nodes_per_router * self.routers_per_group))

    def build(self) -> Fabric:
        """Router g R + r is number r of group g; its nodes are `nodes_per_router` neighbours."""
        nics = np.arange(self.nodes * self.nics_per_node)
        access = Access(
            gpus_per_node=self.gpus_per_node,
            nic_of_gpu=np.repeat(nics, self.gpus_per_node // self.nics_per_node),
            switch_of_nic=nics // self.nics_per_node // self.nodes_per_router,
        )
        wiring = Wiring(self._num_groups, self.routers_per_group, self.cables_per_pair)
        first_router = sum(access.counts.values())
        blocks = [*access.blocks(self.nvlink, self.pcie, self.nic), *self._between(wiring, first_router)]
        links = replace(links_of(blocks, TIERS), nccl=self.nccl)
        counts = access.counts | {"router": wiring.groups * wiring.routers}
        starts = starts_of(blocks)
        routes = _Minimal(access, wiring, starts[3], starts[4], links).routes
        return self.routed(Table(self.gpus_per_node, counts, links, routes))

    def _between(self, wiring: Wiring, first_router: int) -> list[Block]:
        near, far = np.triu_indices(wiring.routers, 1)
        base = first_router + wiring.routers * np.arange(wiring.groups)[:, None]
        low, high = np.triu_indices(wiring.groups, 1)
        return [
            block((base + near).ravel(), (base + far).ravel(), self.local_link),
            block(
                first_router + wiring.router_of_cable(low, high).ravel(),
                first_router + wiring.router_of_cable(high, low).ravel(),
                self.global_link,
            ),
        ]


@final
@dataclass(frozen=True)
class Wiring:
    """Which router holds which cable to another group."""

    groups: int
    routers: int
    cables: int

    def router_of_cable(self, group: Ints, peer: Ints) -> Ints:
        """Router in `group` of each cable to the group `peer`: (pairs, cables). Routers take them in turn."""
        place = (peer - group - 1) % self.groups
        number = place[:, None] * self.cables + np.arange(self.cables)
        routers: Ints = group[:, None] * self.routers + number % self.routers
        return routers


@final
@dataclass(frozen=True)
class _Minimal:
    """Shortest routes; local, far: first link of these tiers in each direction.

    Source: Kim, Dally, Scott and Abts, Technology-driven, highly-scalable dragonfly topology, ISCA 2008, section 4.1
    (minimal routing).
    """

    access: Access
    wiring: Wiring
    local: tuple[int, int]
    far: tuple[int, int]
    links: Links

    def routes(self, source: Ints, target: Ints) -> Routes:
        """Inside a group the routers' own cable; between groups the cables that need fewest local hops, evenly."""
        parts, pair = self.access.rows(source, target)
        start, end = (self.access.switch_of(gpus[pair]) for gpus in (source, target))
        group_in, group_out = start // self.wiring.routers, end // self.wiring.routers
        near = np.flatnonzero((group_in == group_out) & (start != end))
        parts.append((pair[near], self._local(start[near], end[near]), 1.0))
        far = np.flatnonzero(group_in != group_out)
        if len(far):
            parts += self._over_cables(pair[far], start[far], end[far])
        return routes_of(len(source), parts, self.links)

    def _over_cables(self, pair: Ints, start: Ints, end: Ints) -> list[Part]:
        group_in, group_out = start // self.wiring.routers, end // self.wiring.routers
        leaves, enters = (self.wiring.router_of_cable(*ends) for ends in ((group_in, group_out), (group_out, group_in)))
        hops = (leaves != start[:, None]).astype(np.int64) + (enters != end[:, None])
        is_used: NDArray[np.bool_] = hops == hops.min(axis=1, keepdims=True)
        row, cable = np.nonzero(is_used)
        share = 1 / is_used.sum(axis=1)[row]
        low, high = np.minimum(group_in, group_out)[row], np.maximum(group_in, group_out)[row]
        first = np.where(group_in[row] < group_out[row], *self.far)
        number = mesh_link(low, high, self.wiring.groups) * self.wiring.cables + cable
        parts: list[Part] = [(pair[row], first + number, share)]
        for near, other in ((start[row], leaves[row, cable]), (enters[row, cable], end[row])):
            moves = np.flatnonzero(near != other)
            parts.append((pair[row[moves]], self._local(near[moves], other[moves]), share[moves]))
        return parts

    def _local(self, start: Ints, end: Ints) -> Ints:
        """Link from one router to another of its group."""
        size = self.wiring.routers
        low, high = np.minimum(start, end) % size, np.maximum(start, end) % size
        number = start // size * (size * (size - 1) // 2) + mesh_link(low, high, size)
        links: Ints = np.where(start < end, *self.local) + number
        return links
