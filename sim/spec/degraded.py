"""A fabric some of whose cables are slow or broken: their rates, and the routes around what is broken."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import final

import numpy as np
from numpy.typing import NDArray

from sim.errors import Problem, SimError
from sim.spec.fabrics.paths import of_pairs, paths, together
from sim.spec.fabrics.routing import Hashed
from sim.spec.topology import Derived, Fabric, Ints, Links, Routes

BROKEN_BYTES_PER_S = 1.0
"""Rate of a broken link in the tables, which divide by rates. No route crosses it."""

_MAX_NAMED = 4


def degraded(fabric: Fabric, links: Mapping[str, float]) -> Fabric:
    """The fabric with cables that keep a share of their rate in both directions; itself where there are none.

    links: share (0 .. 1, 0 for broken) by the names of a cable's two ends, in either order, as `node_names` has them.
    Rates that transfers achieve change, those of the data sheet stay.

    Raises SimError for each cable that does not exist or stands twice.
    """
    if not links:
        return fabric
    numbers = cables(fabric, links)
    rate = fabric.links.bytes_per_s.copy()
    for name, share in links.items():
        rate[list(numbers[name])] *= share
    cable_by_link = {link: name for name, share in links.items() if share == 0 for link in numbers[name]}
    broken = np.zeros(len(rate), dtype=bool)
    broken[list(cable_by_link)] = True
    rate[broken] = BROKEN_BYTES_PER_S
    links_left = replace(fabric.links, bytes_per_s=rate)
    if isinstance(fabric, Hashed):
        return fabric.on(Degraded(fabric.whole, links_left, broken, cable_by_link))
    return Degraded(fabric, links_left, broken, cable_by_link)


@final
@dataclass(frozen=True, eq=False)
class Degraded(Derived):
    """A Fabric with the links of another one at other rates, some of them broken.

    A pair of GPUs whose bytes spread over several paths loses those that cross a broken link; at each switch the others
    take their bytes in proportion to what they had, as equal-cost routing does. No path is found that the whole fabric
    does not use: bytes are not shifted away from a slow link, a GPU with a broken NIC does not borrow another one's,
    and a torus does not go around a broken link.

    is_broken: (links,).  cable_by_link: name of each broken link's cable.
    """

    links: Links
    is_broken: NDArray[np.bool_]
    cable_by_link: Mapping[int, str]

    def routes(self, source: Ints, target: Ints) -> Routes:
        """Routes of the whole fabric around what is broken. Raises SimError where a pair has no way left."""
        routes = self.whole.routes(source, target)
        is_hit = self.is_broken[routes.link]
        if not is_hit.any():
            return routes
        return self._around(routes, is_hit, source, target)

    def _around(self, routes: Routes, is_hit: NDArray[np.bool_], source: Ints, target: Ints) -> Routes:
        meets_broken = np.zeros(len(source), dtype=bool)
        meets_broken[routes.pair[is_hit]] = True
        hit, others = of_pairs(routes, meets_broken)
        some = paths(hit, self.links, source, target)
        left = some.leads_on(~self.is_broken[hit.link])
        has_way = np.zeros(some.num_places, dtype=bool)
        has_way[some.tail[left]] = True
        is_cut = np.zeros(len(source), dtype=bool)
        is_cut[np.unique(hit.pair)] = ~has_way[some.start]
        if is_cut.any():
            raise SimError(self._no_way(routes, self._causes(routes, is_hit, is_cut), source, target))
        around = some.split(np.where(left, hit.share, 0.0))
        return together(others, around, around.latency_s)

    def _causes(self, routes: Routes, is_hit: NDArray[np.bool_], is_cut: NDArray[np.bool_]) -> Ints:
        """Rows that cut their pairs: a link that all bytes cross, where one is broken, else all that are."""
        is_single = is_hit & (routes.share > 1 - 1e-9)
        has_single = np.zeros(len(is_cut), dtype=bool)
        has_single[routes.pair[is_single]] = True
        return np.flatnonzero(is_hit & is_cut[routes.pair] & (is_single | ~has_single[routes.pair]))

    def _no_way(self, routes: Routes, causes: Ints, source: Ints, target: Ints) -> list[Problem]:
        """A problem for each broken cable that rows of `routes`, `causes`, cross, with the first pair that it cuts."""
        causes = causes[np.argsort(routes.pair[causes], kind="stable")]
        links, first = np.unique(routes.link[causes], return_index=True)
        pair_by_cable: dict[str, int] = {}
        for link, pair in zip(links.tolist(), routes.pair[causes[first]].tolist(), strict=True):
            name = self.cable_by_link[link]
            pair_by_cable[name] = min(pair, pair_by_cable.get(name, pair))
        return [
            Problem(
                f"broken, and gpu{source[pair]} has no other way to gpu{target[pair]} (got 0, allowed > 0)",
                path=path_of(name),
            )
            for name, pair in pair_by_cable.items()
        ]


def path_of(cable: str) -> str:
    """Where a scenario file says what a cable keeps of its rate."""
    return f"conditions.links.{cable}"


def cables(
    fabric: Fabric, names: Collection[str], path_of: Callable[[str], str] = path_of
) -> dict[str, tuple[int, int]]:
    """Numbers of the two links, one in each direction, of every cable. Raises SimError with every mistake.

    path_of: where a scenario file has the name of a cable.
    """
    if not names:
        return {}
    ends_by_name = {name: name.split("-") for name in names}
    named = {end for ends in ends_by_name.values() for end in ends}
    nodes = fabric.node_names()
    plan = _Plan(nodes, fabric.links, {name: number for number, name in enumerate(nodes) if name in named})
    found: dict[str, tuple[int, int]] = {}
    name_by_link: dict[int, str] = {}
    problems = []
    for name, ends in ends_by_name.items():
        there, back = plan.link(ends), plan.link(ends[::-1])
        if there is None or back is None:
            problems.append(Problem(plan.mistake(name), path=path_of(name)))
        elif (other := name_by_link.setdefault(min(there, back), name)) != name:
            problems.append(Problem(f"the cable stands twice (got {name!r} and {other!r})", path=path_of(name)))
        else:
            found[name] = there, back
    if problems:
        raise SimError(problems)
    return found


@dataclass(frozen=True)
class _Plan:
    """Links by the names of their ends. number_by_name: of the nodes that somebody named."""

    names: list[str]
    links: Links
    number_by_name: dict[str, int]

    @cached_property
    def _link_by_ends(self) -> dict[tuple[int, int], int]:
        """Links that start at a named node."""
        is_named = np.zeros(len(self.names), dtype=bool)
        is_named[list(self.number_by_name.values())] = True
        numbers = np.flatnonzero(is_named[self.links.source])
        ends = zip(self.links.source[numbers].tolist(), self.links.target[numbers].tolist(), strict=True)
        return dict(zip(ends, numbers.tolist(), strict=True))

    def link(self, ends: Sequence[str]) -> int | None:
        """The link from the first to the second end; None where there is none."""
        numbers = [self.number_by_name.get(end) for end in ends]
        match numbers:
            case [int(source), int(target)]:
                return self._link_by_ends.get((source, target))
            case _:
                return None

    def mistake(self, name: str) -> str:
        """What is wrong with the name of a cable that does not exist."""
        ends = name.split("-")
        first = int(self.links.source[0]), int(self.links.target[0])
        if len(ends) != 2:
            example = "-".join(self.names[end] for end in first)
            return f"wrong name of a cable (got {name!r}, allowed two ends such as {example})"
        for end in ends:
            if end not in self.number_by_name:
                return f"no {end!r} in the topology (got {name!r}, allowed {self._kinds()}{self._meant(end)})"
        near = self._neighbours(*ends)
        hint = f", did you mean {near[0]!r}?" if len(near) == 1 else ""
        named = ", ".join(near[:_MAX_NAMED]) + (", .." if len(near) > _MAX_NAMED else "")
        return f"{ends[0]} and {ends[1]} are not joined (got {name!r}, allowed {named}{hint})"

    def _kinds(self) -> str:
        """First and last name of each kind of node."""
        firsts = [number for number, name in enumerate(self.names) if _split(name)[1] == "0"]
        lasts = [*(first - 1 for first in firsts[1:]), len(self.names) - 1]
        return ", ".join(
            self.names[first] if first == last else f"{self.names[first]} .. {self.names[last]}"
            for first, last in zip(firsts, lasts, strict=True)
        )

    def _meant(self, end: str) -> str:
        """A node of a kind that is spelt like that of `end`, with its number."""
        kind, number = _split(end.lower())
        kinds = list(dict.fromkeys(_split(name)[0] for name in self.names))
        meant = [f"{close}{number}" for close in difflib.get_close_matches(kind, kinds)]
        return next((f", did you mean {name!r}?" for name in meant if name in self.names), "")

    def _neighbours(self, first: str, second: str) -> list[str]:
        """Cables of the first end: those to nodes of the second one's kind, where it has any."""
        number = self.number_by_name[first]
        joined = [self.names[node] for node in self.links.target[self.links.source == number].tolist()]
        alike = [name for name in joined if _split(name)[0] == _split(second)[0]]
        return [f"{first}-{name}" for name in alike or joined]


def _split(name: str) -> tuple[str, str]:
    """Kind and number of a node's name.

    >>> _split("nic12")
    ('nic', '12')
    """
    kind = name.rstrip("0123456789")
    return kind, name[len(kind) :]
