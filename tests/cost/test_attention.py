from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

import sim
from sim.cost.attention import attention_bytes, head_dim_share
from sim.cost.kernels import Attention, duration_s, flop
from sim.spec.gpu import Gpu

CATALOGUE = Path(sim.__file__).parent / "catalog" / "gpus"
MEASURED = Path(__file__).parent / "measured_attention.csv"
CORE = Attention("core", 1, 1000, 1000, 10, 10, 128, 128, 1.0, is_backward=False, format="bf16")


def load(name: str) -> Gpu:
    return Gpu.model_validate(yaml.safe_load((CATALOGUE / f"{name}.yaml").read_text(encoding="utf-8")))


def gpu_with(hbm_bytes_per_s: float = 1e15, launch_s: float = 0.0, **forward: Any) -> Gpu:
    """100 TFLOP/s; every share 1 unless given; the backward pass at half of the peak."""
    gpu = load("a100-80gb-sxm")
    full = {"flop_frac": 1.0, "s_half": 0.0, "head_dim_64_frac": 1.0}
    passes = {
        "forward": gpu.attention.forward.model_copy(update=full | forward),
        "backward": gpu.attention.backward.model_copy(update=full | {"flop_frac": 0.5}),
        "launch_s": launch_s,
    }
    return gpu.model_copy(
        update={
            "peak_flop_per_s": {"bf16": 1e14},
            "hbm_bytes_per_s": hbm_bytes_per_s,
            "attention": gpu.attention.model_copy(update=passes),
            "memory_bound": gpu.memory_bound.model_copy(update={"hbm_frac": 1.0}),
        }
    )


