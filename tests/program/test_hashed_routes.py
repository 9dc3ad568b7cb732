"""Routes of a hash in a whole step: folding stays exact, and collisions cost time."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sim.simulation import run
from sim.spec.scenario import Scenario

Make = Callable[..., Scenario]


def hashed(small: Make, **changes: object) -> Scenario:
    """Eight nodes on four leaves under eight spines: pipeline sends and data parallelism cross the spines."""
    fabric = {
        "use": "fat-tree-h100-2to1",
        "nodes": 8,
        "nodes_per_leaf": 2,
        "spine": {"count": 8, "oversubscription": 1, "efficiency": 0.96, "latency": "0.3 us"},
        **changes,
    }
    return small({"topology": fabric, "layout.pp": 2, "training.global_batch": 64})


@pytest.mark.parametrize("seed", [0, 1])
def test_hashed_routes_fold_exactly(small: Make, seed: int) -> None:
    scenario = hashed(small, routing="ecmp", ecmp_seed=seed)
    full, folded = (run(scenario, fidelity).result for fidelity in ("full", "folded"))
    assert folded.step_time_s == pytest.approx(full.step_time_s, rel=1e-9)
    assert folded.breakdown_s == pytest.approx(full.breakdown_s, rel=1e-6, abs=1e-12)


def test_pairs_that_collide_take_longer_than_an_even_spread(small: Make) -> None:
    spread = run(hashed(small)).result.step_time_s
    drawn = [run(hashed(small, routing="ecmp", ecmp_seed=seed)).result.step_time_s for seed in range(3)]
    assert min(drawn) > 1.001 * spread
    assert len(set(drawn)) > 1
