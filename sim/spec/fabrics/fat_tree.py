"""A cluster in which all NICs of a node hang on one leaf: a two-tier fat tree, often oversubscribed."""

from __future__ import annotations

from typing import Self

import numpy as np
from pydantic import model_validator

from sim.spec.fabrics.cluster import Port, ScaleOut, SpineTier, check_size, cluster
from sim.spec.fabrics.routing import Switched
from sim.spec.quantity import Count
from sim.spec.topology import FABRICS, Calibrated, Fabric


@FABRICS.register("fat_tree")
class FatTree(Switched, Calibrated):
    """Nodes with `nics_per_node` NICs, each shared by neighbouring GPUs; `nodes_per_leaf` nodes share a leaf switch."""

    nodes: Count
    gpus_per_node: Count
    nics_per_node: Count
    nodes_per_leaf: Count
    nvlink: Port
    pcie: Port
    nic: Port
    spine: SpineTier

    @model_validator(mode="after")
    def _nics_are_shared_evenly(self) -> Self:
        if self.gpus_per_node % self.nics_per_node:
            raise ValueError(
                f"nics_per_node must divide gpus_per_node (got {self.nics_per_node} NICs for {self.gpus_per_node} GPUs)"
            )
        check_size(self.nodes * self.gpus_per_node, -(-self.nodes // self.nodes_per_leaf), self.spine.count)
        return self

    def build(self) -> Fabric:
        """GPU i uses NIC i // (gpus_per_node / nics_per_node); node j hangs on leaf j // nodes_per_leaf."""
        nics = np.arange(self.nodes * self.nics_per_node)
        scale_out = ScaleOut(
            nic_of_gpu=np.repeat(nics, self.gpus_per_node // self.nics_per_node),
            leaf_of_nic=nics // self.nics_per_node // self.nodes_per_leaf,
            nics_per_leaf=self.nodes_per_leaf * self.nics_per_node,
            pcie=self.pcie,
            nic=self.nic,
            spine=self.spine,
        )
        return self.routed(cluster(self.nodes, self.gpus_per_node, self.nvlink, scale_out, nccl=self.nccl))
