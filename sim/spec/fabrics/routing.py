"""How switches choose among paths of equal length: evenly over all of them, or one by a hash."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal, Self, final

import numpy as np
from pydantic import Field, model_validator

from sim.spec.colours import Colours, scrambled
from sim.spec.fabrics.paths import Paths, of_pairs, paths, together
from sim.spec.topology import Derived, Fabric, FabricSpec, Floats, Ints, Links, Routes

Routing = Literal["spread", "adaptive", "ecmp"]

HASHED_TIERS = ("spine", "core", "local", "global")
"""Links between switches. What leaves a GPU or a NIC is spread by the communication library, never by a hash."""


class Switched(FabricSpec):
    """A family whose switches have several paths.

    routing: `spread` divides the bytes of a pair evenly, as `adaptive` routing (packet by packet, which InfiniBand and
    Slingshot do) comes close to; `ecmp` hashes the NICs of a pair to one path, so that pairs collide.
    ecmp_seed: of the switches' hash, 0 where it is left out.
    """

    chosen: ClassVar[frozenset[str]] = FabricSpec.chosen | {"ecmp_seed"}

    routing: Routing = "spread"
    ecmp_seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None

    @model_validator(mode="after")
    def _only_a_hash_has_a_seed(self) -> Self:
        if self.ecmp_seed is not None and self.routing != "ecmp":
            raise ValueError(
                f"ecmp_seed has no effect with routing: {self.routing} (got {self.ecmp_seed}, allowed with ecmp)"
            )
        return self

    def routed(self, fabric: Fabric) -> Fabric:
        """The fabric, whose routes spread evenly, with this routing."""
        return Hashed(fabric, self.ecmp_seed or 0) if self.routing == "ecmp" else fabric


@final
@dataclass(frozen=True, eq=False)
class Hashed(Derived):
    """A Fabric that sends all bytes of a pair of NICs over one of the paths of another one.

    At every switch the hash of (NIC of the source, NIC of the target, switch, seed) picks a port, in proportion to the
    shares of the whole fabric. As a switch does, it hashes over the ports that lead on: a broken one moves pairs.
    """

    seed: int

    @property
    def links(self) -> Links:
        """As in the whole fabric."""
        return self.whole.links

    def on(self, whole: Fabric) -> Hashed:
        """The same hash over the paths of another fabric."""
        return replace(self, whole=whole)

    def routes(self, source: Ints, target: Ints) -> Routes:
        """One path for each pair of NICs."""
        routes, links = self.whole.routes(source, target), self.links
        tiers = [number for number, tier in enumerate(links.tiers) if tier in HASHED_TIERS]
        has_choice = np.zeros(len(source), dtype=bool)
        has_choice[routes.pair[np.isin(links.tier[routes.link], tiers) & (routes.share < 1)]] = True
        if not has_choice.any():
            return routes
        some, others = of_pairs(routes, has_choice)
        some_paths = paths(some, links, source, target)
        chosen = some_paths.split(self._weights(some_paths, np.isin(links.tier[some.link], tiers)))
        return together(others, chosen, chosen.latency_s)

    def _weights(self, some: Paths, is_hashed: np.ndarray) -> Floats:
        """Shares of the rows, but 0 for those that the hash of their place passes by: (rows,)."""
        weight = some.routes.share.copy()
        rows = np.flatnonzero(is_hashed)
        rows = rows[np.lexsort((some.routes.link[rows], some.tail[rows]))]
        tail, share = some.tail[rows], weight[rows]
        is_first = np.append(True, tail[1:] != tail[:-1])
        number = np.cumsum(is_first) - 1
        total = np.bincount(number, weights=share)
        end = np.cumsum(share)
        before = (end - share)[is_first][number]
        drawn = self._drawn(some, rows) * total[number]
        is_passed = drawn >= end - before
        # The last row of a place takes what rounding leaves.
        is_last = np.append(is_first[1:], True)
        is_chosen = ~is_passed | is_last
        earlier = np.cumsum(is_chosen) - is_chosen
        is_chosen &= earlier == earlier[is_first][number]
        weight[rows[~is_chosen]] = 0.0
        return weight

    def _drawn(self, some: Paths, rows: Ints) -> Floats:
        """A number in 0 .. 1 for each row, equal for the rows of a place: (rows,)."""
        routes, links = some.routes, self.links
        is_nic = links.tier[routes.link] == links.tiers.index("nic")
        ends: Colours = np.zeros(len(routes.latency_s), dtype=np.uint64)
        np.add.at(ends, routes.pair[is_nic], scrambled(routes.link[is_nic]))
        seed = scrambled(np.array([self.seed]))
        switch = scrambled(links.source[routes.link[rows]]) ^ seed
        return scrambled(ends[routes.pair[rows]] ^ scrambled(switch)).astype(np.float64) / 2.0**64
