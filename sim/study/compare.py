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


def compare(scenarios: Iterable[Scenario], fidelity: Fidelity = "fused") -> Iterator[Simulation | Failure]:
    """Play each scenario when its turn comes; outcomes in the order of the scenarios."""
    for scenario in scenarios:
        try:
            yield run(scenario, fidelity)
        except SimError as error:
            yield Failure(scenario, error)
