from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

import sim
from sim.calibrate.carried import RULE, carried
from sim.calibrate.entry import Entry, leaves, read_entry, source_key
from sim.calibrate.shipped import shipped
from sim.cost.attention import Attention, attention_flop, attention_s
from sim.cost.gemm import Gemm, gemm_flop, gemm_s
from sim.cost.grouped_gemm import GroupedGemm, grouped_gemm_flop, grouped_gemm_s
from sim.cost.stream import Stream, stream_s
from sim.spec.gpu import Gpu, NumberFormat
from sim.spec.sourced import num_estimated, numbers

KEYS = {"gemm": "gemm", "attention": "attention", "moe": "grouped_gemm", "memory_bound": "memory_bound"}
"""Where the constants of a kind stand."""

FILES = sorted((Path(sim.__file__).parent / "catalog" / "gpus").glob("*.yaml"))
NAMES = [
    "a100-40gb-sxm",
    "a100-80gb-pcie",
    "a100-80gb-sxm",
    "ascend-910b",
    "b200-sxm",
    "b300-sxm",
    "gb200",
    "gb300",
    "h100-pcie",
    "h100-sxm",
    "h20",
    "h200-sxm",
    "h800-sxm",
    "mi250x",
    "mi300x",
    "mi355x",
    "tpu-v4",
    "tpu-v5p",
    "tpu-v6e",
    "trainium2",
    "v100-sxm2",
]


def read(name: str) -> dict[str, Any]:
    path = next(file for file in FILES if file.stem == name)
    entry: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return entry


def load(name: str) -> Gpu:
    return Gpu.model_validate(read(name))


@cache
def entries() -> dict[str, Entry]:
    return {file.stem: read_entry(file) for file in FILES}


def training_format(gpu: Gpu) -> NumberFormat:
    return "bf16" if "bf16" in gpu.peak_flop_per_s else "fp16"


def test_the_catalogue_holds_21_accelerators() -> None:
    assert [file.stem for file in FILES] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_entry_loads_under_its_file_name(name: str) -> None:
    assert load(name).name == name


@pytest.mark.parametrize("name", NAMES)
def test_a_number_is_estimated_exactly_where_its_source_says_so(name: str) -> None:
    gpu = load(name)
    said = {number: gpu.sources[str(source_key(gpu.sources, number))] for number in numbers(gpu)}
    estimated = {number for number in said if source_key(gpu.estimated, number) is not None}
    assert estimated == {number for number, source in said.items() if source.startswith("estimated")}
    assert num_estimated(gpu) == len(estimated)


@pytest.mark.parametrize("name", NAMES)
def test_no_source_is_empty_or_a_placeholder(name: str) -> None:
    assert all(len(source) >= 10 for source in load(name).sources.values())


@pytest.mark.parametrize("name", NAMES)
def test_carried_over_numbers_are_those_that_their_sources_name(name: str) -> None:
    assert carried(entries())[name].tree == entries()[name].tree


@pytest.mark.parametrize("name", NAMES)
def test_what_says_that_it_is_carried_over_is_a_rule(name: str) -> None:
    for source in entries()[name].sources.values():
        assert ("carried over" in source) == (RULE.match(source) is not None), source


def test_a_gpu_of_which_kernels_were_measured_carries_none_of_them_over() -> None:
    for each in shipped():
        fitted = [key for key, said in entries()[each.gpu].sources.items() if said.startswith("fitted to ")]
        assert any(key.split(".")[0] == KEYS[each.kind] for key in fitted), each


@pytest.mark.parametrize("name", NAMES)
def test_the_ridge_point_lies_where_training_accelerators_do(name: str) -> None:
    # 30, not 50: the H20 is a Hopper with 15 % of the tensor-core rate and all of the memory rate (37 FLOP/byte).
    gpu = load(name)
    assert 30 < gpu.peak_flop_per_s[training_format(gpu)] / gpu.hbm_bytes_per_s < 1000


@pytest.mark.parametrize("name", NAMES)
def test_eight_bit_formats_double_the_16_bit_peak_within_three_percent(name: str) -> None:
    peak = load(name).peak_flop_per_s
    if "fp8" in peak:
        assert peak["fp8"] == pytest.approx(2 * peak["bf16"], rel=0.03)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("burst", [False, True])
