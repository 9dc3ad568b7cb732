"""How much the links carried."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sim.engine.timeline import Timeline
from sim.spec.topology import Floats


@dataclass(frozen=True)
class TierUse:
    """Links of one tier: how many, bytes that all of them carried, mean and greatest share of their capacity over the
    step."""

    num_links: int
    bytes: float
    mean_use: float
    max_use: float


def link_bytes(timeline: Timeline) -> Floats:
    """Bytes on one link of each class, from the integral of the flows' rates."""
    flows = timeline.program.flows
    loads = flows.row_load * timeline.moved[flows.row_flow]
    return np.bincount(flows.row_link, weights=loads, minlength=len(flows.link_bytes_per_s)).astype(np.float64)


def link_use(timeline: Timeline) -> dict[str, TierUse]:
    """Use by tier."""
    flows = timeline.program.flows
    carried = link_bytes(timeline)
    use = carried / (flows.link_bytes_per_s * timeline.step_s)
    assert (use <= 1 + 1e-9).all(), "a link carried more than its capacity"
    result = {}
    for index, tier in enumerate(flows.tiers):
        inside = flows.link_tier == index
        if inside.any():
            count = flows.link_count[inside]
            result[tier] = TierUse(
                num_links=int(count.sum()),
                bytes=float((carried[inside] * count).sum()),
                mean_use=float((use[inside] * count).sum() / count.sum()),
                max_use=float(use[inside].max()),
            )
    return result
