"""Nodes of GPUs around an NVLink crossbar, and their NICs on switches: what lies below the network of a family."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from sim.spec.fabrics.cluster import Block, Port
from sim.spec.fabrics.tables import Part
from sim.spec.topology import Ints


@final
@dataclass(frozen=True)
class Access:
    """GPUs, NVSwitches and NICs, numbered in this order; switches come after them.

    Links in blocks: GPU to NVSwitch and back, GPU to NIC and back, NIC to switch and back.
    nic_of_gpu: (GPUs,).  switch_of_nic: (NICs,).
    """

    gpus_per_node: int
    nic_of_gpu: Ints
    switch_of_nic: Ints

    @property
    def num_gpus(self) -> int:
        """GPUs of all nodes."""
        return len(self.nic_of_gpu)

    @property
    def counts(self) -> dict[str, int]:
        """How many nodes there are of each kind below the switches."""
        return {
            "gpu": self.num_gpus,
            "nvswitch": self.num_gpus // self.gpus_per_node,
            "nic": len(self.switch_of_nic),
        }

    def blocks(self, nvlink: Port, pcie: Port, nic: Port) -> list[Block]:
        """The three blocks of links."""
        gpus, nics = np.arange(self.num_gpus), np.arange(len(self.switch_of_nic))
        first_nic = self.num_gpus + self.num_gpus // self.gpus_per_node
        return [
            block(gpus, self.num_gpus + gpus // self.gpus_per_node, nvlink),
            block(gpus, first_nic + self.nic_of_gpu, pcie),
            block(first_nic + nics, first_nic + len(nics) + self.switch_of_nic, nic),
        ]

    def rows(self, source: Ints, target: Ints) -> tuple[list[Part], Ints]:
        """Rows of pairs on these links, and the indices of the pairs between nodes."""
        is_local = source // self.gpus_per_node == target // self.gpus_per_node
        local, remote = np.flatnonzero(is_local & (source != target)), np.flatnonzero(~is_local)
        pcie, nic, num_nics = 2 * self.num_gpus, 4 * self.num_gpus, len(self.switch_of_nic)
        return [
            (local, source[local], 1.0),
            (local, self.num_gpus + target[local], 1.0),
            (remote, pcie + source[remote], 1.0),
            (remote, nic + self.nic_of_gpu[source[remote]], 1.0),
            (remote, nic + num_nics + self.nic_of_gpu[target[remote]], 1.0),
            (remote, pcie + self.num_gpus + target[remote], 1.0),
        ], remote

    def switch_of(self, gpus: Ints) -> Ints:
        """Switch that the NIC of each GPU hangs on."""
        return self.switch_of_nic[self.nic_of_gpu[gpus]]


def block(lower: Ints, upper: Ints, port: Port) -> Block:
    """Links between the ends, each with the port's numbers."""
    return Block(lower, upper, port.bytes_per_s, port.efficiency, port.latency_s)
