"""Which ranks run the same program: those of a pipeline stage, and where an axis is uneven, of one place along it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sim.program.routing import busiest_place, is_uneven
from sim.spec.layout import coordinates, cp_head_ranks
from sim.spec.scenario import Scenario
from sim.spec.topology import Ints


@dataclass(frozen=True)
class Place:
    """Coordinates along the axes on which ranks do unlike work; 0 on an even axis, where one stands for all."""

    cp: int = 0
    ep: int = 0


EVEN = Place()


@dataclass(frozen=True)
class Role:
    """What decides the program of a rank."""

    pp_rank: int
    place: Place = EVEN


def uneven_axes(scenario: Scenario) -> tuple[str, ...]:
    """Axes (fields of `Place`) along which ranks do unlike work."""
    layout = scenario.layout
    is_cut = layout.cp_balance == "none" and layout.cp > cp_head_ranks(layout)
    return (*(["cp"] if is_cut else []), *(["ep"] if is_uneven(scenario) else []))


def fullest_place(scenario: Scenario) -> Place:
    """Where a rank holds most."""
    return Place(ep=busiest_place(scenario))


def roles(scenario: Scenario) -> tuple[tuple[Role, ...], Ints]:
    """The roles of the scenario's ranks, by pipeline rank first, and the number of each rank's: (ranks,)."""
    axes = uneven_axes(scenario)
    columns = [coordinates(scenario.layout, axis) for axis in ("pp", *axes)]
    distinct, number = np.unique(np.stack(columns, axis=1), axis=0, return_inverse=True)
    found = [Role(pp_rank, Place(**dict(zip(axes, place, strict=True)))) for pp_rank, *place in distinct.tolist()]
    return tuple(found), number.ravel()
