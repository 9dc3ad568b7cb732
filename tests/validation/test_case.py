"""From rows to scenarios: what is stated is taken over, what is left open is assumed, the rest has a reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from sim.errors import SimError
from sim.validation.case import Case, Maker
from sim.validation.published import read_published
from sim.validation.shipped import shipped_runs

CaseWith: TypeAlias = Callable[..., Case]


def test_a_row_that_states_all_assumes_nothing(case_with: CaseWith):
    case = case_with()
    assert case.reason == ""
    assert case.assumed == ()
    assert case.scenario is not None
    layout, training = case.scenario.layout, case.scenario.training
    assert (layout.tp, layout.pp, layout.dp, layout.zero, layout.schedule) == (2, 2, 4, 1, "1f1b")
    assert (training.global_batch, training.micro_batch, training.recompute) == (16, 1, "none")
    assert (case.measured_s, case.measured_from) == (2.5, "step_time_derived_s")


@pytest.mark.parametrize(
    ("framework", "year", "stack"),
    [
        ("Megatron-LM (2021-04)", "2021", "megatron-2021"),
        ("Megatron-LM of somebody", "2023", "megatron-2022-selective"),
        ("Megatron-LM dev", "2026", "megatron-lm"),
        ("Megatron-Bridge/NeMo 27.01", "2027", "megatron-core"),
        ("Composer/PyTorch FSDP", "2023", "fsdp"),
        ("torchtitan 2026-01", "2026", "torchtitan"),
        ("Megatron-DeepSpeed (BigScience)", "2022", "megatron-deepspeed"),
        ("a framework nobody knows", "2025", "megatron-core"),
        ("", "2025", "megatron-core"),
    ],
)
def test_framework_and_year_choose_the_stack(case_with: CaseWith, framework: str, year: str, stack: str):
    assert case_with(framework=framework, year=year).stack == stack


@pytest.mark.parametrize(
    ("network", "rate_bytes_per_s", "nics"),
    [
        ("8x200Gb/s HDR InfiniBand per node", 25e9, 8),
        ("4x Omni-Path 100Gb/s per node", 12.5e9, 4),
        ("InfiniBand 8x50GB/s, NVLink4", 50e9, 8),
        ("1600Gb/s per node RoCE", 25e9, 8),
        ("400Gb/s per GPU RDMA", 50e9, 8),
        ("3-layer CLOS, Tomahawk4 (64x400G), 1:1", 25e9, 8),
        ("", 25e9, 8),
    ],
)
def test_the_network_is_read_from_its_words_or_is_the_usual_one(
    case_with: CaseWith, network: str, rate_bytes_per_s: float, nics: int
):
    case = case_with(network=network, gpu="a100-80gb", precision="bf16")
    assert case.scenario is not None, case.reason
    topology = case.scenario.topology
    assert topology.nic.bytes_per_s == pytest.approx(rate_bytes_per_s)
    assert getattr(topology, "nics_per_node", topology.gpus_per_node) == nics
    is_stated = bool(network) and "CLOS" not in network
    assert any("network of" in text for text in case.assumed) != is_stated


def test_a_job_of_several_racks_is_cut_into_equal_ones(case_with: CaseWith):
    case = case_with(gpu="gb200", num_gpus="256", gpus_per_node="4", network="NVL72 domain", global_batch="64")
    assert case.scenario is not None, case.reason
    assert (case.scenario.topology.racks, case.scenario.topology.trays_per_rack) == (4, 16)
    assert "4 racks of 64 GPUs" in case.assumed


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ({"gpu": "tpu-v4"}, "unknown GPU tpu-v4"),
        ({"kind": "hybrid"}, "hybrid"),
        ({"TP": ""}, "layout not stated (TP)"),
        ({"hidden": ""}, "shape not stated (hidden)"),
        ({"global_batch": ""}, "batch not stated"),
        ({"num_gpus": "24", "PP": "5"}, "does not divide 24 GPUs"),
        ({"step_time_derived_s": ""}, "no step time"),
        ({"global_batch": "17"}, "global_batch"),
    ],
)
def test_what_cannot_be_simulated_has_a_reason(case_with: CaseWith, cells: dict[str, str], words: str):
    case = case_with(**cells)
    assert case.scenario is None
    assert words in case.reason


@pytest.mark.parametrize(
    ("cells", "assumed"),
    [
        ({"micro_batch": ""}, "micro-batch 1 (not stated)"),
        ({"vocab": ""}, "vocabulary 128256 (not stated)"),
        ({"precision": ""}, "bf16 (number format not stated)"),
        ({"shard": ""}, "ZeRO-1 (not stated)"),
        ({"sequence_parallel": ""}, "sequence parallelism on (not stated)"),
        ({"shard": "zero1 over 1 ranks"}, "sharded over all 4 ranks of data parallelism, not over 1"),
        ({"schedule": "DualPipe"}, "1F1B for DualPipe"),
        ({"gpu": "h100-of-somebody"}, "GPU h100-of-somebody is taken as h100-sxm"),
        ({"recompute": ""}, "recompute none (not stated; the least that fits in memory)"),
    ],
)
def test_what_is_left_open_is_assumed_in_words(case_with: CaseWith, cells: dict[str, str], assumed: str):
    case = case_with(**cells)
    assert case.scenario is not None, case.reason
    assert assumed in case.assumed


def test_where_recomputation_is_not_stated_it_is_the_least_that_fits(case_with: CaseWith):
    case = case_with(recompute="", micro_batch="4", seq_len="32768", layers="48")
    assert case.scenario is not None
    assert case.scenario.training.recompute == "full"


def test_a_step_that_is_printed_as_flop_per_s_follows_from_them(case_with: CaseWith):
    timed = case_with()
    printed = case_with(step_time_derived_s="", tflops_per_gpu="500")
    doubled = case_with(step_time_derived_s="", tflops_per_gpu="1000")
    assert timed.scenario is not None
    assert printed.measured_from == "tflops_per_gpu"
    assert printed.measured_s == pytest.approx(2 * doubled.measured_s)


@pytest.mark.parametrize(
    ("definition", "value_bytes", "counts"),
    [
        ("nvidia-smi on first/last stage node, GB", 50e9, "peak"),
        ("GiB, max over ranks torch max_memory_allocated", 50 * 2**30, "allocated"),
        ("GB as labelled (reserved/allocated not stated)", 50e9, "reserved"),
    ],
)
def test_memory_is_held_against_what_it_counts(case_with: CaseWith, definition: str, value_bytes: float, counts: str):
    case = case_with(peak_mem_gb="50", mem_definition=definition)
    assert (case.measured_peak_bytes, case.memory_counts) == (value_bytes, counts)


@pytest.mark.parametrize(("column", "value"), [("hidden", "many"), ("num_gpus", "1.5"), ("step_time_derived_s", "-1")])
def test_a_cell_without_sense_is_an_error_at_its_place(case_with: CaseWith, column: str, value: str):
    with pytest.raises(SimError) as raised:
        case_with(**{column: value})
    assert f"mine.csv:2: {column}" in str(raised.value)
    assert repr(value) in str(raised.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("case_id,source\na,b\n", "missing column 'gpu', 'num_gpus', 'step_time_derived_s'"),
        ("case_id,source,gpu,num_gpus,step_time_derived_s\n", "no rows"),
        ("case_id,source,gpu,num_gpus,step_time_derived_s\na,b,h100,8,1\na,b,h100,8,1\n", "also on line 2"),
    ],
)
def test_a_file_that_is_no_table_of_runs_is_refused(tmp_path: Path, content: str, message: str):
    path = tmp_path / "runs.csv"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(SimError, match=message):
        read_published(path)


def test_every_shipped_row_has_a_source_and_a_tier_and_one_of_each_group_a_scenario(maker: Maker):
    runs = shipped_runs()
    assert {run.text("tier") for run in runs} == {"a", "b"}
    assert all(run.cells["source"] and run.cells["source_loc"] for run in runs)
    # The catalogue has no fp4 rate of GB300.
    playable = [run for run in runs if run.text("precision") != "nvfp4"]
    first = {run.cells["source"]: run for run in reversed(playable)}
    cases = [maker.case(run) for run in first.values()]
    assert [case.run.case_id for case in cases if case.scenario is None] == []
    assert [case.group for case in cases if case.group == case.run.cells["source"]] == [], "a source without a rule"
