from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import sim
from sim.program.lower import lower
from sim.results.traffic import traffic
from sim.spec.scenario import Scenario
from sim.study.unused import unused, unused_tiers

LAYOUT = "layout: {{tp: {tp}, sequence_parallel: {sp}, pp: {pp}, dp: {dp}, zero: {zero}, schedule: 1f1b}}\n"
ONE_NODE = """\
model: llama2-7b
gpu: h100-sxm
topology: single-node-h100
training: {seq_len: 4096, global_batch: 16, micro_batch: 1, precision: bf16, recompute: none}
"""
TWO_NODES = ONE_NODE.replace("single-node-h100", "{use: dgx-h100, nodes: 2}")
ONE_GPU = ONE_NODE.replace("single-node-h100", "{use: single-node-h100, gpus_per_node: 1}")
ALONE = LAYOUT.format(tp=1, sp="false", pp=1, dp=1, zero=0)
NO_REPLICAS = LAYOUT.format(tp=4, sp="true", pp=2, dp=1, zero=1)
ONLY_DATA = LAYOUT.format(tp=1, sp="false", pp=1, dp=8, zero=0)
ALL_AXES = LAYOUT.format(tp=4, sp="true", pp=2, dp=2, zero=1)


def load(text: str, folder: Path, *overrides: str) -> Scenario:
    path = folder / "scenario.yaml"
    path.write_text(text)
    return sim.load(str(path), overrides)


def paths_of(scenario: Scenario) -> list[str]:
    fabric = scenario.topology.build()
    rows = traffic(lower(scenario, fabric, "folded"), scenario, fabric)
    return [path for path, _ in unused(scenario, fabric, rows)]


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        (ONE_NODE + NO_REPLICAS, "layout.zero", "2"),
        (ONE_NODE + NO_REPLICAS, "layout.zero", "0"),
        (ONE_NODE + NO_REPLICAS, "training.overlap.grad_reduce", "false"),
        (ONE_NODE + NO_REPLICAS, "training.overlap.param_gather", "false"),
        (ONE_NODE + NO_REPLICAS.replace("1f1b}", "1f1b}\nseed: 1"), "seed", "7"),
        (ONE_NODE.replace("none}", "none, bucket: 64 MiB}") + NO_REPLICAS, "training.bucket", "1 MiB"),
        (ONE_NODE.replace("none}", "none, reduce_precision: bf16}") + NO_REPLICAS, "training.reduce_precision", "fp16"),
        (ONE_NODE + ONLY_DATA.replace("zero: 0", "zero: 3, shard: 8"), "layout.shard", "null"),
        (ONE_NODE + ONLY_DATA.replace("zero: 0", "zero: 3, shard: 1, reshard: step"), "layout.reshard", "true"),
        (ONE_NODE.replace("none}", "none, reduce_precision: fp32}") + ONLY_DATA, "training.reduce_precision", "null"),
        (
            ONE_NODE.replace("global_batch: 16", "global_batch: 8").replace("none}", "none, grad_sync: two_hop}")
            + ONLY_DATA.replace("zero: 0", "zero: 3, shard: 4"),
            "training.grad_sync",
            "every",
        ),
        (
            ONE_NODE.replace("bf16", "fp16").replace("none}", "none, clip_grad: false}") + ONLY_DATA,
            "training.clip_grad",
            "true",
        ),
        (ONE_NODE + NO_REPLICAS, "layout.order", "pp-tp-cp-ep-dp"),
        (ONE_NODE + ONLY_DATA, "training.overlap.tensor", "false"),
        (ONE_NODE + ONLY_DATA, "layout.order", "dp-tp-pp"),
        (ONE_NODE + ONLY_DATA.replace("1f1b}", "1f1b, cp_method: ring}"), "layout.cp_method", "all_gather"),
        (
            ONE_NODE + NO_REPLICAS.replace("dp: 1", "cp: 1, dp: 1, cp_balance: none"),
            "layout.cp_balance",
            "zigzag",
        ),
        (
            ONE_NODE + NO_REPLICAS.replace("pp: 2", "pp: 1, cp: 2, cp_method: ulysses, cp_balance: none"),
            "layout.cp_balance",
            "zigzag",
        ),
        (
            ONE_NODE + "stack: megatron-2021\n" + NO_REPLICAS.replace("pp: 2", "pp: 1, cp: 2"),
            "layout.cp_balance",
            "none",
        ),
        (ONE_GPU + ALONE, "training.overlap.compute_slowdown", "false"),
        (ONE_NODE + ONLY_DATA, "network.algorithms.all_gather", "ring"),
        (ONE_NODE + ONLY_DATA.replace("1f1b}", "1f1b, stage_layers: [32]}"), "layout.stage_layers", "[32]"),
    ],
)
def test_a_field_that_is_called_unused_changes_neither_time_nor_memory(
    text: str, path: str, value: str, tmp_path: Path
):
    scenario = load(text, tmp_path)
    assert path in paths_of(scenario)
    before, after = sim.simulate(scenario), sim.simulate(load(text, tmp_path, f"{path}={value}"))
    assert after.step_time_s == pytest.approx(before.step_time_s, rel=1e-12)
    assert after.memory == before.memory


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("layout.zero", "0"),
        ("layout.order", "pp-dp-cp-ep-tp"),
        ("training.overlap.grad_reduce", "false"),
        ("training.overlap.param_gather", "false"),
        ("training.overlap.tensor", "false"),
        ("network.algorithms.all_gather", "hierarchical"),
    ],
)
def test_a_field_that_changes_the_step_is_not_called_unused(path: str, value: str, tmp_path: Path):
    text = TWO_NODES + ALL_AXES
    if path == "network.algorithms.all_gather":
        text = TWO_NODES + LAYOUT.format(tp=1, sp="false", pp=1, dp=16, zero=1)
    scenario = load(text, tmp_path)
    assert path not in paths_of(scenario)
    before, after = sim.simulate(scenario), sim.simulate(load(text, tmp_path, f"{path}={value}"))
    assert (after.step_time_s, after.memory) != (before.step_time_s, before.memory)


def test_overlap_of_experts_is_unused_where_no_two_passes_can_be_a_pair(small: Callable[..., Scenario]):
    changes: dict[str, object] = {
        "model.experts": {"num_experts": 8, "top_k": 2, "ffn_hidden": 1024},
        "layout.ep": 4,
        "training.overlap.expert": True,
    }
    path = "training.overlap.expert"
    one, two = (small(changes | {"training.global_batch": 16 * count}) for count in (1, 2))
    assert path in paths_of(one)
    assert path not in paths_of(two)
    without = sim.simulate(small(changes | {"training.global_batch": 16, path: False}))
    assert sim.simulate(one).step_time_s == without.step_time_s


def test_tiers_beyond_a_node_are_unused_where_everything_stays_in_it(tmp_path: Path):
    text = TWO_NODES.replace("nodes: 2", "nodes: 1") + NO_REPLICAS
    scenario = load(text, tmp_path)
    fabric = scenario.topology.build()
    rows = traffic(lower(scenario, fabric, "folded"), scenario, fabric)
    assert unused_tiers(fabric, rows) == ["pcie", "nic", "spine"]
