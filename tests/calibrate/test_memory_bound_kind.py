from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest

from sim.calibrate.kind import KINDS
from sim.calibrate.kinds.memory_bound import EAGER_HOST_S
from sim.cost.stream import Stream, stream_s
from sim.spec.gpu import Gpu, ReductionRate, StreamConstants, StreamRate

KIND = KINDS["memory_bound"]
DEVICE = "NVIDIA A100-PCIE-40GB"


def gpu(fitted: Mapping[str, float] | None = None) -> Gpu:
    """With constants of its own, but for those that were fitted."""
    at = fitted or {}
    constants = StreamConstants(
        elementwise=StreamRate(hbm_frac=at.get("memory_bound.elementwise.hbm_frac", 0.7)),
        norm=ReductionRate(
            hbm_frac=at.get("memory_bound.norm.hbm_frac", 0.6),
            cached_row_bytes=at.get("memory_bound.norm.cached_row", 2e4),
        ),
        softmax=ReductionRate(
            hbm_frac=at.get("memory_bound.softmax.hbm_frac", 0.6),
            cached_row_bytes=at.get("memory_bound.softmax.cached_row", 2e4),
        ),
        gather=StreamRate(hbm_frac=at.get("memory_bound.gather.hbm_frac", 0.5)),
        launch_s=at.get("memory_bound.launch", 3e-6),
    )
    return Gpu.model_construct(name="trial", hbm_bytes_per_s=1555e9, memory_bound=constants)


def neusight(*rows: tuple[str, int, int, float]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=["OPName", "B", "H", "Latency"])
    return table.assign(Device=DEVICE)


def grid(truth: Gpu, timing: str = "queued") -> pd.DataFrame:
    """A file as `sim profile` writes it, with the times of the model itself."""
    cells = []
    for name, kind, has_rows in (
        ("copy", "elementwise", False),
        ("ln", "norm", True),
        ("softmax", "softmax", True),
        ("permutation", "gather", False),
    ):
        for rows in (16, 65536, 262144):
            for row in (1024, 2048, 4096, 8192, 16384):
                row_bytes = 2.0 * row if has_rows else 0.0
                kernel = Stream(name, 4.0 * rows * row, kind=kind, row_bytes=row_bytes)
                extra = 0.0 if timing == "queued" else EAGER_HOST_S
                cells.append((name, rows, row, kernel.nbytes, row_bytes, kind, 1e3 * (stream_s(kernel, truth) + extra)))
    columns = ["OPName", "B", "H", "nbytes", "row_bytes", "stream_kind", "Latency"]
    return pd.DataFrame(cells, columns=columns).assign(Device=DEVICE, dtype="bfloat16", timing=timing, launches=1)


TRUTH = {
    "memory_bound.elementwise.hbm_frac": 0.9,
    "memory_bound.norm.hbm_frac": 0.85,
    "memory_bound.norm.cached_row": 9000.0,
    "memory_bound.softmax.hbm_frac": 0.75,
    "memory_bound.softmax.cached_row": 12000.0,
    "memory_bound.gather.hbm_frac": 0.55,
}


@pytest.mark.parametrize("timing", ["queued", "eager"])
def test_a_fit_finds_the_constants_that_made_the_times(timing: str) -> None:
    fitted = KIND.fit(KIND.rows(grid(gpu(TRUTH), timing)).table, gpu()).constants
    assert {key: fitted[key] for key in TRUTH} == pytest.approx(TRUTH, rel=1e-3)


def test_the_launch_is_told_by_small_kernels_without_host_time_only() -> None:
    truth = gpu({"memory_bound.launch": 5e-6})
    queued = KIND.fit(KIND.rows(grid(truth)).table, gpu())
    assert queued.constants["memory_bound.launch"] == pytest.approx(5e-6, rel=1e-6)
    assert "memory_bound.launch" not in KIND.fit(KIND.rows(grid(truth, "eager")).table, gpu()).constants


