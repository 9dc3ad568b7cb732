from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sim.cost.grouped_gemm import (
    OVERLAP_POWER,
    FusedMoe,
    GroupedGemm,
    Load,
    Machine,
    fused_moe_s,
    grouped_gemm_flop,
    grouped_gemm_s,
    moved_bytes,
    outside,
    overlapped_s,
    reread_bytes,
)
from sim.errors import SimError
from sim.spec.gpu import FusedMoeRate, Gpu, GroupedGemmConstants, GroupedRate

PEAK, HBM = 1000e12, 3e12
MACHINE = Machine(PEAK, HBM)


def rate(**changed: Any) -> GroupedRate:
    fields: dict[str, Any] = {
        "flop_frac": 0.8,
        "k_half": 128.0,
        "hbm_frac": 0.9,
        "tile_rows": 128,
        "cached": "50 MB",
        "rows_per_read": 400.0,
        "columns_per_read": 300.0,
        "launch": "4 us",
        "range_rows": [64, 16384],
        "range_n": [512, 32768],
        "range_k": [512, 16384],
    }
    return GroupedRate.model_validate(fields | changed)


def fused(**changed: Any) -> FusedMoeRate:
    common = rate().model_dump(by_alias=True)
    return FusedMoeRate.model_validate({**common, "move_hbm_frac": 0.75, "token": "10 ns", **changed})


def gpu(**changed: Any) -> Gpu:
    """All that the model reads of a GPU."""
    constants = GroupedGemmConstants(training={"bf16": rate(**changed)}, in_run_frac={"bf16": 0.5}, fused={})
    peaks = {"bf16": PEAK, "fp8": 2 * PEAK}
    return cast(
        "Gpu",
        SimpleNamespace(name="g", peak_flop_per_s=peaks, hbm_bytes_per_s=HBM, num_sms=132, grouped_gemm=constants),
    )


def up(*groups: tuple[int, int], n: int = 4096, k: int = 2048, is_weight_gradient: bool = False) -> GroupedGemm:
    return GroupedGemm("up", groups, n, k, "bf16", is_weight_gradient)


def burst_s(kernel: GroupedGemm) -> float:
    return grouped_gemm_s(kernel, gpu(), burst=True)


def test_one_group_of_whole_tiles_is_a_dense_product() -> None:
    m, n, k = 4096, 4096, 2048
    compute_s = 2 * m * n * k * (1 + 128 / k) / (0.8 * PEAK)
    memory_s = 2 * (m * n + m * k + n * k) / (0.9 * HBM)
    expected = 4e-6 + (compute_s**OVERLAP_POWER + memory_s**OVERLAP_POWER) ** (1 / OVERLAP_POWER)
    assert burst_s(up((m, 1), n=n, k=k)) == pytest.approx(expected, rel=1e-9)


def test_a_tile_filled_in_part_computes_as_long_as_a_whole_one() -> None:
    # Without traffic (an HBM that is never the limit), 129 rows are two tiles of 128.
    machine = Machine(PEAK, 1e30)
    part, whole = (grouped_gemm_s(up((rows, 8)), gpu_on(machine), burst=True) - 4e-6 for rows in (129, 256))
    assert part == pytest.approx(whole, rel=1e-9)


def gpu_on(machine: Machine) -> Gpu:
    found = gpu()
    cast("Any", found).hbm_bytes_per_s = machine.hbm_bytes_per_s
    return found


def test_an_expert_without_rows_costs_only_its_gradient() -> None:
    assert burst_s(up((512, 8), (0, 8))) == burst_s(up((512, 8)))
    with_empty = burst_s(up((512, 8), (0, 800), is_weight_gradient=True))
    assert with_empty > burst_s(up((512, 8), is_weight_gradient=True))


def test_a_weight_gradient_without_rows_is_the_writing_of_zeros() -> None:
    kernel = up((0, 10), n=1024, k=512, is_weight_gradient=True)
    assert burst_s(kernel) == pytest.approx(4e-6 + 10 * 1024 * 512 * 2 / (0.9 * HBM), rel=1e-9)


def test_a_weight_gradient_pays_start_and_end_once_for_each_expert() -> None:
    kernel = up((1000, 3), n=1024, k=512, is_weight_gradient=True)
    expected = 4e-6 + 2 * 1024 * 512 * (3000 + 3 * 128) / (0.8 * PEAK)
    assert grouped_gemm_s(kernel, gpu_on(Machine(PEAK, 1e30)), burst=True) == pytest.approx(expected, rel=1e-9)


def test_a_training_run_computes_at_its_share_of_the_burst() -> None:
    kernel = up((4096, 8), n=16384, k=8192)
    fast = gpu_on(Machine(PEAK, 1e30))
    run, burst = (grouped_gemm_s(kernel, fast, burst=burst) - 4e-6 for burst in (False, True))
    assert run == pytest.approx(2 * burst, rel=1e-9)


def test_extra_bytes_take_their_time_on_top() -> None:
    plain = up((512, 8))
    extra = GroupedGemm("up", plain.groups, plain.n, plain.k, "bf16", extra_bytes=2.7e9)
    assert burst_s(extra) - burst_s(plain) == pytest.approx(2.7e9 / (0.9 * HBM), rel=1e-9)


