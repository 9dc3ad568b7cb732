"""How long the engine takes beside bare loops: `make bench` times these, elsewhere they run once."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from sim.program.lower import Fidelity
from sim.simulation import simulate
from sim.spec.scenario import Scenario
from sim.study.bench import PENDING, yardstick_heapq, yardstick_simpy

ROUNDS = 40


@pytest.mark.parametrize(("loop", "end_s"), [(yardstick_heapq, ROUNDS - 1.0), (yardstick_simpy, float(ROUNDS))])
def test_a_bare_loop_ends_after_its_last_event(
    benchmark: BenchmarkFixture, loop: Callable[[int], float], end_s: float
) -> None:
    assert benchmark(loop, ROUNDS * PENDING) == end_s


@pytest.mark.parametrize("fidelity", ["fused", "folded", "full"])
def test_a_small_step_is_the_same_at_every_fidelity(
    benchmark: BenchmarkFixture, small: Callable[..., Scenario], fidelity: Fidelity
) -> None:
    scenario = small()
    result = benchmark(simulate, scenario, fidelity)
    assert result.fidelity == fidelity
    assert result.step_time_s == pytest.approx(simulate(scenario, "full").step_time_s, rel=1e-9)
