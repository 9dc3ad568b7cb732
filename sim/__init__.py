"""A simulator of LLM pretraining: from a scenario file to step time, memory and where every second goes.

>>> import sim
>>> sorted(sim.__all__)[:3]
['Result', 'Scenario', 'SimError']
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sim.errors import SimError
    from sim.results.result import Result
    from sim.simulation import Simulation, load, load_all, load_points, run, simulate
    from sim.spec.scenario import Scenario

__all__ = ["Result", "Scenario", "SimError", "Simulation", "load", "load_all", "load_points", "run", "simulate"]

_HOME = {
    "SimError": "sim.errors",
    "Result": "sim.results.result",
    "Scenario": "sim.spec.scenario",
    "Simulation": "sim.simulation",
    "load": "sim.simulation",
    "load_all": "sim.simulation",
    "load_points": "sim.simulation",
    "run": "sim.simulation",
    "simulate": "sim.simulation",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is asked for (PEP 562), so that `sim --help` does not pay for numpy."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
