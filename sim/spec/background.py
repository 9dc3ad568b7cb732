"""Links that others use too: what a steady background load leaves of their rates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from sim.errors import Problem, SimError
from sim.spec.degraded import Degraded, cables
from sim.spec.topology import Fabric

_OF_A_CABLE = "-"
"""Joins the names of a cable's ends; the name of a tier has none."""


def loaded(fabric: Fabric, background: Mapping[str, float]) -> Fabric:
    """The fabric as others leave it; itself where there are none.

    background: share (0 .. 1) of the rate of a link that others take in both directions, by the name of a tier or of a
    cable; what stands for a cable holds in place of what stands for its tier.
    The load is a flow of fixed demand which never gives way: a link of rate C is left C x (1 - share), C being what a
    degraded cable keeps. Left out: that others slow down too where links are full, and bursts. Rates of the data sheet
    stay, and so do routes.

    Raises SimError for each tier or cable that does not exist, and for a cable that stands twice.
    """
    if not background:
        return fabric
    links, named = fabric.links, _cables(fabric, background)
    taken = np.zeros(len(links))
    for number, tier in enumerate(links.tiers):
        taken[links.tier == number] = background.get(tier, 0.0)
    for name, both in named.items():
        taken[list(both)] = background[name]
    left = replace(links, bytes_per_s=links.bytes_per_s * (1.0 - taken))
    return Degraded(fabric, left, np.zeros(len(links), dtype=bool), {})


def _cables(fabric: Fabric, background: Mapping[str, float]) -> dict[str, tuple[int, int]]:
    """The links of each cable with a load. Raises SimError with every mistake, of tiers too."""
    names = loaded_cables(background)
    unknown = [name for name in background if name not in names and name not in fabric.links.tiers]
    allowed = ", ".join((*fabric.links.tiers, f"or a cable such as {_example(fabric)}"))
    problems = [Problem(f"no such tier (got {name!r}, allowed {allowed})", path=path_of(name)) for name in unknown]
    try:
        found = cables(fabric, names, path_of=path_of)
    except SimError as error:
        raise SimError([*problems, *error.problems]) from None
    if problems:
        raise SimError(problems)
    return found


def loaded_cables(background: Mapping[str, float]) -> list[str]:
    """The names that are cables' rather than tiers'.

    >>> loaded_cables({"nic": 0.5, "nic0-leaf0": 0.2})
    ['nic0-leaf0']
    """
    return [name for name in background if _OF_A_CABLE in name]


def path_of(name: str) -> str:
    """Where a scenario file says what others take of a tier or cable."""
    return f"conditions.background.{name}"


def _example(fabric: Fabric) -> str:
    names = fabric.node_names()
    return _OF_A_CABLE.join((names[int(fabric.links.source[0])], names[int(fabric.links.target[0])]))
