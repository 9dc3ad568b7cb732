"""Bytes of pairs on their paths, after something took paths away: a broken cable, or a hash that chose one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from sim.spec.topology import Floats, Ints, Links, Routes


@final
@dataclass(frozen=True)
class Paths:
    """The rows of some pairs as one graph without cycles: a node of a pair is a place.

    routes: rows of these pairs alone, and latencies of all pairs.  tail, head: places at which the link of a row starts
    and ends (rows,).  start, end: places of the pair's source and target GPUs (pairs of the rows,).
    """

    routes: Routes
    links: Links
    tail: Ints
    head: Ints
    start: Ints
    end: Ints

    @property
    def num_places(self) -> int:
        """Places are 0 .. num_places - 1."""
        return 1 + int(max(self.tail.max(), self.head.max()))

    def leads_on(self, is_open: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Rows that are open and from whose heads open rows go on to the target, (rows,)."""
        is_open = is_open.copy()
        while True:
            has_way = np.zeros(self.num_places, dtype=bool)
            has_way[self.tail[is_open]] = True
            has_way[self.end] = True
            is_left = is_open & has_way[self.head]
            if (is_left == is_open).all():
                return is_open
            is_open = is_left

    def split(self, weight: Floats) -> Routes:
        """Routes whose bytes split at each node as the weights (rows,) of the rows that leave it; 0 closes a row.

        Rows without bytes are left out. Latency moves with the bytes.
        """
        total = np.bincount(self.tail, weights=weight, minlength=self.num_places)
        fraction = np.zeros(len(weight))
        np.divide(weight, total[self.tail], out=fraction, where=weight > 0)
        entering = np.bincount(self.start, minlength=self.num_places).astype(np.float64)
        arriving = entering
        while True:
            share = arriving[self.tail] * fraction
            now = entering + np.bincount(self.head, weights=share, minlength=self.num_places)
            if (now == arriving).all():
                break
            arriving = now
        routes, kept = self.routes, share > 0
        latency_s = routes.latency_s + np.bincount(
            routes.pair,
            weights=(share - routes.share) * self.links.latency_s[routes.link],
            minlength=len(routes.latency_s),
        )
        return Routes(routes.pair[kept], routes.link[kept], share[kept], latency_s)


def paths(routes: Routes, links: Links, source: Ints, target: Ints) -> Paths:
    """Places of rows; `source` and `target` are the GPUs of all pairs (pairs,)."""
    num_nodes = 1 + int(max(links.source.max(), links.target.max()))
    pair = np.unique(routes.pair)
    tail = routes.pair * num_nodes + links.source[routes.link]
    head = routes.pair * num_nodes + links.target[routes.link]
    start, end = pair * num_nodes + source[pair], pair * num_nodes + target[pair]
    _, place = np.unique(np.concatenate([tail, head, start, end]), return_inverse=True)
    cuts = np.cumsum([len(tail), len(head), len(start)])
    return Paths(routes, links, *np.split(place, cuts))


def of_pairs(routes: Routes, is_wanted: NDArray[np.bool_]) -> tuple[Routes, Routes]:
    """Rows of the wanted pairs (pairs,) and those of the others; both with the latencies of all."""
    rows = is_wanted[routes.pair]
    wanted, others = (Routes(routes.pair[r], routes.link[r], routes.share[r], routes.latency_s) for r in (rows, ~rows))
    return wanted, others


def together(first: Routes, second: Routes, latency_s: Floats) -> Routes:
    """Rows of both, with the latencies of all pairs."""
    return Routes(
        np.concatenate([first.pair, second.pair]),
        np.concatenate([first.link, second.link]),
        np.concatenate([first.share, second.share]),
        latency_s,
    )