def measured() -> list[tuple[Attention, float]]:
    lines = [line for line in MEASURED.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    rows = []
    for row in csv.DictReader(lines):
        seq_len, heads, head_dim = int(row["seq_len"]), int(row["heads"]), int(row["head_dim"])
        work_frac = 0.5 if row["is_causal"] == "1" else 1.0
        is_backward = row["direction"] == "backward"
        kernel = Attention(
            "row", int(row["batch"]), seq_len, seq_len, heads, heads, head_dim, head_dim, work_frac, is_backward, "fp16"
        )
        rows.append((kernel, float(row["tflop_per_s"]) * 1e12))
    return rows


def mean_error(rows: list[tuple[Attention, float]]) -> float:
    gpu = load("h100-sxm")
    errors = [abs(flop(kernel) / duration_s(kernel, gpu) / rate - 1) for kernel, rate in rows]
    return sum(errors) / len(errors)


def test_forward_flop_are_two_products_of_every_score() -> None:
    # 2 x 10 heads x 1000 x 1000 scores x (128 + 128).
    assert flop(CORE) == 5.12e9
    assert flop(replace(CORE, qk_head_dim=192)) == 2 * 10 * 1e6 * (192 + 128)


def test_a_causal_mask_halves_the_flop() -> None:
    assert flop(replace(CORE, work_frac=0.5)) == 2.56e9


def test_the_backward_pass_is_two_and_a_half_forward_passes_of_flop() -> None:
    assert flop(replace(CORE, is_backward=True)) == 2.5 * flop(CORE)


def test_grouped_heads_change_bytes_but_no_flop() -> None:
    grouped = replace(CORE, kv_heads=1)
    assert flop(grouped) == flop(CORE)
    # Q and O: 1000 x 10 x 256, K and V: 1000 x 1 x 256 values of 2 bytes.
    assert attention_bytes(grouped) == 2 * 256 * (10_000 + 1_000)


def test_the_backward_pass_moves_twice_the_bytes() -> None:
    # Q, O, dO, dQ and K, V, dK, dV.
    assert attention_bytes(replace(CORE, is_backward=True)) == 2 * attention_bytes(CORE)


def test_a_compute_bound_kernel_takes_launch_and_flop_over_the_rate() -> None:
    assert duration_s(CORE, gpu_with(launch_s=1e-6)) == pytest.approx(1e-6 + 5.12e-5, rel=1e-9)
    assert duration_s(CORE, gpu_with(flop_frac=0.25)) == pytest.approx(4 * 5.12e-5, rel=1e-9)


def test_the_backward_pass_has_its_own_rate() -> None:
    assert duration_s(replace(CORE, is_backward=True), gpu_with()) == pytest.approx(2.5 * 5.12e-5 / 0.5, rel=1e-9)


def test_the_rate_halves_where_a_query_sees_s_half_keys() -> None:
    gpu = gpu_with(s_half=500.0)
    assert duration_s(replace(CORE, work_frac=0.5), gpu) == pytest.approx(2 * 2.56e-5, rel=1e-9)
    assert duration_s(CORE, gpu) == pytest.approx(1.5 * 5.12e-5, rel=1e-9)


def test_a_memory_bound_kernel_takes_its_bytes_over_the_hbm_rate() -> None:
    # 2 x 256 x 20000 bytes at 1e9 bytes/s.
    assert duration_s(CORE, gpu_with(hbm_bytes_per_s=1e9)) == pytest.approx(1.024e-2, rel=1e-9)


def test_narrow_heads_run_slower_by_the_share_of_each_halving() -> None:
    assert head_dim_share(128, 0.8) == 1.0
    assert head_dim_share(64, 0.8) == pytest.approx(0.8, rel=1e-9)
    assert head_dim_share(32, 0.8) == pytest.approx(0.64, rel=1e-9)
    assert 0.8 < head_dim_share(96, 0.8) < 1.0
    assert head_dim_share(160, 0.8) == 1.0
    narrow = replace(CORE, qk_head_dim=64, v_head_dim=64)
    assert duration_s(narrow, gpu_with(head_dim_64_frac=0.8)) == pytest.approx(2.56e-5 / 0.8, rel=1e-9)


@pytest.mark.parametrize("field", ["batch", "q_len", "kv_len", "heads"])
@pytest.mark.parametrize("name", ["a100-80gb-sxm", "b200-sxm", "h100-sxm", "mi300x"])
def test_more_attention_never_takes_less_time(name: str, field: str) -> None:
    gpu = load(name)
    small = replace(CORE, q_len=128, kv_len=128, kv_heads=1)
    times = [duration_s(replace(small, **{field: getattr(small, field) * factor}), gpu) for factor in range(1, 40)]
    assert times == sorted(times)
    assert times[0] < times[-1]


def test_the_published_figures_hold_all_33_rows() -> None:
    assert len(measured()) == 33


def test_causal_forward_rates_of_cudnn_on_h100_are_met_within_four_percent() -> None:
    assert mean_error([row for row in measured() if row[0].work_frac == 0.5]) < 0.04


def test_full_forward_rates_of_cudnn_on_h100_are_met_within_nine_percent() -> None:
    assert mean_error([row for row in measured() if row[0].work_frac == 1.0 and not row[0].is_backward]) < 0.09


def test_backward_rates_of_cudnn_on_h100_are_met_within_two_percent() -> None:
    assert mean_error([row for row in measured() if row[0].is_backward]) < 0.02


def test_a100_lies_between_the_shares_that_flash_attention_2_publishes() -> None:
    # 50 to 73 % of the peak on A100, forward (FlashAttention-2, arXiv 2307.08691, abstract).
    kernel = Attention("core", 4, 8192, 8192, 32, 32, 128, 128, 0.5, is_backward=False, format="bf16")
    assert 0.5 < flop(kernel) / duration_s(kernel, load("a100-80gb-sxm")) / 312e12 < 0.73


@pytest.mark.parametrize("work_frac", [0.0, 1.5])
def test_a_share_of_scores_outside_0_to_1_is_our_mistake(work_frac: float) -> None:
    with pytest.raises(AssertionError, match="core: work_frac"):
        duration_s(replace(CORE, work_frac=work_frac), load("h100-sxm"))
