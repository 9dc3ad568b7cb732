"""How long it takes to move data between a GPU and its host, and to update what lives there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sim.spec.gpu import CopyConstants

Direction = Literal["host_to_device", "device_to_host"]


@dataclass(frozen=True)
class Copy:
    """An asynchronous copy between pinned host memory and the GPU, over PCIe or NVLink-C2C."""

    name: str
    nbytes: float
    direction: Direction
    cause: str = "optimizer"


@dataclass(frozen=True)
class HostUpdate:
    """An optimizer step on the host's cores. nbytes: host memory read and written."""

    name: str
    nbytes: float
    cause: str = "optimizer"


def copy_s(copy: Copy, constants: CopyConstants) -> float:
    """Time of one copy that has the link to itself, s: latency + bytes / rate of the direction.

    Source: rates of large pinned copies, see the `sources` of each GPU. Error: none for large copies, which the rate
    is read from; no sweep by size was found. Left out: GPUs behind one PCIe switch that copy at once, and traffic
    in both directions at once.

    >>> pcie = CopyConstants(
    ...     host_to_device_bytes_per_s=25e9, device_to_host_bytes_per_s=20e9, host_update_bytes_per_s=16e9,
    ...     latency_s=1e-5)
    >>> copy_s(Copy("gradients", 2e9, "device_to_host"), pcie)
    0.10001
    """
    match copy.direction:
        case "host_to_device":
            rate = constants.host_to_device_bytes_per_s
        case "device_to_host":
            rate = constants.device_to_host_bytes_per_s
    return constants.latency_s + copy.nbytes / rate


def host_update_s(update: HostUpdate, constants: CopyConstants) -> float:
    """Time of an optimizer step on one GPU's share of the host's cores, s: bytes / rate.

    The update is bound by host memory: Adam in fp32 reads gradient, parameter and both moments and writes the latter
    three, 28 bytes a parameter (30 with a 16-bit copy for the GPU).
    Source: ZeRO-Offload (arXiv 2101.06840). Error: not known, the rate is an estimate. Left out: that its copies share
    host memory with it.
    """
    return update.nbytes / constants.host_update_bytes_per_s
