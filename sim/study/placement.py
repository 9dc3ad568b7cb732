"""Where ranks lie: every rank order of one layout played, and what it saves to keep an axis inside the node."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sim.errors import SimError
from sim.program.balance import resolved
from sim.program.lower import lower
from sim.results.steady import period_s
from sim.simulation import played
from sim.spec.conditions import built_fabric
from sim.spec.layout import groups
from sim.spec.scenario import Scenario
from sim.spec.topology import Fabric
from sim.study.space import legal, orders, own_choice

AXES = ("tp", "cp", "ep", "dp", "pp")


@dataclass(frozen=True)
class Placed:
    """A rank order that was played. nodes_by_axis: over how many nodes a group of each split axis reaches, at most."""

    order: str
    step_s: float
    nodes_by_axis: dict[str, int]


@dataclass(frozen=True)
class Placement:
    """Every rank order that places some rank elsewhere, the fastest first. own: the order that places ranks as the
    scenario's does."""

    orders: tuple[Placed, ...]
    own: str

    def saving(self, axis: str = "tp") -> tuple[Placed, Placed, Placed] | None:
        """The fastest order that keeps the groups of an axis inside a node, and of those that do not the fastest and
        the slowest; None where no order does, or all do."""
        inside = [each for each in self.orders if each.nodes_by_axis.get(axis) == 1]
        across = [each for each in self.orders if each.nodes_by_axis.get(axis, 1) > 1]
        return (inside[0], across[0], across[-1]) if inside and across else None


def placements(scenario: Scenario, on_progress: Callable[[str], None] = lambda _: None) -> Placement:
    """Play every rank order of the scenario's layout.

    Raises SimError where the layout splits fewer than two axes, so that there is one order.
    """
    scenario, own = resolved(scenario), own_choice(scenario)
    layout = scenario.layout
    assert layout.dp is not None
    names = orders(layout.tp, layout.cp, layout.ep, layout.dp, layout.pp)
    if len(names) < 2:
        raise SimError("layout: fewer than two axes are split, so that ranks have one order (allowed two or more)")
    fabric = built_fabric(scenario)
    found = []
    for name in names:
        on_progress(name)
        made = legal(scenario, type(own)(**{**vars(own), "order": name}))
        assert isinstance(made, Scenario), made
        step_s = period_s(played(lower(made, fabric, "fused"), made))
        found.append(Placed(name, step_s, nodes_by_axis(made, fabric)))
    ranked = sorted(found, key=lambda each: (each.step_s, each.order))
    mine = [axis for axis in layout.order.split("-") if axis != "ep" and (getattr(layout, axis) or 1) > 1]
    return Placement(tuple(ranked), "-".join([*(["ep"] if layout.ep > 1 else []), *mine]))


def nodes_by_axis(scenario: Scenario, fabric: Fabric) -> dict[str, int]:
    """Nodes over which a group of each split axis reaches, at most."""
    layout = scenario.layout
    split = [axis for axis in AXES if (getattr(layout, axis) or 1) > 1]
    return {axis: _most_nodes(fabric.node_of(groups(layout, axis)).tolist()) for axis in split}


def _most_nodes(groups_of_nodes: Sequence[Sequence[int]]) -> int:
    return int(np.max([len(set(nodes)) for nodes in groups_of_nodes]))
