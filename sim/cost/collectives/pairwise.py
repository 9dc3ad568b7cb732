"""Every member sends its part to every other member over their own route."""

from __future__ import annotations

from typing import final

import numpy as np

from sim.cost.collectives import ALGORITHMS, Pattern
from sim.cost.collectives.edges import Edges, edge_latency_s, loads
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

    def latency_s(self, op: str, members: Ints, fabric: Fabric) -> Floats:
        """Of the longest route."""
        assert op in self.ops
        edges = _edges(members.shape[1])
        some = [edge_latency_s(edges, members[part], fabric) for part in _parts(len(members), len(edges))]
        return np.concatenate([latency.max(axis=1) for latency in some])

    def pattern(self, op: str, members: Ints, fabric: Fabric) -> Pattern:
        """Loads of n (n - 1) messages of S / n bytes in each group."""
        assert op in self.ops
        return self.pattern_of(_edges(members.shape[1]), members, fabric)

    def pattern_of(self, edges: Edges, members: Ints, fabric: Fabric) -> Pattern:
        """Loads of messages between the places of each group, all at the same time."""
        parts = _parts(len(members), len(edges))
        some = [loads(edges, members[part], fabric) for part in parts]
        return Pattern(
            np.concatenate([load.group + part.start for load, part in zip(some, parts, strict=True)]),
            np.concatenate([load.link for load in some]),
            np.concatenate([load.bytes_per_byte for load in some]),
            np.concatenate([load.edge_latency_s.max(axis=1) for load in some]),
        )


def _edges(size: int) -> Edges:
    assert size > 1
    source, target = np.nonzero(~np.eye(size, dtype=bool))
    return Edges(source, target, np.full(len(source), 1 / size))


def _parts(num_groups: int, num_edges: int) -> list[slice]:
    """Groups that are routed together."""
    at_once = max(1, PAIRS_AT_ONCE // num_edges)
    return [slice(start, start + at_once) for start in range(0, num_groups, at_once)]


ALGORITHMS.register("pairwise")(Pairwise())
