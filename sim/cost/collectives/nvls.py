"""NVLink SHARP: the NVSwitches add what the members of a node hold, and multicast the sum."""

from __future__ import annotations

from typing import final

import numpy as np

from sim.cost.collectives import ALGORITHMS, Pattern
from sim.cost.collectives.edges import Edges, edge_latency_s, loads
from sim.spec.topology import Fabric, Floats, Ints


def switch_bytes_per_byte(size: int) -> float:
    """Bytes each way over the port of each of `size` members for each byte of an all_reduce.

    A member's whole buffer goes up to be added and the whole sum comes down; the sum of its own shard comes down to it
    first and goes up again to be multicast. Source: NCCL's src/device/all_reduce.h (RunWorkColl for NVLS).
    """
    return 1.0 + 1.0 / size


@final
class Nvls:
    """An all_reduce in the switches of one node: S (1 + 1 / n) bytes up and down for each of n members.

    Latency: up and down twice. A switch that adds n streams of one member each has as many bytes going in as out only
    over all members together. Error: the kernel's own rate, `nccl.nvlink.nvls.bandwidth`, is below the ports'.
    """

    ops = frozenset({"all_reduce"})

    def applies(self, members: Ints, fabric: Fabric) -> bool:
        """Each group inside one node whose switches reduce."""
        node = fabric.node_of(members)
        return switches_reduce(fabric) and bool((node == node[:, :1]).all())

    def latency_s(self, op: str, members: Ints, fabric: Fabric) -> Floats:
        """Two routes over the switch."""
        assert op in self.ops
        return _latency_s(edge_latency_s(_edges(members.shape[1]), members, fabric))

    def pattern(self, op: str, members: Ints, fabric: Fabric) -> Pattern:
        """The same on the port of every member."""
        assert op in self.ops
        load = loads(_edges(members.shape[1]), members, fabric)
        return Pattern(load.group, load.link, load.bytes_per_byte, _latency_s(load.edge_latency_s))


def switches_reduce(fabric: Fabric) -> bool:
    """Whether NVSwitches of the fabric add and multicast, and how fast is known."""
    nccl = fabric.links.nccl
    return nccl is not None and nccl.nvlink.nvls is not None


def _edges(size: int) -> Edges:
    """Ports up of one member and down of the next, which together are all ports both ways."""
    assert size > 1
    places = np.arange(size)
    return Edges(places, np.roll(places, -1), np.full(size, switch_bytes_per_byte(size)))


def _latency_s(latency_by_edge_s: Floats) -> Floats:
    slowest: Floats = 2 * latency_by_edge_s.max(axis=1)
    return slowest


ALGORITHMS.register("nvls")(Nvls())
