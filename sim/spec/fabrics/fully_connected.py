"""GPUs with a direct link to each other one: AMD's Instinct servers, or NVLink without switches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self, final

import numpy as np
from pydantic import model_validator

from sim.spec.fabrics.access import block
from sim.spec.fabrics.cluster import MAX_UPLINKS, Port, links_of
from sim.spec.fabrics.tables import Table, routes_of
from sim.spec.quantity import Count
from sim.spec.topology import FABRICS, FabricSpec, Ints, Links, Routes


@FABRICS.register("fully_connected")
class FullyConnected(FabricSpec):
    """`gpus` GPUs on one node, every two of them with a link of their own."""

    chosen: ClassVar[frozenset[str]] = FabricSpec.chosen | {"gpus"}

    gpus: Count
    link: Port

    @model_validator(mode="after")
    def _fits_in_memory(self) -> Self:
        if self.gpus * (self.gpus - 1) > MAX_UPLINKS:
            allowed = int(MAX_UPLINKS**0.5)
            raise ValueError(f"too many links between all GPUs (got {self.gpus} GPUs, allowed up to {allowed})")
        return self

    def build(self) -> Table:
        """Link of (i, j), i < j, is number i G - i (i + 1) / 2 + j - i - 1; the ways back come after all of them."""
        lower, upper = np.triu_indices(self.gpus, 1)
        links = links_of([block(lower, upper, self.link)], ("direct",))
        return Table(self.gpus, {"gpu": self.gpus}, links, _Direct(self.gpus, links).routes)


def mesh_link(first: Ints, second: Ints, size: int) -> Ints:
    """Number of the link between two of `size` things that are all joined, first < second, in order of both.

    >>> mesh_link(np.array([0, 0, 1]), np.array([1, 2, 2]), 3).tolist()
    [0, 1, 2]
    """
    return first * size - first * (first + 1) // 2 + second - first - 1


@final
@dataclass(frozen=True)
class _Direct:
    """Each pair's own link."""

    size: int
    links: Links

    def routes(self, source: Ints, target: Ints) -> Routes:
        """One hop."""
        pair = np.flatnonzero(source != target)
        low, high = np.minimum(source, target)[pair], np.maximum(source, target)[pair]
        back = np.where(source[pair] > target[pair], self.size * (self.size - 1) // 2, 0)
        return routes_of(len(source), [(pair, mesh_link(low, high, self.size) + back, 1.0)], self.links)
