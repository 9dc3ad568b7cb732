"""A fat tree of three tiers: leaves joined by the spines of their pod, and pods by cores."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self, final

import numpy as np
from pydantic import model_validator

from sim.spec.fabrics.access import Access
from sim.spec.fabrics.cluster import Block, Port, SpineTier, check_size, links_of
from sim.spec.fabrics.routing import Switched
from sim.spec.fabrics.tables import Part, Table, routes_of, starts_of
from sim.spec.quantity import Count
from sim.spec.topology import FABRICS, Calibrated, Fabric, Ints, Links, Routes

TIERS = ("nvlink", "pcie", "nic", "spine", "core")


@FABRICS.register("three_tier")
class ThreeTier(Switched, Calibrated):
    """Nodes on leaves as in `fat_tree`; `leaves_per_pod` leaves share the spines of a pod.

    Spine s of every pod reaches the same `core.count` cores. spine.oversubscription: rate of a leaf's ports down over
    that of its ports up; core.oversubscription: the same of a spine.
    """

    nodes: Count
    gpus_per_node: Count
    nics_per_node: Count
    nodes_per_leaf: Count
    leaves_per_pod: Count
    nvlink: Port
    pcie: Port
    nic: Port
    spine: SpineTier
    core: SpineTier

    @model_validator(mode="after")
    def _nics_are_shared_evenly(self) -> Self:
        if self.gpus_per_node % self.nics_per_node:
            raise ValueError(
                f"nics_per_node must divide gpus_per_node (got {self.nics_per_node} NICs for {self.gpus_per_node} GPUs)"
            )
        check_size(self.nodes * self.gpus_per_node, self._num_leaves, self.spine.count)
        check_size(0, self._num_pods * self.spine.count, self.core.count)
        return self

    @property
    def _num_leaves(self) -> int:
        return -(-self.nodes // self.nodes_per_leaf)

    @property
    def _num_pods(self) -> int:
        return -(-self._num_leaves // self.leaves_per_pod)

    def build(self) -> Fabric:
        """Spine p x spines + s is number s of pod p; core s x cores + c is one of those above spines s."""
        nics = np.arange(self.nodes * self.nics_per_node)
        access = Access(
            gpus_per_node=self.gpus_per_node,
            nic_of_gpu=np.repeat(nics, self.gpus_per_node // self.nics_per_node),
            switch_of_nic=nics // self.nics_per_node // self.nodes_per_leaf,
        )
        blocks = [*access.blocks(self.nvlink, self.pcie, self.nic), *self._uplinks(sum(access.counts.values()))]
        links = replace(links_of(blocks, TIERS), nccl=self.nccl)
        num_spines = self._num_pods * self.spine.count
        counts = access.counts | {
            "leaf": self._num_leaves,
            "spine": num_spines,
            "core": self.spine.count * self.core.count,
        }
        starts = starts_of(blocks)
        tree = _Tree(access, self.leaves_per_pod, self.spine.count, self.core.count, starts[3], starts[4], links)
        return self.routed(Table(self.gpus_per_node, counts, links, tree.routes))

    def _uplinks(self, first_leaf: int) -> list[Block]:
        spines, cores = self.spine.count, self.core.count
        leaf = np.repeat(np.arange(self._num_leaves), spines)
        spine_of_leaf = leaf // self.leaves_per_pod * spines + np.tile(np.arange(spines), self._num_leaves)
        spine = np.repeat(np.arange(self._num_pods * spines), cores)
        core_of_spine = spine % spines * cores + np.tile(np.arange(cores), self._num_pods * spines)
        first_spine = first_leaf + self._num_leaves
        first_core = first_spine + self._num_pods * spines
        down = self.nodes_per_leaf * self.nics_per_node * self.nic.bytes_per_s
        up = down / self.spine.oversubscription / spines
        top = self.leaves_per_pod * up / self.core.oversubscription / cores
        return [
            Block(first_leaf + leaf, first_spine + spine_of_leaf, up, self.spine.efficiency, self.spine.latency_s),
            Block(first_spine + spine, first_core + core_of_spine, top, self.core.efficiency, self.core.latency_s),
        ]


@final
@dataclass(frozen=True)
class _Tree:
    """Routes up and down; spine_links, core_links: first link up and first link down of these tiers."""

    access: Access
    leaves_per_pod: int
    spines: int
    cores: int
    spine_links: tuple[int, int]
    core_links: tuple[int, int]
    links: Links

    def routes(self, source: Ints, target: Ints) -> Routes:
        """Evenly over all spines of a pod, and over all cores between pods."""
        parts, pair = self.access.rows(source, target)
        leaf_in, leaf_out = (self.access.switch_of(gpus[pair]) for gpus in (source, target))
        crosses = np.flatnonzero(leaf_in != leaf_out)
        pair, leaf_in, leaf_out = pair[crosses], leaf_in[crosses], leaf_out[crosses]
        for leaf, first in zip((leaf_in, leaf_out), self.spine_links, strict=True):
            parts.append(_fan(pair, first + leaf * self.spines, self.spines))
        pod_in, pod_out = leaf_in // self.leaves_per_pod, leaf_out // self.leaves_per_pod
        far = np.flatnonzero(pod_in != pod_out)
        for pod, first in zip((pod_in[far], pod_out[far]), self.core_links, strict=True):
            fan = self.spines * self.cores
            parts.append(_fan(pair[far], first + pod * fan, fan))
        return routes_of(len(source), parts, self.links)


def _fan(pair: Ints, first: Ints, count: int) -> Part:
    """Rows of each pair on `count` links from its first one on, evenly."""
    return np.repeat(pair, count), (first[:, None] + np.arange(count)).ravel(), 1 / count
