"""Rails whose GPUs have a port in each of several separate networks, or whose rails have networks of their own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self, final

import numpy as np
from pydantic import model_validator

from sim.spec.fabrics.access import block
from sim.spec.fabrics.cluster import Block, Port, SpineTier, check_size, links_of
from sim.spec.fabrics.pxn import over_nvlink
from sim.spec.fabrics.routing import Switched
from sim.spec.fabrics.tables import Part, Table, routes_of, starts_of
from sim.spec.quantity import Count
from sim.spec.topology import FABRICS, Calibrated, Fabric, Ints, Links, Routes

TIERS = ("nvlink", "pcie", "nic", "spine")


@FABRICS.register("multi_plane")
class MultiPlane(Switched, Calibrated):
    """Nodes in which every GPU has `nics_per_gpu` NICs of `ports_per_nic` ports, each port in a plane of its own.

    A plane is a two-tier fat tree of leaves and spines that shares no switch with another one; bytes spread evenly over
    the ports. A unit of `nodes_per_unit` nodes has one leaf for each rail and port.

    rails_share_planes: whether a plane holds the leaves of all rails (Alibaba's HPN), or of one (DeepSeek-V3's
    cluster), so that only NVLink leads to another rail (pxn).
    """

    nodes: Count
    gpus_per_node: Count
    nics_per_gpu: Count
    ports_per_nic: Count
    nodes_per_unit: Count
    rails_share_planes: bool
    nvlink: Port
    pcie: Port
    nic: Port
    spine: SpineTier
    pxn: bool = True

    @model_validator(mode="after")
    def _rails_are_joined(self) -> Self:
        if not self.rails_share_planes and not self.pxn:
            raise ValueError("pxn must be true where each rail has planes of its own (got false)")
        num_ports = self.nodes * self.gpus_per_node * self._ports_per_gpu
        check_size(num_ports, -(-self.nodes // self.nodes_per_unit) * self._leaves_per_unit, self.spine.count)
        return self

    @property
    def _ports_per_gpu(self) -> int:
        return self.nics_per_gpu * self.ports_per_nic

    @property
    def _leaves_per_unit(self) -> int:
        return self.gpus_per_node * self._ports_per_gpu

    def build(self) -> Fabric:
        """NIC g K + k is number k of GPU g; leaf (u R + r) P + p is port p (of all NICs of a GPU) of rail r, unit u.

        K NICs and P ports of a GPU, R GPUs of a node. Plane of a leaf: p, or r P + p where rails have their own.
        """
        num_gpus = self.nodes * self.gpus_per_node
        counts = {
            "gpu": num_gpus,
            "nvswitch": self.nodes,
            "nic": num_gpus * self.nics_per_gpu,
            "leaf": -(-self.nodes // self.nodes_per_unit) * self._leaves_per_unit,
            "spine": (self._ports_per_gpu if self.rails_share_planes else self._leaves_per_unit) * self.spine.count,
        }
        leaf_of_port = self._leaf_of_port(num_gpus)
        blocks = self._blocks(counts, leaf_of_port)
        links = replace(links_of(blocks, TIERS), nccl=self.nccl)
        starts = starts_of(blocks)
        planes = _Planes(
            self.gpus_per_node, self.nics_per_gpu, self.ports_per_nic, self.spine.count, leaf_of_port, starts, links
        )
        fabric = Table(self.gpus_per_node, counts, links, planes.routes)
        return self.routed(over_nvlink(fabric) if self.pxn else fabric)

    def _leaf_of_port(self, num_gpus: int) -> Ints:
        """(GPUs, ports of a GPU)."""
        gpus = np.arange(num_gpus)
        unit, rail = gpus // self.gpus_per_node // self.nodes_per_unit, gpus % self.gpus_per_node
        row = (unit * self.gpus_per_node + rail) * self._ports_per_gpu
        leaves: Ints = row[:, None] + np.arange(self._ports_per_gpu)
        return leaves

    def _blocks(self, counts: dict[str, int], leaf_of_port: Ints) -> list[Block]:
        gpus, nics, ports = (np.arange(size) for size in (counts["gpu"], counts["nic"], leaf_of_port.size))
        first_nic = counts["gpu"] + counts["nvswitch"]
        first_leaf = first_nic + counts["nic"]
        first_spine = first_leaf + counts["leaf"]
        leaf = np.repeat(np.arange(counts["leaf"]), self.spine.count)
        plane = leaf % (self._ports_per_gpu if self.rails_share_planes else self._leaves_per_unit)
        spine = plane * self.spine.count + np.tile(np.arange(self.spine.count), counts["leaf"])
        up = self.nodes_per_unit * self.nic.bytes_per_s / self.spine.oversubscription / self.spine.count
        return [
            block(gpus, counts["gpu"] + gpus // self.gpus_per_node, self.nvlink),
            block(nics // self.nics_per_gpu, first_nic + nics, self.pcie),
            block(first_nic + ports // self.ports_per_nic, first_leaf + leaf_of_port.ravel(), self.nic),
            Block(first_leaf + leaf, first_spine + spine, up, self.spine.efficiency, self.spine.latency_s),
        ]


@final
@dataclass(frozen=True)
class _Planes:
    """Routes over all ports of the GPUs. leaf_of_port: (GPUs, ports).  starts: see `starts_of`."""

    gpus_per_node: int
    nics: int
    ports_per_nic: int
    spines: int
    leaf_of_port: Ints
    starts: list[tuple[int, int]]
    links: Links

    def routes(self, source: Ints, target: Ints) -> Routes:
        """NVLink inside a node; across nodes every port of the source to the same one of the target, evenly."""
        is_local = source // self.gpus_per_node == target // self.gpus_per_node
        local, remote = np.flatnonzero(is_local & (source != target)), np.flatnonzero(~is_local)
        parts: list[Part] = [(local, source[local], 1.0), (local, self.starts[0][1] + target[local], 1.0)]
        num_ports = self.nics * self.ports_per_nic
        for gpus, way in ((source[remote], 0), (target[remote], 1)):
            nic = gpus[:, None] * self.nics + np.arange(self.nics)
            port = gpus[:, None] * num_ports + np.arange(num_ports)
            parts.append((np.repeat(remote, self.nics), self.starts[1][way] + nic.ravel(), 1 / self.nics))
            parts.append((np.repeat(remote, num_ports), self.starts[2][way] + port.ravel(), 1 / num_ports))
        leaf_in, leaf_out = self.leaf_of_port[source[remote]], self.leaf_of_port[target[remote]]
        row, port = np.nonzero(leaf_in != leaf_out)
        pair = np.repeat(remote[row], self.spines)
        for leaf, first in zip((leaf_in[row, port], leaf_out[row, port]), self.starts[3], strict=True):
            link = first + leaf[:, None] * self.spines + np.arange(self.spines)
            parts.append((pair, link.ravel(), 1 / num_ports / self.spines))
        return routes_of(len(source), parts, self.links)
