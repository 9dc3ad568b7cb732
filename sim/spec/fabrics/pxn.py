"""PXN: bytes for a GPU on another rail cross NVLink first, then the network on the target's rail."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from sim.spec.fabrics.paths import together
from sim.spec.fabrics.tables import same_nodes
from sim.spec.topology import Fabric, Ints, Routes


@final
@dataclass(frozen=True)
class _Proxies:
    """Routes over the GPU of the source's node that has the target's position, where that is another one."""

    whole: Fabric

    def routes(self, source: Ints, target: Ints) -> Routes:
        """To the proxy over NVLink, then from there as in the whole fabric; latencies add."""
        fabric = self.whole
        is_remote = fabric.node_of(source) != fabric.node_of(target)
        proxy = source - source % fabric.gpus_per_node + target % fabric.gpus_per_node
        proxy = np.where(is_remote, proxy, source)
        first, second = fabric.routes(source, proxy), fabric.routes(proxy, target)
        return together(first, second, first.latency_s + second.latency_s)


def over_nvlink(fabric: Fabric) -> Fabric:
    """The fabric with PXN: every message between nodes stays on the rail of its target.

    NCCL does so by default for sends, receives and all_to_all (NCCL_P2P_PXN_LEVEL 2, "use PXN all the time"; NCCL user
    guide, environment variables), also where a spine would do. Source: Doubling all2all performance with NVIDIA
    Collective Communication Library 2.12, NVIDIA technical blog, 2022.
    """
    return same_nodes(fabric, _Proxies(fabric).routes)
