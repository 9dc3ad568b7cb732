from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.calibrate.fitting import Bounds, Prior, fit_relative
from sim.calibrate.kind import KINDS
from sim.calibrate.kinds.gemm import FITTED, GemmKind
from sim.cost.gemm import Gemm, gemm_s
from sim.errors import SimError
from sim.spec.gpu import GemmConstants, Gpu, StreamConstants, StreamRate

KIND = GemmKind()
TRUE = {"flop_frac": 0.82, "long_frac": 0.93, "hbm_frac": 0.8, "k_half": 150.0, "wave_frac": 0.6, "tile_half": 5.0}
TRUE |= {"split_k": 400.0, "launch_s": 3e-6}


def constants(**fitted: float) -> GemmConstants:
    ranges = dict.fromkeys(("range_m", "range_n", "range_k"), (1.0, 1e6))
    return GemmConstants.model_validate(TRUE | {"in_run_frac": 0.5} | ranges | fitted)


def gpu(**fitted: float) -> Gpu:
    elementwise = StreamRate.model_construct(hbm_frac=0.5)
    return Gpu.model_construct(
        name="test",
        peak_flop_per_s={"bf16": 1e15, "fp8": 2e15},
        hbm_bytes_per_s=3e12,
        num_sms=132,
        gemm=dict.fromkeys(("bf16", "fp8"), constants(**fitted)),
        memory_bound=StreamConstants.model_construct(elementwise=elementwise),
    )


def table(*rows: tuple[Any, ...], kernel: str = "torch") -> pd.DataFrame:
    """Rows of (format, m, n, k, ms)."""
    columns = ["gemm_dtype", "m", "n", "k", "latency_ms"]
    return pd.DataFrame(list(rows), columns=columns).assign(kernel_source=kernel)


def sweep(name: str, gpu: Gpu, noise: float = 0.0) -> pd.DataFrame:
    """Every product of some sides, as the model times it, and each other one longer or shorter by `noise`."""
    sides = [
        (m, n, k)
        for m in (1, 64, 256, 512, 1_000, 3_000, 8_192, 30_000)
        for n in (512, 1_536, 4_096, 16_384)
        for k in (128, 512, 2_048, 8_192, 50_000)
    ]
    rows = KIND.rows(table(*((name, *each, 1.0) for each in sides))).table
    signs = np.where(np.arange(len(rows)) % 2 == 0, 1.0, -1.0)
    return rows.assign(time_s=KIND.predicted_s(rows, gpu) * np.exp(noise * signs))


def test_the_kind_is_found_by_its_name() -> None:
    assert KINDS["gemm"].name == "gemm"


def test_regions_and_training_sizes_go_by_the_sides() -> None:
    rows = KIND.rows(
        table(
            ("bfloat16", 512, 512, 512, 1.0),
            ("bfloat16", 511, 512, 512, 1.0),
            ("bfloat16", 64, 512, 512, 1.0),
            ("bfloat16", 4_096, 4_096, 511, 1.0),
        )
    ).table
    assert rows["region"].tolist() == ["m, n, k >= 512", "m 65 to 511", "m <= 64", "n or k below 512"]
    assert rows["is_training"].tolist() == [True, False, False, False]
    assert rows["time_s"].tolist() == [1e-3] * 4


def test_what_the_model_does_not_know_is_left_out_with_the_reason() -> None:
    rows = KIND.rows(
        table(
            ("int4_wo", 512, 512, 512, 1.0),
            ("fp8_block", 512, 512, 512, 0.5),
            ("fp8_block", 512, 512, 512, 5.0),
            ("fp8", 512, 512, 512, 0.5),
            ("fp8", 0, 512, 512, 0.5),
        )
    )
    assert rows.table["format"].tolist() == ["fp8_block", "fp8"]
    assert rows.table.index.tolist() == [2, 3]
    assert rows.skipped == {
        "a format that the cost model does not know": 1,
        "block-scaled and below 1 ms: the time of the host": 1,
        "an empty product": 1,
    }


