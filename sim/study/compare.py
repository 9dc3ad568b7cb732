"""Several scenarios, one after the other; what cannot be played keeps its reason beside what can."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from sim.errors import SimError
from sim.program.lower import Fidelity
from sim.simulation import Simulation, run
from sim.spec.scenario import Scenario


@dataclass(frozen=True)
class Failure:
    """A scenario that could not be played, and why."""

    scenario: Scenario
    error: SimError


def told_apart(scenarios: Iterable[Scenario]) -> list[Scenario]:
    """The scenarios, those with the title of one before them with a number behind their name."""
    found: dict[str, Scenario] = {}
    for scenario in scenarios:
        number, named = 1, scenario
        while named.title in found:
            number += 1
            named = scenario.model_copy(update={"name": f"{scenario.name} ({number})"})
        found[named.title] = named
    return list(found.values())


def compare(scenarios: Iterable[Scenario], fidelity: Fidelity = "fused") -> Iterator[Simulation | Failure]:
    """Play each scenario when its turn comes; outcomes in the order of the scenarios."""
    for scenario in scenarios:
        try:
            yield run(scenario, fidelity)
        except SimError as error:
            yield Failure(scenario, error)
