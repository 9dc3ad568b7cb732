"""The four words: lower, execute, summarise, and what stands between a file and its result."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from sim.cost.host import HostCosts
from sim.cost.pace import slowed
from sim.engine.play import play
from sim.engine.timeline import Timeline
from sim.program.balance import resolved
from sim.program.check import problems
from sim.program.lower import Fidelity, lower
from sim.program.program import Program
from sim.results.result import Result
from sim.results.summarise import summarise
from sim.spec import load as files
from sim.spec.conditions import built_fabric
from sim.spec.layout import num_ranks
from sim.spec.load import Overrides, Point
from sim.spec.scenario import Scenario
from sim.spec.stack import pace_of
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


def load(name: str | Path, overrides: Overrides = (), *, variant: str | None = None) -> Scenario:
    """The scenario of a file, found by path or name, checked up to whether it can be lowered.

    overrides: texts such as `layout.tp=4`, or a mapping from dotted paths to values.  variant: which one of a file
    with `variants:`.

    Raises SimError with every mistake at its place, and for a file that describes several scenarios.
    """
    return resolved(files.load(name, overrides, variant=variant, checks=[problems]))


def load_all(name: str | Path, overrides: Overrides = ()) -> list[Scenario]:
    """One scenario for each entry of the file's `variants:`, or the one of a plain file. See `load`."""
    return [resolved(scenario) for scenario in files.load_all(name, overrides, checks=[problems])]


def load_points(name: str | Path, overrides: Overrides = ()) -> list[Point]:
    """The points of the file's `sweep:`, each with its scenario or the reason why there is none. See `load`."""
    points = files.load_points(name, overrides, checks=[problems])
    return [point if point.scenario is None else replace(point, scenario=resolved(point.scenario)) for point in points]


def run(scenario: Scenario, fidelity: Fidelity = "fused") -> Simulation:
    """Play one step and keep its timeline, for reports and traces."""
    scenario = resolved(scenario)
    fabric = built_fabric(scenario)
    program = lower(scenario, fabric, fidelity)
    timeline = played(program, scenario)
    return Simulation(scenario, fabric, timeline, summarise(timeline, scenario, own_version()))


def played(program: Program, scenario: Scenario, *, alone: bool = False) -> Timeline:
    """What happens when the program of `scenario` runs on its GPUs, and is issued by its stack's host. `alone`: if no
    flow shared links with another, and none slowed down a kernel."""
    training, host = scenario.training, scenario.stack.host
    costs = HostCosts(host.kernel_s, host.collective_s, host.graph_s if training.cuda_graphs else None)
    pace = pace_of(scenario.stack, scenario.gpu)
    return play(
        program,
        slowed(scenario.gpu, pace),
        pace=pace,
        num_gpus=num_ranks(scenario.layout),
        slows_compute=training.overlap.compute_slowdown and not alone,
        host=costs,
        shares_links=not alone,
    )


def simulate(scenario: Scenario, fidelity: Fidelity = "fused") -> Result:
    """Play one step of `scenario`: scenario -> program -> timeline -> result."""
    return run(scenario, fidelity).result
