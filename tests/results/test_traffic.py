from __future__ import annotations

from pathlib import Path

import pytest

import sim
from sim.engine.play import play
from sim.program.lower import Fidelity, lower
from sim.results.links import link_use
from sim.results.traffic import TrafficRow, traffic
from sim.spec.scenario import Scenario

CLASSIC = """\
model: llama2-70b
gpu: h100-sxm
topology: dgx-h100
layout: {tp: 8, sequence_parallel: true, pp: 2, dp: 8, zero: 1, schedule: 1f1b}
training: {seq_len: 4096, global_batch: 64, micro_batch: 1, precision: bf16, recompute: none}
"""
MICROBATCHES = 64 // 8
LAYERS_OF_A_RANK = 80 // 2
TOKENS, HIDDEN = 4096, 8192
"""Of the classic layout: a rank has 40 layers and 8 micro-batches of 4,096 tokens."""

MOE = """\
model: mixtral-8x7b
gpu: h100-sxm
topology: dgx-h100
layout: {tp: 2, sequence_parallel: true, pp: 4, dp: 16, ep: 8, zero: 0, schedule: 1f1b}
training: {seq_len: 4096, global_batch: 128, micro_batch: 1, precision: bf16, recompute: full}
network: {algorithms: {all_reduce: ring}}
"""
ZERO3 = """\
model: llama2-7b
gpu: a100-80gb-sxm
topology: single-node-a100
layout: {tp: 1, cp: 2, dp: 4, zero: 3, schedule: 1f1b}
training: {seq_len: 4096, global_batch: 8, micro_batch: 1, precision: bf16, recompute: none}
"""
FILES = {"classic": CLASSIC, "moe": MOE, "zero3": ZERO3}


def scenario_of(text: str, folder: Path) -> Scenario:
    path = folder / "step.yaml"
    path.write_text(text)
    return sim.load(str(path))


def rows_of(scenario: Scenario, fidelity: Fidelity = "folded") -> dict[tuple[str, str, str], TrafficRow]:
    fabric = scenario.topology.build()
    rows = traffic(lower(scenario, fabric, fidelity), scenario, fabric)
    by_name = {(row.kind, row.op, row.group): row for row in rows}
    assert len(by_name) == len(rows)
    return by_name


def test_tensor_parallel_calls_carry_the_activations_of_a_micro_batch(tmp_path: Path):
    """Each layer gathers twice forward, twice again backward and twice for gradients, and scatters twice each way. The
    first stage has an embedding, whose scatter is a gather backward; the last has a head, with two gathers."""
    rows = rows_of(scenario_of(CLASSIC, tmp_path))
    gather, scatter = rows["tp", "all_gather", "tp"], rows["tp", "reduce_scatter", "tp"]
    nbytes = 2 * TOKENS * HIDDEN
    assert (gather.min_nbytes, gather.max_nbytes) == (nbytes, nbytes)
    assert gather.calls_per_step == MICROBATCHES * (6 * LAYERS_OF_A_RANK + 2)
    assert scatter.calls_per_step == MICROBATCHES * (4 * LAYERS_OF_A_RANK + 1)
    assert gather.bytes_per_step == gather.calls_per_step * nbytes


def test_tensor_parallel_groups_stay_inside_a_node(tmp_path: Path):
    row = rows_of(scenario_of(CLASSIC, tmp_path))["tp", "all_gather", "tp"]
    assert (row.num_groups, row.group_size, row.nodes_per_group) == (16, 8, 1)
    assert set(row.bytes_by_tier) == {"nvlink"}


def test_tensor_parallelism_across_nodes_crosses_nics(tmp_path: Path):
    scenario = scenario_of(CLASSIC.replace("schedule: 1f1b", "schedule: 1f1b, order: dp-tp-pp"), tmp_path)
    row = rows_of(scenario)["tp", "all_gather", "tp"]
    assert (row.num_groups, row.group_size, row.nodes_per_group) == (16, 8, 8)
    assert {"pcie", "nic"} <= set(row.bytes_by_tier)


def test_a_ring_of_eight_puts_seven_messages_on_its_links_and_nvlink_has_two_hops(tmp_path: Path):
    """8 groups x calls of either pipeline rank; n edges carry (n - 1) / n of a message each, up and down."""
    row = rows_of(scenario_of(CLASSIC, tmp_path))["tp", "reduce_scatter", "tp"]
    calls_of_all = 8 * MICROBATCHES * (2 * 4 * LAYERS_OF_A_RANK + 1 + 1)
    assert row.algorithm == "ring"
    assert row.bytes_by_tier["nvlink"] == pytest.approx(calls_of_all * 7 * 2 * row.max_nbytes, rel=1e-9)


