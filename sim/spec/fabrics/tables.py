"""A fabric from its tables and a function that finds routes: what families without a class of their own build."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from sim.spec.fabrics.cluster import Block
from sim.spec.topology import Fabric, Floats, Ints, Links, Routes

Part = tuple[Ints, Ints, float | Floats]
"""Rows of routes, (rows,) each: index of the pair, link, and share of the pair's bytes (or one share for all)."""


@final
@dataclass(frozen=True, eq=False)
class Table:
    """A Fabric whose GPUs fill its nodes one after the other.

    counts: how many nodes there are of each kind, in the order of their numbers; `gpu` is the first.
    find: the routes of pairs of GPUs, as `Fabric.routes`.
    """

    gpus_per_node: int
    counts: Mapping[str, int]
    links: Links
    find: Callable[[Ints, Ints], Routes]

    @property
    def num_gpus(self) -> int:
        """GPUs of all nodes."""
        return self.counts["gpu"]

    def node_of(self, gpus: Ints) -> Ints:
        """Node of each GPU."""
        return gpus // self.gpus_per_node

    def node_names(self) -> list[str]:
        """Kind and number within the kind: `gpu0` .. in the order of the node numbers."""
        return [f"{kind}{number}" for kind, count in self.counts.items() for number in range(count)]

    def routes(self, source: Ints, target: Ints) -> Routes:
        """As `find` says."""
        return self.find(source, target)


def same_nodes(fabric: Fabric, find: Callable[[Ints, Ints], Routes]) -> Table:
    """The fabric with other routes over its links."""
    counts: dict[str, int] = {}
    for name in fabric.node_names():
        kind = name.rstrip("0123456789")
        counts[kind] = counts.get(kind, 0) + 1
    return Table(fabric.gpus_per_node, counts, fabric.links, find)


def starts_of(blocks: Sequence[Block]) -> list[tuple[int, int]]:
    """Number of the first link of each block, from lower to upper ends and back."""
    sizes = [len(block.lower) for block in blocks]
    firsts = np.cumsum([0, *(2 * size for size in sizes)]).tolist()
    return [(first, first + size) for first, size in zip(firsts, sizes, strict=False)]


def routes_of(num_pairs: int, parts: Sequence[Part], links: Links) -> Routes:
    """Routes of pairs from their rows. The latency of a pair is the mean over its paths of the sum over their hops."""
    pair = np.concatenate([part[0] for part in parts])
    link = np.concatenate([part[1] for part in parts])
    share = np.concatenate([np.broadcast_to(np.asarray(part[2], dtype=np.float64), len(part[0])) for part in parts])
    latency_s = np.bincount(pair, weights=share * links.latency_s[link], minlength=num_pairs).astype(np.float64)
    return Routes(pair, link, share, latency_s)
