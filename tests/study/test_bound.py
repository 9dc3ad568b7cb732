"""No step that is played undercuts its bound, whatever the layout, the schedule and the cluster are like."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from sim.errors import SimError
from sim.simulation import load, simulate
from sim.spec.conditions import built_fabric
from sim.spec.scenario import Scenario
from sim.study.bound import Bounds, lone_step_s, lost_s
from sim.study.space import Choice, candidates, legal

DRAWS = int(os.environ.get("BOUND_DRAWS", "300"))
"""Layouts that are drawn: `make bound` draws 5,000."""

SMALL = str(Path(__file__).parents[1] / "small.yaml")
EXPERTS = {"num_experts": 4, "top_k": 2, "ffn_hidden": 1024}
AXES = ("tp", "cp", "ep", "etp", "pp", "vpp", "zero", "micro_batch", "recompute", "schedule", "order")

CLUSTERS: dict[str, dict[str, object]] = {
    "rails": {"model.num_layers": 4},
    "experts": {"model.num_layers": 4, "model.experts": EXPERTS, "layout.sequence_parallel": False},
    "one NIC for two": {"topology": {"use": "fat-tree-a100-4nic", "nodes": 2}, "model.num_layers": 4},
    "slow and fast GPUs": {"model.num_layers": 4, "conditions.gpus": {3: 0.7, 5: 1.2}},
    "bad cables": {"conditions.links": {"gpu3-nvswitch0": 0.3, "nic2-leaf2": 0.2}},
    "a host that holds up": {"stack.host": {"kernel": "6 us", "collective": "9 us", "graph": "9 us"}},
    "late gradients": {
        "training.overlap": {"grad_reduce": False, "param_gather": False, "tensor": False, "pipeline": False}
    },
    "tied embeddings, no clipping": {"model.tied_embeddings": True, "training.clip_grad": False},
    "some layers again": {"training.recompute": "full", "training.recompute_layers": 1},
    "each stage for itself": {"training.grad_norm": "post_validation"},
    "another stack": {"stack": "fsdp"},
    "ring attention": {"layout.cp_method": "ring"},
}
"""What a cluster, or a scenario, is like; each has its part of the draws."""


def drawn(name: str) -> list[Scenario]:
    """Legal layouts of a small model, as many of each as its part of the draws."""
    base = load(SMALL, CLUSTERS[name] | {"training.global_batch": 16})
    generator = random.Random(f"bounds of {name}")  # noqa: S311 - draws layouts, keeps no secret
    found: list[Scenario] = []
    everything: list[Choice] = list(candidates(base, dict.fromkeys(AXES)))
    while len(found) < -(-DRAWS // len(CLUSTERS)):
        made = legal(base, generator.choice(everything))
        if not isinstance(made, str):
            found.append(made)
    return found


@pytest.mark.parametrize("name", CLUSTERS)
def test_no_played_step_undercuts_its_bound(name: str):
    layouts = drawn(name)
    fabric = built_fabric(layouts[0])
    bounds = Bounds(layouts[0], fabric)
    for scenario in layouts:
        bound, alone_s, step_s = bounds.of(scenario), lone_step_s(scenario, fabric), simulate(scenario).step_time_s
        told = scenario.layout, scenario.training
        assert 0 < bound.step_s <= step_s * (1 + 1e-9), told
        assert alone_s <= step_s * (1 + 1e-9), told
        assert bound.step_s == bound.passes_s + bound.beside_s + bound.pipeline_s + bound.end_s


@pytest.mark.parametrize("name", ["rails", "experts"])
def test_bounds_do_not_depend_on_what_was_bounded_before(name: str):
    layouts = drawn(name)[:12]
    fabric = built_fabric(layouts[0])
    together = Bounds(layouts[0], fabric)
    for scenario in layouts:
        assert together.of(scenario) == Bounds(scenario, fabric).of(scenario)


def test_of_one_stage_without_slowdown_the_bound_is_the_step():
    alone = {"training.overlap.compute_slowdown": False, "layout.dp": 16, "layout.zero": 0}
    scenario = load(SMALL, alone | {"training.global_batch": 64})
    fabric = built_fabric(scenario)
    bound = Bounds(scenario, fabric).of(scenario)
    assert bound.step_s == pytest.approx(simulate(scenario).step_time_s, rel=1e-9)
    assert bound.step_s == pytest.approx(lone_step_s(scenario, fabric), rel=1e-9)


def test_a_pipeline_fills_and_drains_in_the_bound():
    # 1F1B of equal stages: (p - 1) (F + B) before and after the m (F + B) of each rank.
    scenario = load(SMALL, {"layout.pp": 4, "model.num_layers": 32, "model.vocab": 128, "training.global_batch": 32})
    bound = Bounds(scenario, built_fabric(scenario)).of(scenario)
    microbatches = 32 // 4
    assert bound.pipeline_s / bound.passes_s == pytest.approx(3 / microbatches, rel=0.1)


def test_communication_beside_kernels_costs_what_it_takes_from_them():
    # One kind for 4 s at factor 2: kernels lose 2 s of 4; 1 s of it in a gap of theirs: 1.5 s.
    assert lost_s([(4.0, 2.0)], 0.0) == 2.0
    assert lost_s([(4.0, 2.0)], 1.0) == 1.5
    # Two kinds lose least when one runs within the other: 2 s at 1/4 of the rate, 2 s at 1/2.
    assert lost_s([(4.0, 2.0), (2.0, 2.0)], 0.0) == 2 * 0.75 + 2 * 0.5
    assert lost_s([(4.0, 1.0)], 0.0) == 0.0
    assert lost_s([], 3.0) == 0.0


def test_jitter_of_every_operation_cannot_be_bounded():
    scenario = load(SMALL, {"conditions.jitter.per_operation": 0.1})
    with pytest.raises(SimError, match=r"per_operation .*got 0.1, allowed 0"):
        Bounds(scenario, built_fabric(scenario))
