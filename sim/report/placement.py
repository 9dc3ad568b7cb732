"""What the order of ranks costs: results that differ in nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sim.report.tables import percent, seconds
from sim.report.words import DATA, PIPELINE, TENSOR, Group, by_group
from sim.results.result import Result
from sim.spec.layout import groups
from sim.spec.scenario import Scenario

TIE_FRAC = 1e-3
"""Step times that differ by less are called equal."""

AXES: dict[Group, tuple[str, str]] = {
    TENSOR: ("tp", "tensor-parallel"),
    DATA: ("dp_cp", "data-parallel"),
    PIPELINE: ("pp", "pipeline"),
}
"""Communication that belongs to one kind of rank group: the group, and what it is called."""


def placements(results: Sequence[Result], names: dict[int, str]) -> list[str]:
    """One sentence for each set of results that are equal but for `layout.order`: slowest against fastest.

    names: what each result is called, by its id.
    """
    sentences = []
    for alike in _alike(results):
        best, *_, worst = sorted(alike, key=lambda result: result.step_time_s)
        gap_s = worst.step_time_s - best.step_time_s
        if gap_s > TIE_FRAC * best.step_time_s:
            sentences.append(_cost(best, worst, gap_s, names))
        else:
            called = " and ".join(names[id(result)] for result in alike)
            sentences.append(f"Placement makes no difference between {called} (within {percent(TIE_FRAC)}).")
    return sentences


def _alike(results: Sequence[Result]) -> list[list[Result]]:
    """Sets of results with several orders and no other difference, each set in the order given."""
    found: list[tuple[Scenario, list[Result]]] = []
    for result in results:
        scenario = result.scenario
        layout = scenario.layout.model_copy(update={"order": ""})
        key = scenario.model_copy(update={"name": "", "variant": None, "measured": None, "layout": layout})
        same = next((members for known, members in found if known == key), None)
        if same is None:
            found.append((key, [result]))
        else:
            same.append(result)
    return [members for _, members in found if len({result.scenario.layout.order for result in members}) > 1]


def _cost(best: Result, worst: Result, gap_s: float, names: dict[int, str]) -> str:
    """How much slower, which cause grew most, and over how many nodes its groups reach."""
    mine, theirs = by_group(best.breakdown_s), by_group(worst.breakdown_s)
    grown = {group: value - mine.get(group, 0.0) for group, value in theirs.items()}
    group = max(grown, key=lambda name: grown[name])
    # More than the whole gap where something else has shrunk.
    part = f"of which {seconds(grown[group])} is" if grown[group] <= gap_s else f"with {seconds(grown[group])} more"
    exposed = "exposed " if group in AXES else ""
    text = (
        f"Placement alone costs {seconds(gap_s)}: {names[id(worst)]} ({worst.scenario.layout.order}) against "
        f"{names[id(best)]} ({best.scenario.layout.order}), {part} {exposed}{group.name}"
    )
    return text + _reach(best.scenario, worst.scenario, group) + "."


def _reach(best: Scenario, worst: Scenario, group: Group) -> str:
    """Over how many nodes the groups of that communication reach, where the order changes it."""
    if group not in AXES:
        return ""
    axis, called = AXES[group]
    near, far = nodes_per_group(best, axis), nodes_per_group(worst, axis)
    return "" if near == far else f", as its {called} groups reach over {far} node{'s' * (far > 1)} instead of {near}"


def nodes_per_group(scenario: Scenario, axis: str) -> int:
    """Nodes over which a group of the axis reaches, at most. Ranks are numbered node by node."""
    nodes = np.sort(groups(scenario.layout, axis) // scenario.topology.build().gpus_per_node, axis=1)
    return int(np.max(1 + np.count_nonzero(np.diff(nodes, axis=1), axis=1)))
