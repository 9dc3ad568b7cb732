"""A fabric as it would be with faster links, or with shorter latencies."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import numpy as np

from sim.spec.fabrics.calibration import Line, Lines, Nccl
from sim.spec.topology import Derived, Fabric, Ints, Links, Routes

NVLINK = "nvlink"
"""The tier of links inside a node; all other links lead to other nodes (PCIe to the NICs, NICs, switches), or are all
there is."""


@final
@dataclass(frozen=True, eq=False)
class Rescaled(Derived):
    """A Fabric with the links of another one at other rates and latencies."""

    links: Links
    latency_factor: float

    def routes(self, source: Ints, target: Ints) -> Routes:
        """As in the whole fabric."""
        routes = self.whole.routes(source, target)
        return replace(routes, latency_s=routes.latency_s * self.latency_factor)


def rescaled(fabric: Fabric, *, nvlink: float = 1.0, network: float = 1.0, latency: float = 1.0) -> Fabric:
    """The fabric with NVLink, all other links, and all latencies times a factor.

    What NCCL's kernels achieve on links (the rates of its lines) goes with them, and the time of their launches with
    the latencies.
    """
    links = fabric.links
    is_nvlink = links.tier == (links.tiers.index(NVLINK) if NVLINK in links.tiers else -1)
    factor = np.where(is_nvlink, nvlink, network)
    changed = replace(
        links,
        bytes_per_s=links.bytes_per_s * factor,
        wire_bytes_per_s=links.wire_bytes_per_s * factor,
        latency_s=links.latency_s * latency,
        nccl=None if links.nccl is None else _nccl(links.nccl, nvlink, network, latency),
    )
    return Rescaled(fabric, changed, latency)


def _nccl(nccl: Nccl, nvlink: float, network: float, latency: float) -> Nccl:
    changes: dict[str, object] = {"nvlink": _lines(nccl.nvlink, nvlink, latency)}
    if nccl.network is not None:
        changes["network"] = _lines(nccl.network, network, latency)
    if nccl.nvls_chunk_s is not None:
        changes["nvls_chunk_s"] = nccl.nvls_chunk_s / nvlink
    return nccl.model_copy(update=changes)


def _lines(lines: Lines, rate: float, latency: float) -> Lines:
    each = {name: getattr(lines, name) for name in Lines.model_fields}
    return lines.model_copy(
        update={name: _line(line, rate, latency) for name, line in each.items() if line is not None}
    )


def _line(line: Line, rate: float, latency: float) -> Line:
    bytes_per_s = None if line.bytes_per_s is None else line.bytes_per_s * rate
    return line.model_copy(update={"launch_s": line.launch_s * latency, "bytes_per_s": bytes_per_s})
