from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest

from sim.calibrate.kind import KINDS, Fit
from sim.calibrate.kinds.moe import FITTED, routed
from sim.errors import SimError
from sim.spec.gpu import FusedMoeRate, Gpu, GroupedGemmConstants

KIND = KINDS["moe"]
TRITON = "vllm_unquantizedfusedmoe_triton_tritonexperts"
SHAPE = ("num_tokens", "hidden_size", "inter_size", "topk", "num_experts", "moe_tp_size", "moe_ep_size")

H100 = {
    "flop_frac": 0.754,
    "k_half": 212.0,
    "hbm_frac": 0.901,
    "tile_rows": 128,
    "cached": "49.8 MB",
    "rows_per_read": 360.0,
    "columns_per_read": 351.0,
    "launch": "36.3 us",
    "token": "19.4 ns",
    "move_hbm_frac": 0.829,
    "range_rows": [64, 16384],
    "range_n": [32, 32768],
    "range_k": [16, 16384],
}

MEASURED_H100 = (
    ((16384, 5120, 8192, 1, 16, 1, 4), "balanced", 2.97239),
    ((1536, 2048, 5120, 22, 512, 1, 1), "power_law_1.01", 8.68197),
    ((12288, 6144, 2048, 8, 256, 1, 8), "power_law_1.01", 4.77261),
    ((1024, 4096, 14336, 2, 8, 16, 1), "balanced", 0.13736),
    ((3072, 2816, 704, 8, 128, 1, 16), "power_law_1.2", 0.315085),
    ((2048, 3072, 1024, 8, 256, 1, 2), "balanced", 1.06213),
    ((8192, 2048, 512, 8, 256, 16, 1), "power_law_1.01", 0.537728),
    ((8192, 4096, 1024, 10, 512, 1, 2), "power_law_1.2", 4.37271),
    ((16384, 6144, 3072, 4, 128, 1, 64), "power_law_1.01", 2.88484),
    ((4096, 2048, 768, 8, 128, 1, 1), "power_law_1.01", 0.983859),
    ((12288, 6144, 16384, 2, 8, 8, 1), "power_law_1.01", 3.21926),
    ((16384, 4096, 1536, 8, 128, 1, 1), "balanced", 10.15),
)
"""vLLM 0.24.0, bf16 (ai-dynamo/aiconfigurator, Apache-2.0): shape, distribution, ms."""


def gpu(rates: dict[str, dict[str, Any]]) -> Gpu:
    """All that the kind reads of a GPU, with the HBM and peaks of an H100."""
    by_kernel = {
        author: {name: FusedMoeRate.model_validate(rate) for name, rate in formats.items()}
        for author, formats in rates.items()
    }
    constants = GroupedGemmConstants.model_validate({"training": {}, "in_run_frac": {}, "fused": by_kernel})
    return cast(
        "Gpu",
        SimpleNamespace(
            name="h100-sxm",
            peak_flop_per_s={"bf16": 989e12, "fp8": 1979e12},
            hbm_bytes_per_s=3350e9,
            grouped_gemm=constants,
        ),
    )


def table(rows: list[tuple[Any, ...]], source: str = TRITON, dtype: str = "bfloat16") -> pd.DataFrame:
    """Rows of (shape, distribution, ms)."""
    frame = pd.DataFrame([shape for shape, _, _ in rows], columns=list(SHAPE))
    return frame.assign(
        distribution=[name for _, name, _ in rows],
        latency_ms=[measured for _, _, measured in rows],
        kernel_source=source,
        moe_dtype=dtype,
    )


def sweep() -> pd.DataFrame:
    """Operators of many shapes, without a measurement."""
    shapes = [
        ((tokens, hidden, width, 8, 64, 1, ep), name, 1.0)
        for tokens in (64, 1024, 4096, 16384)
        for hidden, width in ((2048, 768), (4096, 1536), (7168, 2048), (4096, 14336))
        for ep in (1, 8)
        for name in ("balanced", "power_law_1.2")
    ]
    return KIND.rows(table(shapes)).table


def test_measured_operators_are_within_their_error() -> None:
    rows = KIND.rows(table(list(MEASURED_H100))).table
    errors = KIND.predicted_s(rows, gpu({"triton": {"bf16": H100}})) / rows["time_s"] - 1
    assert np.abs(errors).mean() < 0.1
    assert np.abs(errors).max() < 0.2


def test_a_balanced_load_gives_each_expert_the_same() -> None:
    # 1,024 tokens to 8 of 256 experts are 32 rows an expert, half a tile of 64; a rank of 32 has 8 experts.
    assert routed(1024, 256, 8, 32, 0.0) == (256.0, 8.0, 512.0, 1024.0, 256.0)


def test_fewer_copies_than_experts_leave_experts_empty() -> None:
    assert routed(4, 256, 8, 2, 0.0) == (16.0, 16.0, 1024.0, 2048.0, 4.0)


@pytest.mark.parametrize("alpha", [1.01, 1.2])
def test_a_power_law_keeps_all_copies_on_one_rank(alpha: float) -> None:
    load = routed(4096, 128, 8, 1, alpha)
    assert load.rows == pytest.approx(4096 * 8, rel=0.002)
    assert load.tokens == 4096
    assert load.padded_128 > load.padded_64 > load.rows


def test_the_busiest_rank_has_more_than_its_share_and_no_expert_more_than_all_tokens() -> None:
    load = routed(4096, 8, 2, 8, 1.2)
    assert 4096 * 2 / 8 < load.rows <= 4096
    assert load.experts == 1