def test_files_with_a_column_latency_have_milliseconds_too() -> None:
    rows = KIND.rows(table(("bfloat16", 512, 512, 512, 2.0)).rename(columns={"latency_ms": "latency"}))
    assert rows.table["time_s"].tolist() == [2e-3]


def test_a_16_bit_row_is_the_product_alone_at_the_clock_of_a_burst() -> None:
    rows = KIND.rows(table(("bfloat16", 8_192, 4_096, 2_048, 1.0))).table
    product = Gemm("x", 8_192, 4_096, 2_048, "bf16")
    assert KIND.predicted_s(rows, gpu()).tolist() == [gemm_s(product, gpu(), burst=True)]
    assert gemm_s(product, gpu()) > 1.5 * gemm_s(product, gpu(), burst=True)


def test_an_fp8_row_also_casts_its_activations() -> None:
    m, n, k = 8_192, 4_096, 16_384
    product_s = gemm_s(Gemm("x", m, n, k, "fp8"), gpu(), burst=True)

    def cast_s(name: str, kernel: str) -> float:
        rows = KIND.rows(table((name, m, n, k, 5.0), kernel=kernel)).table
        return float(KIND.predicted_s(rows, gpu())[0]) - product_s

    # 16 bits read and 8 written of m x k values at half of 3e12 bytes/s, and a launch.
    assert cast_s("fp8", "cublas") == pytest.approx(3 * m * k / 1.5e12 + 3e-6, rel=1e-6)
    assert cast_s("fp8_block", "DeepGemm") == cast_s("fp8_static", "cublas") == cast_s("fp8", "cublas")
    # 0.92 us a row and 3.7e9 values a second on each of 132 SMs, as two sides of a right angle.
    by_row_s, by_value_s = m * 0.92e-6 / 132, m * k / (3.7e9 * 132)
    slow_s = (by_row_s**2 + by_value_s**2) ** 0.5
    assert cast_s("fp8", "CutlassFP8ScaledMMLinearKernel") == pytest.approx(slow_s + 3e-6, rel=1e-6)


def test_a_product_of_fp8_operands_alone_casts_nothing() -> None:
    rows = KIND.rows(table(("fp8", 8_192, 4_096, 2_048, 1.0), kernel="torch._scaled_mm_fast")).table
    assert KIND.predicted_s(rows, gpu()).tolist() == [gemm_s(Gemm("x", 8_192, 4_096, 2_048, "fp8"), gpu(), burst=True)]


def test_products_with_and_without_a_cast_give_the_same_constants() -> None:
    alone = sweep("fp8", gpu()).assign(kernel="torch._scaled_mm")
    alone = alone.assign(time_s=KIND.predicted_s(alone, gpu()))
    both = pd.concat([alone, sweep("fp8", gpu())], ignore_index=True)
    assert KIND.fit(both, gpu()).constants["gemm.fp8.flop_frac"] == pytest.approx(TRUE["flop_frac"], rel=0.01)


def test_errors_are_shown_by_layout_where_a_file_says_it() -> None:
    rows = table(*(("bfloat16", 512, 512, 512, 1.0),) * 3).assign(layout=["TN", "NT", ""])
    assert KIND.rows(rows).table["region"].tolist() == ["m, n, k >= 512, TN", "m, n, k >= 512, NT", "m, n, k >= 512"]


def test_a_format_that_the_gpu_lacks_is_refused() -> None:
    rows = KIND.rows(table(("nvfp4", 512, 512, 512, 1.0))).table
    with pytest.raises(SimError, match="no peak rate in this format"):
        KIND.predicted_s(rows, gpu())


