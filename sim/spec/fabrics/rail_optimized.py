"""A cluster in which NIC r of every node hangs on rail r: the layout of NVIDIA's DGX SuperPOD."""

from __future__ import annotations

from typing import Self

import numpy as np
from pydantic import model_validator

from sim.spec.fabrics.cluster import Port, ScaleOut, SpineTier, check_size, cluster
from sim.spec.fabrics.pxn import over_nvlink
from sim.spec.fabrics.routing import Switched
from sim.spec.quantity import Count
from sim.spec.topology import FABRICS, Calibrated, Fabric


@FABRICS.register("rail_optimized")
class RailOptimized(Switched, Calibrated):
    """Nodes with one NIC for each GPU. A scalable unit of `nodes_per_unit` nodes has one leaf for each rail.

    GPUs of equal position in their nodes meet at one leaf; traffic between units crosses a spine. Traffic between rails
    crosses NVLink to the target's rail (pxn, as NCCL), or else a spine.
    """

    nodes: Count
    gpus_per_node: Count
    nodes_per_unit: Count
    nvlink: Port
    pcie: Port
    nic: Port
    spine: SpineTier
    pxn: bool = True

    @model_validator(mode="after")
    def _fits_in_memory(self) -> Self:
        num_units = -(-self.nodes // self.nodes_per_unit)
        check_size(self.nodes * self.gpus_per_node, num_units * self.gpus_per_node, self.spine.count)
        return self

    def build(self) -> Fabric:
        """NIC i belongs to GPU i; leaf u x gpus_per_node + r is rail r of unit u."""
        nics = np.arange(self.nodes * self.gpus_per_node)
        unit = nics // self.gpus_per_node // self.nodes_per_unit
        scale_out = ScaleOut(
            nic_of_gpu=nics,
            leaf_of_nic=unit * self.gpus_per_node + nics % self.gpus_per_node,
            nics_per_leaf=self.nodes_per_unit,
            pcie=self.pcie,
            nic=self.nic,
            spine=self.spine,
        )
        fabric = cluster(self.nodes, self.gpus_per_node, self.nvlink, scale_out, nccl=self.nccl)
        return self.routed(over_nvlink(fabric) if self.pxn else fabric)
