"""Racks that are one NVLink domain each, joined by rails: NVIDIA's GB200 and GB300 NVL72."""

from __future__ import annotations

from typing import Self

import numpy as np
from pydantic import model_validator

from sim.spec.fabrics.cluster import Port, ScaleOut, SpineTier, check_size, cluster
from sim.spec.fabrics.routing import Switched
from sim.spec.quantity import Count
from sim.spec.topology import FABRICS, Calibrated, Fabric


@FABRICS.register("nvl72")
class Nvl72(Switched, Calibrated):
    """Racks of trays. All GPUs of a rack share its NVSwitches, so that a rack is one node to the collectives.

    Every GPU has its own NIC; the r-th GPU of each tray is on rail r, and `racks_per_unit` racks share the leaf of a
    rail. Jobs that leave trays of a rack idle (64 of 72 GPUs, say) lower `trays_per_rack`.
    """

    racks: Count
    trays_per_rack: Count
    gpus_per_tray: Count
    racks_per_unit: Count
    nvlink: Port
    pcie: Port
    nic: Port
    spine: SpineTier

    @model_validator(mode="after")
    def _fits_in_memory(self) -> Self:
        num_units = -(-self.racks // self.racks_per_unit)
        check_size(
            self.racks * self.trays_per_rack * self.gpus_per_tray, num_units * self.gpus_per_tray, self.spine.count
        )
        return self

    def build(self) -> Fabric:
        """NIC i belongs to GPU i; leaf u x gpus_per_tray + r is rail r of unit u."""
        gpus_per_rack = self.trays_per_rack * self.gpus_per_tray
        nics = np.arange(self.racks * gpus_per_rack)
        unit = nics // gpus_per_rack // self.racks_per_unit
        scale_out = ScaleOut(
            nic_of_gpu=nics,
            leaf_of_nic=unit * self.gpus_per_tray + nics % self.gpus_per_tray,
            nics_per_leaf=self.racks_per_unit * self.trays_per_rack,
            pcie=self.pcie,
            nic=self.nic,
            spine=self.spine,
        )
        return self.routed(cluster(self.racks, gpus_per_rack, self.nvlink, scale_out, nccl=self.nccl))
