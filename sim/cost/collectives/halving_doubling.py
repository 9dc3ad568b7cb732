"""Recursive halving and doubling: partners at distances of powers of two exchange halves, quarters and so on."""

from __future__ import annotations

from typing import final

import numpy as np

from sim.cost.collectives import ALGORITHMS, Pattern
from sim.cost.collectives.edges import Edges, edge_latency_s, loads
from sim.spec.topology import Fabric, Floats, Ints


@final
class HalvingDoubling:
    """log2(n) rounds for a reduce_scatter or all_gather of n members, n a power of two, and twice that for both.

    In the round of distance d each member exchanges d / n of the message with the one whose place in the group differs
    in that bit. Bytes are the ring's, but most of them go the farthest. Source: Thakur, Rabenseifner and Gropp,
    Optimization of collective communication operations in MPICH, IJHPCA 19 (2005), sections 4.1 and 4.5. Error: rounds
    load their links one after the other, and are counted as one transfer that loads them all at once.
    """

    ops = frozenset({"all_reduce", "all_gather", "reduce_scatter"})

    def applies(self, members: Ints, fabric: Fabric) -> bool:  # noqa: ARG002 - the interface of all algorithms
        """Groups of a power of two."""
        size = members.shape[1]
        return bool(size & (size - 1) == 0)

    def latency_s(self, op: str, members: Ints, fabric: Fabric) -> Floats:
        """Of all rounds, each as long as its slowest pair."""
        return _latency_s(op, edge_latency_s(_edges(op, members.shape[1]), members, fabric), members.shape[1])

    def pattern(self, op: str, members: Ints, fabric: Fabric) -> Pattern:
        """Loads of all rounds."""
        assert op in self.ops
        size = members.shape[1]
        load = loads(_edges(op, size), members, fabric)
        return Pattern(load.group, load.link, load.bytes_per_byte, _latency_s(op, load.edge_latency_s, size))


def _edges(op: str, size: int) -> Edges:
    """Messages round by round, (rounds, members)."""
    assert size > 1
    distances = 2 ** np.arange(size.bit_length() - 1)
    source = np.tile(np.arange(size), len(distances))
    target = source ^ np.repeat(distances, size)
    times = 2 if op == "all_reduce" else 1
    return Edges(source, target, times * np.repeat(distances, size) / size)


def _latency_s(op: str, latency_by_edge_s: Floats, size: int) -> Floats:
    """(groups,), from (groups, rounds x members)."""
    rounds = latency_by_edge_s.reshape(len(latency_by_edge_s), -1, size).max(axis=2).sum(axis=1)
    around: Floats = (2 if op == "all_reduce" else 1) * rounds
    return around


ALGORITHMS.register("halving_doubling")(HalvingDoubling())