def test_gradients_are_reduced_once_in_fp32_and_parameters_gathered_once_in_bf16(tmp_path: Path):
    rows = rows_of(scenario_of(CLASSIC, tmp_path))
    reduced, gathered = rows["dp_reduce", "reduce_scatter", "dp_cp"], rows["dp_gather", "all_gather", "dp_cp"]
    assert reduced.bytes_per_step == pytest.approx(2 * gathered.bytes_per_step, rel=1e-12)
    layer = (2 * HIDDEN * HIDDEN + 2 * HIDDEN * 1024 + 3 * HIDDEN * 28672) / 8 + 2 * HIDDEN
    vocabulary = 32768 // 8 * HIDDEN
    assert gathered.bytes_per_step == pytest.approx(2 * (LAYERS_OF_A_RANK * layer + vocabulary + HIDDEN), rel=1e-12)


def test_pipeline_hops_send_a_shard_of_each_micro_batch(tmp_path: Path):
    rows = rows_of(scenario_of(CLASSIC, tmp_path))
    for op in ("send forward", "send backward"):
        row = rows["pp", op, "pp"]
        assert row.max_nbytes == 2 * TOKENS * HIDDEN / 8
        assert row.calls_per_step == MICROBATCHES
        assert (row.num_groups, row.group_size, row.nodes_per_group) == (64, 2, 2)
        assert row.bytes_by_tier["nic"] == pytest.approx(64 * MICROBATCHES * row.max_nbytes * 2, rel=1e-9)


def test_experts_exchange_four_times_a_layer_and_twice_more_with_full_recomputation(tmp_path: Path):
    """Dispatch and combine: forward, recomputed forward, backward, on each of 8 layers, for 8 micro-batches."""
    row = rows_of(scenario_of(MOE, tmp_path))["ep", "all_to_all", "ep"]
    assert row.calls_per_step == 6 * 8 * 8
    assert row.max_nbytes == 2 * (TOKENS / 2) * 2 * 4096
    assert (row.num_groups, row.group_size, row.nodes_per_group) == (16, 8, 1)


def test_gradients_of_experts_are_reduced_over_their_own_replicas(tmp_path: Path):
    """tp x dp = 2 x 16 ranks of a stage hold 16 copies of a dense parameter, but 2 x 16 / 8 = 4 of an expert."""
    rows = rows_of(scenario_of(MOE, tmp_path))
    assert rows["dp_reduce", "all_reduce", "dp_cp"].group_size == 16
    experts = rows["dp_reduce", "all_reduce", "edp"]
    assert (experts.num_groups, experts.group_size) == (32, 4)
    assert experts.bytes_per_step == pytest.approx(4 * 8 * (3 * 4096 * 14336), rel=1e-12)


def test_rows_stand_in_the_order_of_streams(tmp_path: Path):
    kinds = list(dict.fromkeys(kind for kind, _, _ in rows_of(scenario_of(CLASSIC, tmp_path))))
    assert kinds == ["tp", "dp_reduce", "dp_gather", "grad_norm", "pp"]


def test_one_rank_sends_nothing(tmp_path: Path):
    text = ZERO3.replace("topology: single-node-a100", "topology: {use: single-node-a100, gpus_per_node: 1}")
    scenario = scenario_of(text.replace("cp: 2, dp: 4, zero: 3", "dp: 1, zero: 0"), tmp_path)
    assert rows_of(scenario) == {}


@pytest.mark.parametrize("name", FILES)
def test_folded_and_full_programs_have_the_same_traffic(name: str, tmp_path: Path):
    scenario = scenario_of(FILES[name], tmp_path)
    folded, full = rows_of(scenario), rows_of(scenario, "full")
    assert set(folded) == set(full)
    for key, row in folded.items():
        assert row.bytes_by_tier == pytest.approx(full[key].bytes_by_tier, rel=1e-9)
        assert row.bytes_per_step == pytest.approx(full[key].bytes_per_step, rel=1e-12)
        assert row.calls_per_step == full[key].calls_per_step


@pytest.mark.parametrize("name", FILES)
def test_bytes_on_each_tier_equal_the_integral_of_the_rates_that_were_played(name: str, tmp_path: Path):
    scenario = scenario_of(FILES[name], tmp_path)
    program = lower(scenario, scenario.topology.build(), "folded")
    rows = rows_of(scenario)
    for tier, use in link_use(play(program, scenario.gpu)).items():
        planned = sum(row.bytes_by_tier.get(tier, 0.0) for row in rows.values())
        assert use.bytes == pytest.approx(planned, rel=1e-9)
