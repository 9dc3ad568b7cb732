"""One server: GPUs around NVSwitches, no network."""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from sim.spec.fabrics.cluster import Cluster, Port, check_size, cluster
from sim.spec.quantity import Count
from sim.spec.topology import FABRICS, Calibrated


@FABRICS.register("single_node")
class SingleNode(Calibrated):
    """A server such as an HGX board; its NVSwitches are one crossbar that every GPU reaches at its full NVLink rate."""

    gpus_per_node: Count
    nvlink: Port

    @model_validator(mode="after")
    def _fits_in_memory(self) -> Self:
        check_size(self.gpus_per_node)
        return self

    def build(self) -> Cluster:
        """One node."""
        return cluster(1, self.gpus_per_node, self.nvlink, nccl=self.nccl)
