"""Every member sends its message to the next one: a step of ring attention, or of a ring of chunks."""

from __future__ import annotations

from typing import final

import numpy as np

from sim.cost.collectives import ALGORITHMS, Pattern
from sim.cost.collectives.edges import Edges, edge_latency_s, loads
from sim.spec.topology import Fabric, Floats, Ints


@final
class Neighbour:
    """S bytes from each of n members to the next in the group's order, the last to the first, all at the same time.

    Latency is that of the longest route. Source: a send and a receive of each rank in one group (NCCL user guide,
    point-to-point communication), as Transformer Engine passes keys and values on (context_parallel.py,
    flash_attn_p2p_communicate). Error: as of the all_to_all, whose measured launch it takes.
    """

    ops = frozenset({"ring_shift"})

    def applies(self, members: Ints, fabric: Fabric) -> bool:  # noqa: ARG002 - the interface of all algorithms
        """Any groups."""
        return True

    def latency_s(self, op: str, members: Ints, fabric: Fabric) -> Floats:
        """Of the longest route."""
        assert op in self.ops
        latency_s: Floats = edge_latency_s(_edges(members.shape[1]), members, fabric).max(axis=1)
        return latency_s

    def pattern(self, op: str, members: Ints, fabric: Fabric) -> Pattern:
        """Loads of n messages of S bytes in each group."""
        assert op in self.ops
        load = loads(_edges(members.shape[1]), members, fabric)
        return Pattern(load.group, load.link, load.bytes_per_byte, load.edge_latency_s.max(axis=1))


def _edges(size: int) -> Edges:
    assert size > 1
    source = np.arange(size)
    return Edges(source, np.roll(source, -1), np.ones(size))


ALGORITHMS.register("neighbour")(Neighbour())
