"""Hosts without NVLink: GPUs behind PCIe switches, NICs that several of them share, and two tiers of switches."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self, final

import numpy as np
from pydantic import model_validator

from sim.spec.fabrics.access import block
from sim.spec.fabrics.cluster import Block, Port, SpineTier, check_size, links_of
from sim.spec.fabrics.routing import Switched
from sim.spec.fabrics.tables import Part, Table, routes_of, starts_of
from sim.spec.quantity import Count
from sim.spec.topology import FABRICS, Calibrated, Fabric, Ints, Links, Routes

TIERS = ("pcie", "host", "nic_pcie", "nic", "spine")


@FABRICS.register("pcie_hosts")
class PcieHosts(Switched, Calibrated):
    """Hosts whose GPUs hang on PCIe switches of `gpus_per_switch` GPUs, and these on the host's root complex.

    A host with as many NICs as PCIe switches, or a multiple, has them on the switches; one with fewer on the root
    complex. Neighbouring GPUs share a NIC. `nodes_per_leaf` hosts share a leaf switch.

    pcie: GPU or NIC to its PCIe switch or root complex.  host: PCIe switch to root complex.
    """

    nodes: Count
    gpus_per_node: Count
    gpus_per_switch: Count
    nics_per_node: Count
    nodes_per_leaf: Count
    pcie: Port
    host: Port
    nic: Port
    spine: SpineTier

    @model_validator(mode="after")
    def _parts_are_shared_evenly(self) -> Self:
        for key, count in (("gpus_per_switch", self.gpus_per_switch), ("nics_per_node", self.nics_per_node)):
            if self.gpus_per_node % count:
                raise ValueError(f"{key} must divide gpus_per_node (got {count} for {self.gpus_per_node} GPUs)")
        few, many = sorted((self.nics_per_node, self.gpus_per_node // self.gpus_per_switch))
        if many % few:
            raise ValueError(
                "NICs and PCIe switches of a node must divide each other"
                f" (got {self.nics_per_node} NICs for {self.gpus_per_node // self.gpus_per_switch} switches)"
            )
        check_size(self.nodes * self.gpus_per_node, -(-self.nodes // self.nodes_per_leaf), self.spine.count)
        return self

    def build(self) -> Fabric:
        """GPU i is on PCIe switch i // gpus_per_switch and uses NIC i // (gpus_per_node / nics_per_node)."""
        gpus, nics = np.arange(self.nodes * self.gpus_per_node), np.arange(self.nodes * self.nics_per_node)
        switches_per_node = self.gpus_per_node // self.gpus_per_switch
        is_on_root = self.nics_per_node < switches_per_node
        counts = {
            "gpu": len(gpus),
            "pcieswitch": self.nodes * switches_per_node,
            "root": self.nodes,
            "nic": len(nics),
            "leaf": -(-self.nodes // self.nodes_per_leaf),
            "spine": self.spine.count,
        }
        hosts = _Hosts(
            gpus_per_node=self.gpus_per_node,
            switch_of_gpu=gpus // self.gpus_per_switch,
            nic_of_gpu=gpus // (self.gpus_per_node // self.nics_per_node),
            nics_per_node=self.nics_per_node,
            nodes_per_leaf=self.nodes_per_leaf,
            spines=self.spine.count,
            is_on_root=is_on_root,
        )
        blocks = self._blocks(counts, hosts)
        links = replace(links_of(blocks, TIERS), nccl=self.nccl)
        routes = _Routes(hosts, starts_of(blocks), links).routes
        return self.routed(Table(self.gpus_per_node, counts, links, routes))

    def _blocks(self, counts: dict[str, int], hosts: _Hosts) -> list[Block]:
        firsts = dict(zip(counts, np.cumsum([0, *counts.values()]).tolist(), strict=False))
        gpus, nics, switches = (np.arange(counts[kind]) for kind in ("gpu", "nic", "pcieswitch"))
        node_of_switch = switches // (self.gpus_per_node // self.gpus_per_switch)
        first_gpu = nics * (self.gpus_per_node // self.nics_per_node)
        above = nics // self.nics_per_node + firsts["root"]
        if not hosts.is_on_root:
            above = hosts.switch_of_gpu[first_gpu] + firsts["pcieswitch"]
        leaf = np.repeat(np.arange(counts["leaf"]), self.spine.count)
        spine = np.tile(np.arange(self.spine.count), counts["leaf"])
        down = self.nodes_per_leaf * self.nics_per_node * self.nic.bytes_per_s
        return [
            block(gpus, firsts["pcieswitch"] + hosts.switch_of_gpu, self.pcie),
            block(firsts["pcieswitch"] + switches, firsts["root"] + node_of_switch, self.host),
            block(above, firsts["nic"] + nics, self.pcie),
            block(firsts["nic"] + nics, firsts["leaf"] + nics // self.nics_per_node // self.nodes_per_leaf, self.nic),
            Block(
                firsts["leaf"] + leaf,
                firsts["spine"] + spine,
                down / self.spine.oversubscription / self.spine.count,
                self.spine.efficiency,
                self.spine.latency_s,
            ),
        ]


@final
@dataclass(frozen=True)
class _Hosts:
    """What is where in the hosts. switch_of_gpu, nic_of_gpu: (GPUs,).  is_on_root: NICs on root complexes."""

    gpus_per_node: int
    switch_of_gpu: Ints
    nic_of_gpu: Ints
    nics_per_node: int
    nodes_per_leaf: int
    spines: int
    is_on_root: bool


@final
@dataclass(frozen=True)
class _Routes:
    """Routes through the tree of PCIe, and over leaves and spines. starts: see `starts_of`."""

    hosts: _Hosts
    starts: list[tuple[int, int]]
    links: Links

    def routes(self, source: Ints, target: Ints) -> Routes:
        """Inside a host as low in the tree as it goes; across hosts through the NICs, evenly over all spines."""
        hosts = self.hosts
        moves = np.flatnonzero(source != target)
        start, end = source[moves], target[moves]
        is_local = start // hosts.gpus_per_node == end // hosts.gpus_per_node
        crosses = hosts.switch_of_gpu[start] != hosts.switch_of_gpu[end]
        uses_root = np.where(is_local, crosses, hosts.is_on_root)
        parts: list[Part] = []
        for gpus, way in ((start, 0), (end, 1)):
            parts.append((moves, self.starts[0][way] + gpus, 1.0))
            parts.append((moves[uses_root], self.starts[1][way] + hosts.switch_of_gpu[gpus[uses_root]], 1.0))
            nic = hosts.nic_of_gpu[gpus[~is_local]]
            parts.append((moves[~is_local], self.starts[2][way] + nic, 1.0))
            parts.append((moves[~is_local], self.starts[3][way] + nic, 1.0))
        leaf_in, leaf_out = (
            hosts.nic_of_gpu[gpus] // hosts.nics_per_node // hosts.nodes_per_leaf for gpus in (start, end)
        )
        far = np.flatnonzero(~is_local & (leaf_in != leaf_out))
        spines = np.arange(hosts.spines)
        for leaf, first in zip((leaf_in[far], leaf_out[far]), self.starts[4], strict=True):
            link = first + leaf[:, None] * hosts.spines + spines
            parts.append((np.repeat(moves[far], hosts.spines), link.ravel(), 1 / hosts.spines))
        return routes_of(len(source), parts, self.links)