def test_operands_that_fit_in_the_cache_are_read_once() -> None:
    small = Load(rows=1024.0, padded_rows=1024.0, experts=8.0, source_rows=1024.0)
    assert reread_bytes(small, 4096, 2048, 2.0, rate()) == 0.0


def test_weights_beyond_the_cache_are_read_again_for_each_rows_per_read() -> None:
    # Weights of 100 MB, of which 50 MB stay; 800 rows read the other half twice.
    load = Load(rows=800.0, padded_rows=800.0, experts=1.0, source_rows=1.0)
    assert reread_bytes(load, 25_000, 2000, 2.0, rate()) == pytest.approx(2 * 50e6)


def test_input_beyond_the_cache_is_gathered_again_for_each_columns_per_read() -> None:
    # Tokens of 100 MB, of which half stay; 600 columns gather each of 10 copies' other half twice.
    load = Load(rows=250_000.0, padded_rows=0.0, experts=1.0, source_rows=25_000.0)
    assert reread_bytes(load, 600, 2000, 2.0, rate()) == pytest.approx(250_000 * 2000 * 2 * 0.5 * 2)


def test_the_fused_operator_is_the_sum_of_its_parts() -> None:
    load = Load(rows=1024.0, padded_rows=1024.0, experts=8.0, source_rows=512.0)
    moe = FusedMoe(load, 1024.0, 512.0, 512.0, hidden=1024, width=512, gates=2, operand_bytes=2.0)
    assert moved_bytes(moe) == 2 * (1024 * (512 * 3 + 1024) + 512 * 1024)
    products_s = sum(
        overlapped_s(2 * 1024 * n * (k + 128) / (0.8 * PEAK), (8 * n * k * 2 + 1024 * (k + n) * 2) / (0.9 * HBM))
        for n, k in ((1024, 1024), (1024, 512))
    )
    expected = 4e-6 + 512 * 10e-9 + products_s + moved_bytes(moe) / (0.75 * HBM)
    assert fused_moe_s(moe, fused(), MACHINE) == pytest.approx(expected, rel=1e-9)


def test_masked_slots_are_written_as_zeros_and_walked() -> None:
    load = Load(rows=100.0, padded_rows=128.0, experts=1.0, source_rows=100.0)
    local, masked = (FusedMoe(load, slots, 50.0, 50.0, 8, 4, 2, 2.0) for slots in (100.0, 101.0))
    assert moved_bytes(masked) - moved_bytes(local) == 2 * ((4 * 3 + 8) + (2 * 4 + 8))


def test_tables_and_single_operators_agree() -> None:
    def moe(rows: Any) -> FusedMoe:
        return FusedMoe(Load(rows, rows, 8.0, rows), rows, rows, rows, 1024.0, 512.0, 2.0, 2.0)

    rows = np.array([256.0, 4096.0])
    assert fused_moe_s(moe(rows), fused(), MACHINE) == pytest.approx(
        [fused_moe_s(moe(each), fused(), MACHINE) for each in rows.tolist()], rel=1e-12
    )


def test_a_format_without_rates_names_those_that_exist() -> None:
    kernel = GroupedGemm("up", ((512, 8),), 4096, 2048, "fp8")
    with pytest.raises(SimError, match=r"g.grouped_gemm.training.*got 'fp8', allowed bf16"):
        grouped_gemm_s(kernel, gpu())


def test_sides_outside_the_measured_range_are_named() -> None:
    assert outside(up((512, 8), (0, 3)), gpu()) is None
    assert (
        outside(up((8, 8), k=64), gpu())
        == "up: rows an expert 8 (measured 64 to 16,384), k 64 (measured 512 to 16,384)"
    )


sizes = st.integers(1, 8192)


@given(rows=st.integers(0, 4096), more=st.integers(1, 4096), count=st.integers(1, 64), is_gradient=st.booleans())
def test_time_grows_with_rows(rows: int, more: int, count: int, *, is_gradient: bool) -> None:
    fewer, larger = (up((each, count), is_weight_gradient=is_gradient) for each in (rows, rows + more))
    assert burst_s(fewer) <= burst_s(larger)


@given(tiles=st.lists(st.integers(0, 32), min_size=4, max_size=4))
def test_the_busiest_rank_is_never_faster_than_a_balanced_one(tiles: list[int]) -> None:
    # Four ranks of two experts each share sum(tiles) tiles of 128 rows for each of the two.
    balanced = burst_s(up((128 * sum(tiles) // 4, 2)))
    assert max(burst_s(up((128 * each, 2))) for each in tiles) >= balanced * (1 - 1e-9)


@given(m=sizes, n=sizes, k=sizes, count=st.integers(1, 32))
def test_never_faster_than_the_peak_and_the_memory(m: int, n: int, k: int, count: int) -> None:
    kernel = up((m, count), n=n, k=k)
    assert burst_s(kernel) >= max(grouped_gemm_flop(kernel) / PEAK, 2 * count * n * k / HBM)


@given(m=sizes, n=sizes, k=sizes, count=st.integers(2, 32))
def test_one_launch_of_all_experts_is_no_slower_than_one_each(m: int, n: int, k: int, count: int) -> None:
    assume(count * m * k * 2 <= 50e6)  # beyond, inputs push each other out of the cache
    assert burst_s(up((m, count), n=n, k=k)) <= count * burst_s(up((m, 1), n=n, k=k)) * (1 + 1e-9)
