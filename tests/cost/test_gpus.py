from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

import sim
from sim.cost.kernels import Attention, Gemm, Stream, duration_s, flop
from sim.spec.gpu import Gpu, NumberFormat
from sim.spec.sourced import numbers

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
    said = {key for key, source in gpu.sources.items() if source.startswith("estimated")}
    assert set(gpu.estimated) == said


@pytest.mark.parametrize("name", NAMES)
def test_no_source_is_empty_or_a_placeholder(name: str) -> None:
    assert all(len(source) >= 10 for source in load(name).sources.values())


@pytest.mark.parametrize("name", NAMES)
def test_carried_over_numbers_equal_the_numbers_of_the_gpu_that_the_source_names(name: str) -> None:
    gpu = load(name)
    prefix = "estimated: carried over from "
    for key, source in gpu.sources.items():
        origin = source.removeprefix(prefix).split(",")[0].split(" ")[0].rstrip(";")
        if source.startswith(prefix) and origin in NAMES and key.rsplit(".", 1)[0] != "gemm.flop_frac":
            assert numbers(gpu)[key] == numbers(load(origin))[key], f"{key}: {source}"


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
def test_no_kernel_beats_the_datasheet(name: str) -> None:
    gpu = load(name)
    number_format = training_format(gpu)
    gemm = Gemm("large", 16384, 16384, 65536, number_format)
    forward = Attention("long", 4, 65536, 65536, 32, 8, 128, 128, 1.0, False, number_format)
    backward = Attention("long", 4, 65536, 65536, 32, 8, 128, 128, 1.0, True, number_format)
    for kernel in (gemm, forward, backward):
        assert flop(kernel) / duration_s(kernel, gpu) < gpu.peak_flop_per_s[number_format]
    assert 1e9 / duration_s(Stream("large", 1e9), gpu) < gpu.hbm_bytes_per_s


@pytest.mark.parametrize("name", NAMES)
def test_backward_attention_is_no_faster_per_flop_than_forward(name: str) -> None:
    gpu = load(name)
    assert gpu.attention.backward.flop_frac <= gpu.attention.forward.flop_frac
    assert gpu.attention.backward.s_half >= gpu.attention.forward.s_half


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


def test_a_peak_without_a_share_is_refused() -> None:
    entry = read("h100-sxm")
    del entry["gemm"]["flop_frac"]["fp8"]
    del entry["sources"]["gemm.flop_frac.fp8"]
    with pytest.raises(
        ValidationError, match=r"gemm\.flop_frac has bf16, fp16, tf32, fp32 but peak has bf16, fp16, fp8"
    ):
        Gpu.model_validate(entry)


def test_a_number_without_a_source_is_refused() -> None:
    entry = read("h100-sxm")
    del entry["sources"]["gemm.k_half"]
    with pytest.raises(ValidationError, match=r"no source for gemm\.k_half"):
        Gpu.model_validate(entry)


def test_a_source_for_no_number_is_refused() -> None:
    entry = read("h100-sxm")
    entry["sources"]["nvlink"] = "some page"
    with pytest.raises(ValidationError, match="name no number of h100-sxm: nvlink"):
        Gpu.model_validate(entry)
