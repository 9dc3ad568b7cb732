"""The four words: lower, execute, summarise, and what stands between a file and its result."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from sim.engine.play import play
from sim.engine.timeline import Timeline
from sim.program.lower import Fidelity, lower
from sim.results.result import Result
from sim.results.summarise import summarise
from sim.spec.scenario import Scenario
from sim.spec.topology import Fabric


@dataclass(frozen=True)
class Simulation:
    """One played step: what was asked, what happened, and what it means."""

    scenario: Scenario
    fabric: Fabric
    timeline: Timeline
    result: Result


def own_version() -> str:
    """Version of the installed project."""
    try:
        return version("pretraining-simulator")
    except PackageNotFoundError:
        return "0+source"


def run(scenario: Scenario, fidelity: Fidelity = "folded") -> Simulation:
    """Play one step and keep its timeline, for reports and traces."""
    fabric = scenario.topology.build()
    program = lower(scenario, fabric, fidelity)
    timeline = play(program, scenario.gpu)
    return Simulation(scenario, fabric, timeline, summarise(timeline, scenario, own_version()))


def simulate(scenario: Scenario, fidelity: Fidelity = "folded") -> Result:
    """Play one step of `scenario`: scenario -> program -> timeline -> result."""
    return run(scenario, fidelity).result
