from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.cost.attention import (
    BURST_S,
    HBM_FRAC,
    Attention,
    Device,
    Shape,
    attention_bytes,
    attention_flop,
    attention_s,
    constants_of,
    head_dim_share,
    last_query_frac,
    lone_launch_s,
    outside,
    products_s,
)
from sim.errors import SimError
from sim.spec.gpu import AttentionConstants, AttentionPass, Gpu

MEASURED = Path(__file__).parent / "measured_attention.csv"
CORE = Attention("core", 1, 1000, 1000, 10, 10, 128, 128, 1.0, is_backward=False, format="bf16", kernel="fa2")
FORWARD_S = 5.12e-5
"""FLOP of CORE at 1e14 FLOP/s."""

CUDNN = AttentionConstants(
    forward=AttentionPass(flop_frac=0.623, s_half=15.8, softmax_dim=118),
    backward=AttentionPass(flop_frac=0.557, s_half=302, softmax_dim=29.3),
    full_head_dim=188,
    edge_keys=180,
    tail_rows=64,
    launch_s=5e-6,
    long_frac=1.0,
    in_run_frac=1.0,
    range_seq_len=(1024, 16384),
    range_head_dim=(64, 256),
)
"""Fitted to cuDNN 9 in the figures of FlashAttention-3 (arXiv 2407.08608)."""


def constants(**changed: Any) -> AttentionConstants:
    """Every share 1 and nothing lost, unless given: the backward pass at half of the peak."""
    ideal = CUDNN.model_copy(
        update={
            "forward": AttentionPass(flop_frac=1.0, s_half=0.0, softmax_dim=0.0),
            "backward": AttentionPass(flop_frac=0.5, s_half=0.0, softmax_dim=0.0),
            "full_head_dim": 128.0,
            "edge_keys": 0.0,
            "tail_rows": 0.0,
            "launch_s": 0.0,
        }
    )
    return ideal.model_copy(update=changed)


def forward(**changed: float) -> AttentionPass:
    return constants().forward.model_copy(update=changed)


def gpu_with(hbm_bytes_per_s: float = 1e15, **changed: Any) -> Gpu:
    """100 TFLOP/s on 100 SMs."""
    return Gpu.model_construct(
        name="ideal",
        peak_flop_per_s={"bf16": 1e14, "fp16": 1e14},
        hbm_bytes_per_s=hbm_bytes_per_s,
        num_sms=100,
        attention={"fa2": constants(**changed)},
    )


def h100() -> Gpu:
    return Gpu.model_construct(
        name="h100",
        peak_flop_per_s={"bf16": 989e12, "fp16": 989e12},
        hbm_bytes_per_s=3350e9,
        num_sms=132,
        attention={"cudnn": CUDNN, "fa2": constants()},
    )


