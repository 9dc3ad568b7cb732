"""Every member sends its part to every other member over their own route."""

from __future__ import annotations

from typing import final

import numpy as np

from sim.cost.collectives import ALGORITHMS, Pattern
from sim.cost.collectives.edges import Edges, loads
from sim.spec.topology import Fabric, Floats, Ints

PAIRS_AT_ONCE = 2**17
"""Pairs routed together; bounds memory where large groups cross spines."""


@final
class Pairwise:
    """A direct all_to_all: S / n bytes from each of n members to each other one, all at the same time.

    Latency is that of the longest route: the messages do not wait for each other. Source: NCCL's all-to-all is grouped
    sends and receives (NCCL user guide, point-to-point communication). Error: the time to launch n - 1 sends, and
    NCCL's detour over the NVLink neighbour on the target's rail (PXN), are left out.
    """

    ops = frozenset({"all_to_all"})

    def applies(self, members: Ints, fabric: Fabric) -> bool:  # noqa: ARG002 - the interface of all algorithms
        """Any groups."""
        return True

    def pattern(self, op: str, members: Ints, fabric: Fabric) -> Pattern:
        """Loads of n (n - 1) messages of S / n bytes in each group."""
        assert op in self.ops
        num_groups, size = members.shape
        assert size > 1
        source_place, target_place = np.nonzero(~np.eye(size, dtype=bool))
        at_once = max(1, PAIRS_AT_ONCE // len(source_place))
        parts = []
        latency_s: list[Floats] = []
        for start in range(0, num_groups, at_once):
            some = members[start : start + at_once]
            edges = Edges(
                np.repeat(np.arange(start, start + len(some)), len(source_place)),
                some[:, source_place].ravel(),
                some[:, target_place].ravel(),
                np.full(len(some) * len(source_place), 1 / size),
            )
            load = loads(edges, fabric)
            parts.append(load)
            latency_s.append(load.edge_latency_s.reshape(len(some), -1).max(axis=1))
        return Pattern(
            np.concatenate([part.group for part in parts]),
            np.concatenate([part.link for part in parts]),
            np.concatenate([part.bytes_per_byte for part in parts]),
            np.concatenate(latency_s),
        )


ALGORITHMS.register("pairwise")(Pairwise())