@pytest.mark.parametrize("name", ["bfloat16", "fp8"])
def test_a_fit_finds_the_constants_that_made_the_times(name: str) -> None:
    fit = KIND.fit(sweep(name, gpu()), gpu())
    ours = {"bfloat16": "bf16", "fp8": "fp8"}[name]
    expected = {f"gemm.{ours}.{field.removesuffix('_s')}": TRUE[field] for field in FITTED}
    assert fit.constants == pytest.approx(expected, rel=0.02)
    assert fit.ranges == {
        f"gemm.{ours}.range_m": (1, 30_000),
        f"gemm.{ours}.range_n": (512, 16_384),
        f"gemm.{ours}.range_k": (128, 50_000),
    }
    assert fit.evidence == {f"gemm.{ours}": f"{ours}, 80 shapes with m, n, k >= 512, 80 others"}


def test_a_fit_is_hardly_moved_by_noise() -> None:
    found = KIND.fit(sweep("bfloat16", gpu(), noise=0.05), gpu()).constants
    assert found["gemm.bf16.flop_frac"] == pytest.approx(TRUE["flop_frac"], rel=0.05)
    assert found["gemm.bf16.hbm_frac"] == pytest.approx(TRUE["hbm_frac"], rel=0.1)


def test_a_machine_that_throttles_hard_is_believed_against_what_is_usual() -> None:
    found = KIND.fit(sweep("bfloat16", gpu(long_frac=0.6)), gpu()).constants
    assert found["gemm.bf16.long_frac"] == pytest.approx(0.6, rel=0.03)


def test_block_scaled_rows_and_a_handful_of_rows_are_not_fitted() -> None:
    few = sweep("bfloat16", gpu()).iloc[-19:]
    block = KIND.rows(table(*(("fp8_block", 8_192, 8_192, 512 * each, 5.0) for each in range(1, 50)))).table
    assert few["is_training"].sum() < 20
    assert KIND.fit(pd.concat([few, block], ignore_index=True), gpu()).constants == {}


def test_halves_are_up_to_the_median_of_training_sizes_and_hold_at_least_half_of_them() -> None:
    rows = sweep("bfloat16", gpu())
    halves = KIND.halves(rows)
    assert list(halves) == ["k above its median", "m above its median"]
    training = rows["is_training"].to_numpy()
    for name, side, median in (("k above its median", "k", 5_120), ("m above its median", "m", 3_000)):
        assert halves[name].tolist() == (rows[side] <= median).tolist()
        assert 0.5 <= halves[name][training].mean() < 1


def test_the_error_that_is_least_is_that_of_the_ratio() -> None:
    # Nine tenths and ten ninths of 4: the middle is the geometric mean, below the arithmetic one of 4.022.
    times = np.array([3.6, 40 / 9])
    found = fit_relative(lambda constants: np.full(2, constants[0]), times, [Bounds(1.0, 0.1, 10.0)])
    assert found == pytest.approx([4.0], rel=1e-4)


def test_weights_are_numbers_of_rows() -> None:
    def fitted(times: list[float], weights: list[float]) -> float:
        model = lambda constants: np.full(len(times), constants[0])  # noqa: E731
        return float(fit_relative(model, np.array(times), [Bounds(1.0, 0.1, 10.0)], weights=np.array(weights))[0])

    assert fitted([2.0, 3.0], [3.0, 1.0]) == pytest.approx(fitted([2.0, 2.0, 2.0, 3.0], [1.0] * 4), rel=1e-4)


def test_an_outlier_moves_a_fit_less_than_it_moves_the_mean() -> None:
    times = np.array([1.0] * 9 + [100.0])
    found = fit_relative(lambda constants: np.full(10, constants[0]), times, [Bounds(1.0, 0.1, 10.0)])
    assert found[0] < 1.05
    assert np.exp(np.log(times).mean()) > 1.5


@given(st.floats(0.7, 1.3))
def test_without_a_row_that_tells_a_constant_it_is_what_is_known_of_it(start: float) -> None:
    prior = Prior(index=1, expected=0.9, spread=0.5, share=0.1)
    bounds = [Bounds(1.0, 0.1, 10.0), Bounds(start, 0.1, 10.0)]
    found = fit_relative(lambda constants: np.full(3, constants[0]), np.full(3, 2.0), bounds, priors=[prior])
    assert found == pytest.approx([2.0, 0.9], rel=1e-3)
