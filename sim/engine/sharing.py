"""How flows that run at the same time share links: weighted max-min over progress."""

from __future__ import annotations

import numpy as np

from sim.spec.topology import Floats, Ints

SAME = 1e-9
"""Levels closer than this, relatively, are one."""


def fair_rates(flow: Ints, link: Ints, load: Floats, capacity: Floats, limit: Floats) -> Floats:
    """Max-min fair rate of progress of every flow, progress/s.

    Rows (flow, link, load): bytes on the link per unit of progress. capacity: bytes/s of each link that the rows name.
    limit: progress/s that each flow never exceeds, inf where only links bound it.
    All flows are raised together; a link is a bottleneck of its flows when no other link of theirs stops them earlier.
    Every round freezes the flows of all such links at once. Each flow ends at its limit, or with a saturated link on
    which nobody is faster (Bertsekas and Gallager, Data Networks, section 6.5.2, with loads for unit weights).

    >>> flow, link = np.array([0, 1, 1]), np.array([0, 0, 1])
    >>> fair_rates(flow, link, np.ones(3), np.array([10.0, 3.0]), np.full(2, np.inf)).tolist()
    [7.0, 3.0]
    """
    num_flows = len(limit)
    rate = np.full(num_flows, np.inf)
    left = capacity.astype(float)
    is_open = np.ones(num_flows, dtype=bool)
    while is_open.any():
        rows = is_open[flow]
        demand = np.bincount(link[rows], weights=load[rows], minlength=len(left))
        level = np.full(len(left), np.inf)
        used = demand > 0
        level[used] = np.maximum(left[used], 0.0) / demand[used]
        reach = np.where(is_open, limit, np.inf)
        np.minimum.at(reach, flow[rows], level[link[rows]])
        # A bottleneck is a link at whose level all its open flows are stopped.
        slowest_reach = np.full(len(left), np.inf)
        np.minimum.at(slowest_reach, link[rows], reach[flow[rows]])
        bottleneck = used & (slowest_reach >= level * (1 - SAME))
        freeze = is_open & (reach >= limit)
        stopped = rows & bottleneck[link] & (reach[flow] >= level[link] * (1 - SAME))
        freeze[flow[stopped]] = True
        assert freeze.any(), "progressive filling does not advance"
        rate[freeze] = reach[freeze]
        frozen_rows = freeze[flow]
        left -= np.bincount(link[frozen_rows], weights=load[frozen_rows] * rate[flow[frozen_rows]], minlength=len(left))
        is_open &= ~freeze
    return rate