def test_no_kernel_beats_the_datasheet(name: str, burst: bool) -> None:
    gpu = load(name)
    number_format = training_format(gpu)
    gemm = Gemm("large", 16384, 16384, 65536, number_format)
    grouped = GroupedGemm("large", ((8192, 8),), 16384, 65536, number_format)
    both = [long_attention(gpu, kernel, is_backward=back) for kernel in gpu.attention for back in (False, True)]
    rates = [
        gemm_flop(gemm) / gemm_s(gemm, gpu, burst=burst),
        grouped_gemm_flop(grouped) / grouped_gemm_s(grouped, gpu, burst=burst),
        *(attention_flop(attention) / attention_s(attention, gpu, burst=burst) for attention in both),
    ]
    assert max(rates) < gpu.peak_flop_per_s[number_format]
    assert 1e9 / stream_s(Stream("large", 1e9), gpu) < gpu.hbm_bytes_per_s


@pytest.mark.parametrize("name", NAMES)
def test_a_run_is_no_faster_than_a_burst(name: str) -> None:
    gpu = load(name)
    gemm = Gemm("medium", 4096, 4096, 4096, training_format(gpu))
    assert gemm_s(gemm, gpu) >= gemm_s(gemm, gpu, burst=True)


def long_attention(gpu: Gpu, kernel: Any, *, is_backward: bool) -> Attention:
    return Attention("long", 4, 65536, 65536, 32, 8, 128, 128, 1.0, is_backward, training_format(gpu), kernel)


@pytest.mark.parametrize("name", NAMES)
def test_backward_attention_is_no_faster_per_flop_than_forward(name: str) -> None:
    gpu = load(name)
    for kernel in gpu.attention:
        forward, backward = (long_attention(gpu, kernel, is_backward=back) for back in (False, True))
        rates = [attention_flop(each) / attention_s(each, gpu) for each in (forward, backward)]
        assert rates[1] <= rates[0]


@pytest.mark.parametrize("name", NAMES)
def test_narrower_numbers_are_no_slower(name: str) -> None:
    gpu = load(name)
    order: list[NumberFormat] = ["fp32", "tf32", "bf16", "fp8", "fp4"]
    times = [gemm_s(Gemm("large", 8192, 8192, 8192, each), gpu) for each in order if each in gpu.peak_flop_per_s]
    assert times == sorted(times, reverse=True)


@pytest.mark.parametrize("name", NAMES)
def test_the_slowdown_of_kernels_is_what_its_source_says(name: str) -> None:
    gpu = load(name)
    for key, factor in gpu.slowdown.model_dump().items():
        source = gpu.sources[f"slowdown.{key}"]
        taken = re.match(r"estimated: (\d+) SMs without the (\d+) ", source)
        if taken is not None:
            of, without = map(int, taken.groups())
            assert of == gpu.num_sms
            assert factor == pytest.approx(of / (of - without), abs=5e-4)
        elif source.startswith("estimated: as collective"):
            assert factor == gpu.slowdown.collective
        elif "engines of their own" in source:
            assert factor == 1
        else:
            assert str(factor) in source


def test_a_peak_without_constants_is_refused() -> None:
    entry = read("h100-sxm")
    del entry["gemm"]["fp8"]
    for key in [key for key in entry["sources"] if key.startswith("gemm.fp8")]:
        del entry["sources"][key]
    with pytest.raises(ValidationError, match=r"gemm has bf16, fp16, tf32, fp32 but peak has bf16, fp16, fp8"):
        Gpu.model_validate(entry)


def test_a_number_without_a_source_is_refused() -> None:
    entry = read("h100-sxm")
    del entry["sources"]["tdp"]
    with pytest.raises(ValidationError, match=r"no source for tdp"):
        Gpu.model_validate(entry)


def test_a_source_for_no_number_is_refused() -> None:
    entry = read("h100-sxm")
    entry["sources"]["nvlink"] = "some page"
    with pytest.raises(ValidationError, match="of h100-sxm: nvlink"):
        Gpu.model_validate(entry)


@pytest.mark.parametrize("name", NAMES)
def test_a_file_reads_the_same_as_its_entry(name: str) -> None:
    written = {key for key, _ in leaves({key: value for key, value in read(name).items() if key not in UNSOURCED})}
    assert set(numbers(load(name))) <= written


UNSOURCED = ("name", "sources", "estimated")
