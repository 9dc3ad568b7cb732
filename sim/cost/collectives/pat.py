"""PAT: parallel aggregated trees, in which the longest way is gone first and with the fewest bytes."""

from __future__ import annotations

from typing import final

import numpy as np

from sim.cost.collectives import ALGORITHMS, Pattern
from sim.cost.collectives.edges import Edges, edge_latency_s, loads, members_per_node
from sim.spec.topology import Fabric, Floats, Ints


def shards_by_distance(size: int) -> dict[int, list[int]]:
    """Distances between members that send, farthest first, and which shards go: offsets from their owner to the target.

    A shard reaches offset o by the binary digits of o, the highest first: it comes over the distance of the lowest.

    >>> shards_by_distance(6)
    {4: [4], 2: [2], 1: [1, 3, 5]}
    """
    offsets = range(1, size)
    distances = [1 << bit for bit in reversed(range((size - 1).bit_length()))]
    return {distance: [offset for offset in offsets if offset & -offset == distance] for distance in distances}


@final
class Pat:
    """log2(n) rounds of an all_gather or reduce_scatter of n members with one GPU on each node.

    Source: Jeaugey, PAT: a new algorithm for all-gather and reduce-scatter operations at scale, arXiv 2506.20252; NCCL
    has it from 2.23 on, for one GPU a node. Error: buffers are taken to hold all shards of a round (NCCL splits long
    messages into several rounds of the near distances), and `auto` does not choose it: NCCL expects three quarters of
    the ring's rate and, on up to some fifty nodes, a longer latency than that of its LL.
    """

    ops = frozenset({"all_gather", "reduce_scatter"})

    def applies(self, members: Ints, fabric: Fabric) -> bool:
        """One member on each node."""
        return bool((members_per_node(members, fabric) == 1).all())

    def latency_s(self, op: str, members: Ints, fabric: Fabric) -> Floats:
        """Of all rounds, each as long as its slowest message."""
        assert op in self.ops
        size = members.shape[1]
        return _latency_s(edge_latency_s(_edges(size), members, fabric), size)

    def pattern(self, op: str, members: Ints, fabric: Fabric) -> Pattern:
        """Loads of all rounds; a reduce_scatter sends the messages of an all_gather backwards."""
        assert op in self.ops
        size = members.shape[1]
        edges = _edges(size)
        if op == "reduce_scatter":
            edges = Edges(edges.target, edges.source, edges.bytes_per_byte)
        load = loads(edges, members, fabric)
        return Pattern(load.group, load.link, load.bytes_per_byte, _latency_s(load.edge_latency_s, size))


def _edges(size: int) -> Edges:
    """Messages round by round, (rounds, members)."""
    assert size > 1
    rounds = shards_by_distance(size)
    source = np.tile(np.arange(size), len(rounds))
    target = (source + np.repeat(list(rounds), size)) % size
    return Edges(source, target, np.repeat([len(shards) / size for shards in rounds.values()], size))


def _latency_s(latency_by_edge_s: Floats, size: int) -> Floats:
    """(groups,), from (groups, rounds x members)."""
    rounds: Floats = latency_by_edge_s.reshape(len(latency_by_edge_s), -1, size).max(axis=2).sum(axis=1)
    return rounds


ALGORITHMS.register("pat")(Pat())