def test_the_measured_rank_has_its_share_of_the_weights() -> None:
    rows = KIND.rows(table([((4096, 4096, 14336, 2, 8, 4, 1), "balanced", 1.0)])).table
    assert rows["width"].tolist() == [3584.0]
    assert rows["gates"].tolist() == [2.0]


@pytest.mark.parametrize(
    ("source", "dtype", "slots"),
    [
        (TRITON, "bfloat16", 32768.0),
        ("vllm_fp8moe_flashinfer_trtllm_trtllmfp8expertsmonolithic", "fp8_block", 32768.0),
        ("vllm_fp8moe_flashinfer_trtllm_trtllmfp8expertsmonolithic", "fp8", 4096.0),
        ("moe_torch_flow", "bfloat16", 4096.0),
        ("sglang_fused_moe_triton", "bfloat16", 32768.0),
    ],
)
def test_what_is_walked_of_other_ranks_copies_depends_on_the_kernel(source: str, dtype: str, slots: float) -> None:
    # 4,096 tokens to 8 of 64 experts; one rank of eight has a copy of each token: sglang computes all eight of them.
    rows = KIND.rows(table([((4096, 4096, 1536, 8, 64, 1, 8), "balanced", 1.0)], source, dtype)).table
    assert rows["slots"].tolist() == [slots]
    assert rows["rows"].tolist() == [32768.0 if "sglang" in source else 4096.0]


def test_training_sizes_are_64_rows_an_expert_and_more() -> None:
    shapes = [((tokens, 4096, 1536, 8, 128, 1, 1), "balanced", 1.0) for tokens in (1008, 1024, 16384)]
    rows = KIND.rows(table(shapes)).table
    assert rows["is_training"].tolist() == [False, True, True]
    assert rows["region"].tolist() == [
        "16 rows an expert or more, balanced",
        "64 rows an expert or more, balanced",
        "256 rows an expert or more, balanced",
    ]


def test_rows_that_the_model_cannot_predict_are_counted_with_the_reason() -> None:
    good = ((4096, 4096, 1536, 8, 128, 1, 1), "balanced", 1.0)
    tables = [
        table([good]),
        table([good], dtype="nvfp4"),
        table([(good[0], "zipf", 1.0)]),
        table([((4096, 4096, 1536, 8, 128, 7, 1), "balanced", 1.0)]),
    ]
    rows = KIND.rows(pd.concat(tables, ignore_index=True))
    assert rows.table.index.tolist() == [0]
    assert rows.skipped == {
        "a format that the cost model does not know": 1,
        "neither balanced nor power_law_<exponent>": 1,
        "experts or width that do not divide by their parallel size": 1,
    }


def test_a_kernel_of_another_name_is_read_as_cutlass_and_16_bit_formats_as_one() -> None:
    named = KIND.rows(table(list(MEASURED_H100), source="cutlass")).table
    other = KIND.rows(table(list(MEASURED_H100), source="grouped_gemm_v2", dtype="float16")).table
    pd.testing.assert_frame_equal(named.drop(columns="kernel_source"), other.drop(columns="kernel_source"))


def test_another_kernel_of_the_format_stands_in() -> None:
    rows = KIND.rows(table(list(MEASURED_H100), source="moe_torch_flow")).table
    by_triton = KIND.predicted_s(rows, gpu({"triton": {"bf16": H100}}))
    own = KIND.predicted_s(rows, gpu({"triton": {"bf16": {**H100, "flop_frac": 0.1}}, "cutlass": {"bf16": H100}}))
    assert by_triton.tolist() == own.tolist()


def test_a_format_without_constants_is_an_error_that_names_those_that_exist() -> None:
    rows = KIND.rows(table(list(MEASURED_H100), dtype="fp8")).table
    with pytest.raises(SimError, match=r"got 'fp8', allowed triton.bf16"):
        KIND.predicted_s(rows, gpu({"triton": {"bf16": H100}}))


def fitted_rate(fit: Fit) -> dict[str, Any]:
    """The constants as a file has them."""
    key = "grouped_gemm.fused.triton.bf16."
    found: dict[str, Any] = {name.removeprefix(key): value for name, value in fit.constants.items()}
    found |= {name.removeprefix(key): list(value) for name, value in fit.ranges.items()}
    units = {"cached": "B", "launch": "s", "token": "s"}
    return {name: f"{value!r} {units[name]}" if name in units else value for name, value in found.items()}


def test_a_fit_gives_back_the_constants_that_made_the_times() -> None:
    rows = sweep()
    known = gpu({"triton": {"bf16": H100}})
    rows = rows.assign(time_s=KIND.predicted_s(rows, known))
    fit = KIND.fit(rows, known)
    assert len(fit.constants) == len(FITTED) + 1 <= 12
    found = fitted_rate(fit)
    assert found["tile_rows"] == 128
    assert found["flop_frac"] == pytest.approx(0.754, rel=0.05)
    again = KIND.predicted_s(rows, gpu({"triton": {"bf16": found}}))
    assert np.abs(again / rows["time_s"] - 1).mean() < 0.02


def test_a_fit_says_between_which_sides_it_was_made() -> None:
    rows = sweep()
    known = gpu({"triton": {"bf16": H100}})
    fit = KIND.fit(rows.assign(time_s=KIND.predicted_s(rows, known)), known)
    assert fit.ranges["grouped_gemm.fused.triton.bf16.range_n"] == (1536.0, 28672.0)
    assert fit.ranges["grouped_gemm.fused.triton.bf16.range_k"] == (768.0, 14336.0)


def test_halves_split_by_rows_an_expert_and_by_width() -> None:
    rows = sweep()
    halves = KIND.halves(rows)
    assert set(halves) == {"rows an expert above the median", "inter_size above its median"}
    for is_seen in halves.values():
        assert 0 < is_seen.sum() < len(rows)
