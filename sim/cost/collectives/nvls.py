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
    """Reductions and copies in the switches of one node of n members.

    A reduce_scatter sends S bytes up each port and the sum of the member's own shard, S / n, down; an all_gather sends
    S / n up, and S down, the member's own shard included; an all_reduce is both, S (1 + 1 / n) each way. Latency: up
    and down, twice for an all_reduce. Source: NCCL's src/device/all_gather.h, reduce_scatter.h and all_reduce.h
    (RunWorkColl for NVLS). Error: the kernel's own rate, `nccl.nvlink.nvls.bandwidth`, is below the ports'; it is that
    of an all_reduce, and is not measured for the other two, for which NCCL prefers rings.
    """

    ops = frozenset({"all_reduce", "all_gather", "reduce_scatter"})

    def applies(self, members: Ints, fabric: Fabric) -> bool:
        """Each group inside one node whose switches reduce."""
        node = fabric.node_of(members)
        return switches_reduce(fabric) and bool((node == node[:, :1]).all())

    def latency_s(self, op: str, members: Ints, fabric: Fabric) -> Floats:
        """One route over the switch, or two."""
        assert op in self.ops
        return _latency_s(op, edge_latency_s(_edges(members.shape[1]), members, fabric))

    def pattern(self, op: str, members: Ints, fabric: Fabric) -> Pattern:
        """The same on the port of every member."""
        assert op in self.ops
        size = members.shape[1]
        load = loads(_edges(size), members, fabric)
        up, down = _port_bytes_per_byte(op, size)
        each = np.where(fabric.links.source[load.link] < fabric.num_gpus, up, down)
        return Pattern(load.group, load.link, load.bytes_per_byte * each, _latency_s(op, load.edge_latency_s))


def switches_reduce(fabric: Fabric) -> bool:
    """Whether NVSwitches of the fabric add and multicast, and how fast is known."""
    nccl = fabric.links.nccl
    return nccl is not None and nccl.nvlink.nvls is not None


def _port_bytes_per_byte(op: str, size: int) -> tuple[float, float]:
    """Bytes up and down the port of each of `size` members for each byte of the message."""
    match op:
        case "all_gather":
            return 1.0 / size, 1.0
        case "reduce_scatter":
            return 1.0, 1.0 / size
        case _:
            return switch_bytes_per_byte(size), switch_bytes_per_byte(size)


def _edges(size: int) -> Edges:
    """Ports up of one member and down of the next, which together are all ports both ways; a byte on each."""
    assert size > 1
    places = np.arange(size)
    return Edges(places, np.roll(places, -1), np.ones(size))


def _latency_s(op: str, latency_by_edge_s: Floats) -> Floats:
    slowest: Floats = (2 if op == "all_reduce" else 1) * latency_by_edge_s.max(axis=1)
    return slowest


ALGORITHMS.register("nvls")(Nvls())
