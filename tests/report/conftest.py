"""Played steps of small scenarios, and results with numbers that a test chooses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sim.program.memory import StageMemory
from sim.results.result import Result
from sim.simulation import Simulation, load, run

SMALL = Path(__file__).parent.parent / "small.yaml"
GIB = 2**30
LAYOUTS = {
    "piped": {"layout.tp": 2, "layout.pp": 2, "layout.zero": 1, "layout.sequence_parallel": True},
    "flat": {"layout.tp": 8, "layout.zero": 2},
    "deep": {"layout.pp": 4, "training.micro_batch": 2},
}


def play(variant: str, fidelity: str = "folded") -> Simulation:
    """Play one of `LAYOUTS`; the scenario is called `small/<variant>`."""
    scenario = load(SMALL, LAYOUTS[variant])
    return run(scenario.model_copy(update={"variant": variant}), fidelity)


@pytest.fixture(scope="session")
def simulations() -> list[Simulation]:
    """Every layout, in the order of `LAYOUTS`."""
    return [play(variant) for variant in LAYOUTS]


@pytest.fixture(scope="session")
def full() -> Simulation:
    """`piped` with every rank played."""
    return play("piped", "full")


Make = Callable[..., Result]


@pytest.fixture
def made(simulations: list[Simulation]) -> Make:
    """Makes a result with the breakdown (s) and the peak memory (GiB, of 80) that a test wants."""
    known = simulations[0].result

    def make(variant: str, peak: float = 40.0, **breakdown_s: float) -> Result:
        step_s = sum(breakdown_s.values())
        parts = {"parameters_bytes": peak * GIB}
        empty = ("gradients", "optimizer", "activations", "logits", "communication", "fragmentation", "overhead")
        parts |= {f"{name}_bytes": 0.0 for name in empty}
        gpu = known.scenario.gpu.model_copy(update={"memory_bytes": 80.0 * GIB})
        kinds = [cause.removeprefix("exposed_") for cause in breakdown_s if cause.startswith("exposed_")]
        return replace(
            known,
            scenario=known.scenario.model_copy(update={"variant": variant, "gpu": gpu}),
            step_time_s=step_s,
            tokens_per_s_per_gpu=1234.5,
            mfu=0.5,
            breakdown_s=breakdown_s,
            exposed_s_by_kind={kind: breakdown_s[f"exposed_{kind}"] for kind in kinds},
            overlap_fraction_by_kind=dict.fromkeys(kinds, 0.25),
            overlap_fraction=0.25 if kinds else None,
            memory=(StageMemory(pp_rank=0, capacity_bytes=80.0 * GIB, **parts),),
        )

    return make