def measured() -> list[tuple[Attention, float]]:
    lines = [line for line in MEASURED.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    rows = []
    for row in csv.DictReader(lines):
        seq_len, heads, head_dim = int(row["seq_len"]), int(row["heads"]), int(row["head_dim"])
        work_frac = 0.5 if row["is_causal"] == "1" else 1.0
        shape = (int(row["batch"]), seq_len, seq_len, heads, heads, head_dim, head_dim, work_frac)
        kernel = Attention("row", *shape, row["direction"] == "backward", "fp16", "cudnn")
        rows.append((kernel, float(row["tflop_per_s"]) * 1e12))
    return rows


def rate(kernel: Attention) -> float:
    return attention_flop(kernel) / attention_s(kernel, h100())


def test_forward_flop_are_two_products_of_every_score() -> None:
    # 2 x 10 heads x 1000 x 1000 scores x (128 + 128).
    assert attention_flop(CORE) == 5.12e9
    assert attention_flop(replace(CORE, qk_head_dim=192)) == 2 * 10 * 1e6 * (192 + 128)


def test_a_causal_mask_halves_the_flop() -> None:
    assert attention_flop(replace(CORE, work_frac=0.5)) == 2.56e9


def test_the_backward_pass_is_two_and_a_half_forward_passes_of_flop() -> None:
    assert attention_flop(replace(CORE, is_backward=True)) == 2.5 * attention_flop(CORE)


def test_grouped_heads_change_bytes_but_no_flop() -> None:
    grouped = replace(CORE, kv_heads=1)
    assert attention_flop(grouped) == attention_flop(CORE)
    # Q and O: 1000 x 10 x 256, K and V: 1000 x 1 x 256 values of 2 bytes.
    assert attention_bytes(grouped) == 2 * 256 * (10_000 + 1_000)


def test_the_backward_pass_moves_twice_the_bytes() -> None:
    # Q, O, dO, dQ and K, V, dK, dV.
    assert attention_bytes(replace(CORE, is_backward=True)) == 2 * attention_bytes(CORE)


def test_a_compute_bound_kernel_takes_launch_and_flop_over_the_rate() -> None:
    assert attention_s(CORE, gpu_with(launch_s=1e-6)) == pytest.approx(1e-6 + FORWARD_S, rel=1e-9)
    assert attention_s(CORE, gpu_with(forward=forward(flop_frac=0.25))) == pytest.approx(4 * FORWARD_S, rel=1e-9)


def test_the_backward_pass_has_its_own_rate() -> None:
    assert attention_s(replace(CORE, is_backward=True), gpu_with()) == pytest.approx(2.5 * FORWARD_S / 0.5, rel=1e-9)


def test_the_rate_halves_where_a_query_sees_s_half_keys() -> None:
    gpu = gpu_with(forward=forward(s_half=500.0))
    assert attention_s(replace(CORE, work_frac=0.5), gpu) == pytest.approx(2 * FORWARD_S / 2, rel=1e-9)
    assert attention_s(CORE, gpu) == pytest.approx(1.5 * FORWARD_S, rel=1e-9)


def test_an_edge_of_the_mask_costs_its_keys() -> None:
    gpu = gpu_with(edge_keys=100.0)
    assert attention_s(CORE, gpu) == pytest.approx(FORWARD_S, rel=1e-9)
    # One edge: 600 keys for 500.
    assert attention_s(replace(CORE, work_frac=0.5), gpu) == pytest.approx(FORWARD_S * 0.6, rel=1e-9)
    # Nearly two edges: 100 + 180 keys.
    assert attention_s(replace(CORE, work_frac=0.1), gpu) == pytest.approx(FORWARD_S * 0.28, rel=1e-9)


def test_the_last_tile_runs_on_one_sm() -> None:
    # 50 of 10,000 rows of queries again, at a hundredth of the rate: half of the whole kernel.
    assert attention_s(CORE, gpu_with(tail_rows=50.0)) == pytest.approx(1.5 * FORWARD_S, rel=1e-9)
    # Under a causal mask it still sees all keys.
    causal = replace(CORE, work_frac=0.5)
    assert attention_s(causal, gpu_with(tail_rows=50.0)) == pytest.approx(FORWARD_S, rel=1e-9)
    # At head dim 32 it has twice the rows.
    narrow = replace(CORE, qk_head_dim=32, v_head_dim=32)
    assert attention_s(narrow, gpu_with(tail_rows=50.0)) == pytest.approx(2 * FORWARD_S / 4, rel=1e-9)


def test_a_tile_has_no_more_rows_than_the_sequence() -> None:
    short = replace(CORE, q_len=10, kv_len=10)
    # 100 rows of queries and a tile of 10 on one of 100 SMs.
    assert attention_s(short, gpu_with(tail_rows=500.0)) == pytest.approx(11 * attention_s(short, gpu_with()), rel=1e-9)


def test_a_memory_bound_kernel_takes_its_bytes_over_the_hbm_rate() -> None:
    # 2 x 256 x 20000 bytes at 1e9 bytes/s.
    assert attention_s(CORE, gpu_with(hbm_bytes_per_s=1e9)) == pytest.approx(1.024e-2 / HBM_FRAC, rel=1e-9)


def test_a_score_costs_softmax_dim_more_columns() -> None:
    # At 128: (128 + 64) / 128; at 64: (64 + 64) / 64, both stated at 128.
    assert head_dim_share(64, 64.0, 128.0) == pytest.approx(1.5 / 2.0, rel=1e-12)
    assert head_dim_share(128, 64.0, 512.0) == 1.0
    assert head_dim_share(192, 0.0, 512.0) == 1.0


def test_heads_wider_than_a_tile_lose_in_proportion() -> None:
    wide = replace(CORE, qk_head_dim=256, v_head_dim=256)
    assert attention_s(wide, gpu_with()) == pytest.approx(2 * 2 * FORWARD_S, rel=1e-9)
    assert attention_s(wide, gpu_with(full_head_dim=256.0)) == pytest.approx(2 * FORWARD_S, rel=1e-9)


def test_different_head_dims_cost_as_their_mean() -> None:
    gpu = gpu_with(forward=forward(softmax_dim=50.0), full_head_dim=256.0)
    latent = replace(CORE, qk_head_dim=192, v_head_dim=128)
    assert attention_s(latent, gpu) == pytest.approx(attention_s(replace(CORE, qk_head_dim=160, v_head_dim=160), gpu))


@pytest.mark.parametrize("window", [0.1, 0.5, 1.0])
def test_the_last_query_sees_its_window(window: float) -> None:
    assert last_query_frac(window - window**2 / 2) == pytest.approx(window, rel=1e-9)


def test_a_run_is_slower_than_a_burst_by_the_sustained_clock() -> None:
    gpu = gpu_with(in_run_frac=0.8, long_frac=0.5, launch_s=1e-6)
    assert attention_s(CORE, gpu) == pytest.approx(1e-6 + FORWARD_S / 0.8, rel=1e-9)
    assert attention_s(CORE, gpu, burst=True) == pytest.approx(1e-6 + FORWARD_S, rel=1e-9)


def test_a_long_lone_launch_loses_the_clock_of_a_burst_part_of_the_way() -> None:
    long = replace(CORE, batch=1000)
    gpu = gpu_with(in_run_frac=0.8, long_frac=0.5)
    assert attention_s(long, gpu, burst=True) == pytest.approx(BURST_S + (0.0512 - BURST_S) / 0.5, rel=1e-9)


def test_a_fixed_clock_slows_nothing() -> None:
    assert lone_launch_s(1.0, 0.5, math.inf) == 1.0


def test_many_kernels_at_once_are_each_as_alone() -> None:
    seq_lens, work_fracs = np.array([100.0, 1000.0, 30.0]), np.array([0.5, 1.0, 0.2])
    device = Device(989e12, 3350e9, 132)
    many = products_s(
        Shape(2.0, seq_lens, seq_lens, 8.0, 8.0, 64.0, 64.0, work_fracs, 2.0), CUDNN, device, is_backward=True
    )
    alone = [
        products_s(Shape(2.0, s, s, 8.0, 8.0, 64.0, 64.0, frac, 2.0), CUDNN, device, is_backward=True)
        for s, frac in zip(seq_lens.tolist(), work_fracs.tolist(), strict=True)
    ]
    assert np.asarray(many).tolist() == pytest.approx(alone, rel=1e-12)


kernels = st.builds(
    Attention,
    name=st.just("any"),
    batch=st.integers(1, 32),
    q_len=st.integers(1, 32768),
    kv_len=st.integers(1, 32768),
    heads=st.integers(1, 128),
    kv_heads=st.just(1),
    qk_head_dim=st.sampled_from([32, 64, 128, 192, 256, 512]),
    v_head_dim=st.sampled_from([32, 64, 128, 256, 512]),
    work_frac=st.floats(0.01, 1.0),
    is_backward=st.booleans(),
    format=st.just("bf16"),
    kernel=st.just("cudnn"),
)


@given(kernel=kernels, field=st.sampled_from(["batch", "q_len", "kv_len", "heads"]), factor=st.integers(2, 9))
def test_more_attention_takes_more_time(kernel: Attention, field: str, factor: int) -> None:
    larger = replace(kernel, **{field: getattr(kernel, field) * factor})
    assert attention_s(larger, h100()) > attention_s(kernel, h100())


@given(kernel=kernels)
def test_a_causal_mask_saves_time(kernel: Attention) -> None:
    square = replace(kernel, kv_len=kernel.q_len)
    assert attention_s(replace(square, work_frac=0.5), h100()) <= attention_s(replace(square, work_frac=1.0), h100())


@given(kernel=kernels)
def test_the_backward_pass_takes_longer(kernel: Attention) -> None:
    forward_s = attention_s(replace(kernel, is_backward=False), h100())
    assert forward_s < attention_s(replace(kernel, is_backward=True), h100())


@given(kernel=kernels)
def test_no_kernel_is_faster_than_the_peak_or_the_memory(kernel: Attention) -> None:
    lone_s = attention_s(kernel, h100(), burst=True)
    assert attention_flop(kernel) / lone_s < 989e12
    assert attention_bytes(kernel) / lone_s < 3350e9


def test_the_published_figures_hold_all_33_rows() -> None:
    assert len(measured()) == 33


@pytest.mark.parametrize("work_frac", [0.5, 1.0])
def test_forward_rates_of_cudnn_on_h100_are_met_within_five_percent(work_frac: float) -> None:
    rows = [row for row in measured() if row[0].work_frac == work_frac and not row[0].is_backward]
    assert len(rows) == 12
    assert np.mean([abs(rate(kernel) / published - 1) for kernel, published in rows]) < 0.05


def test_backward_over_forward_of_cudnn_is_met_within_eight_percent() -> None:
    published = {
        (kernel.q_len, kernel.qk_head_dim, kernel.work_frac, kernel.is_backward): r for kernel, r in measured()
    }
    pairs = [(kernel, r) for kernel, r in measured() if kernel.is_backward]
    assert len(pairs) == 9
    for kernel, backward in pairs:
        ahead = replace(kernel, is_backward=False)
        ratio = backward / published[(kernel.q_len, kernel.qk_head_dim, kernel.work_frac, False)]
        assert rate(kernel) / rate(ahead) == pytest.approx(ratio, rel=0.08)


@pytest.mark.parametrize("work_frac", [0.0, 1.5])
def test_a_share_of_scores_outside_0_to_1_is_our_mistake(work_frac: float) -> None:
    with pytest.raises(AssertionError, match="core: work_frac"):
        attention_s(replace(CORE, work_frac=work_frac), gpu_with())


def test_a_kernel_that_the_gpu_has_not_is_refused_with_those_that_it_has() -> None:
    with pytest.raises(SimError, match=r"h100: attention: .*got 'trtllm', allowed cudnn, fa2"):
        constants_of(h100(), "trtllm")


def test_a_shape_outside_the_measured_ones_is_named() -> None:
    gpu = gpu_with()
    assert outside(replace(CORE, kv_len=1024), gpu) is None
    assert outside(CORE, gpu) == "core: 1,000 keys (fitted to 1,024 to 16,384)"
    wide = replace(CORE, kv_len=32768, qk_head_dim=512, v_head_dim=512)
    assert outside(wide, gpu) == (
        "core: 32,768 keys (fitted to 1,024 to 16,384) and 512 head dim (fitted to 64 to 256)"
    )