def test_rows_that_all_stay_in_the_caches_tell_no_cached_row() -> None:
    rows = KIND.rows(grid(gpu(TRUTH | {"memory_bound.norm.cached_row": 1e6}))).table
    fitted = KIND.fit(rows[rows["stream_kind"] == "norm"], gpu(TRUTH | {"memory_bound.norm.cached_row": 1e6}))
    assert set(fitted.constants) == {"memory_bound.norm.hbm_frac", "memory_bound.launch"}
    assert fitted.constants["memory_bound.norm.hbm_frac"] == pytest.approx(0.85, rel=1e-6)


def test_the_operation_of_neusight_tells_bytes_kind_and_row() -> None:
    rows = KIND.rows(neusight(("add", 10, 100, 1.0), ("addu", 10, 100, 1.0), ("ln", 10, 100, 1.0))).table
    assert list(rows["nbytes"]) == [12_000, 8_000, 8_000]
    assert list(rows["stream_kind"]) == ["elementwise", "elementwise", "norm"]
    assert list(rows["row_bytes"]) == [0, 0, 400]
    assert set(rows["format"]) == {"fp32"}


def test_an_unknown_operation_is_left_out_and_counted() -> None:
    rows = KIND.rows(neusight(("add", 8, 8, 1.0), ("conv", 8, 8, 1.0), ("conv", 9, 8, 1.0)))
    assert len(rows.table) == 1
    assert rows.skipped == {"unknown operation conv": 2}


def test_a_prediction_is_that_of_one_kernel_and_the_host_time_of_an_eager_call() -> None:
    rows = KIND.rows(neusight(("mul", 16384, 4096, 1.0), ("softmax", 16384, 8192, 1.0))).table
    kernels = (
        Stream("mul", 3 * 4.0 * 16384 * 4096),
        Stream("softmax", 2 * 4.0 * 16384 * 8192, kind="softmax", row_bytes=4.0 * 8192),
    )
    expected = [EAGER_HOST_S + stream_s(kernel, gpu()) for kernel in kernels]
    assert KIND.predicted_s(rows, gpu()) == pytest.approx(expected, rel=1e-12)


def test_rows_of_training_size_move_256_mb() -> None:
    rows = KIND.rows(neusight(("relu", 32_000, 1000, 1.0), ("relu", 31_999, 1000, 1.0))).table
    assert list(rows["is_training"]) == [True, False]


def test_halves_split_by_rows_and_by_every_other_row_length() -> None:
    rows = KIND.rows(neusight(*(("ln", b, h, 1.0) for b in (1, 2, 4, 8) for h in (16, 32, 64)))).table
    halves = KIND.halves(rows)
    assert list(halves["few rows"]) == [True] * 6 + [False] * 6
    assert list(halves["every other row length"]) == [True, False, True] * 4


def test_norms_and_softmaxes_of_an_a100_are_met_after_a_fit_to_them() -> None:
    # fp32, A100-PCIE-40GB, sitar-lab/NeuSight, scripts/asplos/data/dataset, times in ms.
    table = neusight(
        ("ln", 327680, 1024, 2.032211),
        ("ln", 262144, 2048, 3.247398),
        ("ln", 65536, 4096, 2.239846),
        ("ln", 32768, 8192, 2.366669),
        ("ln", 32768, 16384, 4.717382),
        ("softmax", 327680, 1024, 1.975725),
        ("softmax", 262144, 2048, 3.288192),
        ("softmax", 65536, 4096, 1.691949),
        ("softmax", 32768, 8192, 1.712070),
        ("softmax", 32768, 16384, 6.091469),
    )
    rows = KIND.rows(table).table
    fitted = KIND.fit(rows, gpu())
    errors = np.abs(KIND.predicted_s(rows, gpu(fitted.constants)) / rows["time_s"] - 1)
    assert errors[:5].mean() < 0.03
    assert errors[5:].mean() < 0.05
    # The rows that a norm works on at once fill the caches of 40 MB and 108 x 192 KB sooner than those of a softmax.
    assert 9e3 < fitted.constants["memory_bound.norm.cached_row"] < 18e3
    assert 35e3 < fitted.constants["memory_bound.softmax.cached_row"] < 70e3
