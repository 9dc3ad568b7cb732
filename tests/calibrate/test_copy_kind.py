from __future__ import annotations

import pandas as pd
import pytest

from sim.calibrate.kind import KINDS
from sim.spec.gpu import CopyConstants, Gpu

KIND = KINDS["copy"]
CONSTANTS = CopyConstants(
    host_to_device_bytes_per_s=25e9, device_to_host_bytes_per_s=20e9, host_update_bytes_per_s=16e9, latency_s=1e-5
)
GPU = Gpu.model_construct(name="test", copy_constants=CONSTANTS)


def table(*rows: tuple[str, float, float], num_gpus: object = 8) -> pd.DataFrame:
    """Rows of (direction, bytes, ms)."""
    return pd.DataFrame(list(rows), columns=["direction", "nbytes", "latency_ms"]).assign(num_gpus=num_gpus)


def test_times_are_latency_and_bytes_over_the_rate_of_the_direction() -> None:
    rows = KIND.rows(table(("host_to_device", 5e9, 1.0), ("device_to_host", 5e9, 1.0), ("device_to_host", 1, 1.0)))
    assert KIND.predicted_s(rows.table, GPU).tolist() == pytest.approx([0.20001, 0.25001, 1e-5], rel=1e-5)
    assert rows.table["is_training"].tolist() == [True, True, False]


def test_the_host_updates_for_all_gpus_at_once() -> None:
    rows = KIND.rows(table(("host_update", 16e9, 1.0))).table
    # 16 GB at 16 GB/s a GPU, by the cores of 8.
    assert KIND.predicted_s(rows, GPU).tolist() == [0.125]
    alone = KIND.rows(table(("host_update", 16e9, 1.0)).drop(columns="num_gpus")).table
    assert KIND.predicted_s(alone, GPU).tolist() == [1.0]
    fit = KIND.fit(rows.assign(time_s=0.25), GPU)
    assert fit.constants == {"copy.host_update": 8e9}
    assert fit.evidence == {"copy.host_update": "optimizer steps (1) on cores that 8 GPUs share"}


def test_a_fit_finds_the_constants_that_made_the_times() -> None:
    sizes = (2**12, 2**16, 2**20, 2**28)
    rows = KIND.rows(table(*((way, size, 1.0) for way in ("host_to_device", "device_to_host") for size in sizes))).table
    other = GPU.model_copy(
        update={
            "copy_constants": CONSTANTS.model_copy(
                update={"host_to_device_bytes_per_s": 55e9, "device_to_host_bytes_per_s": 45e9, "latency_s": 4e-6}
            )
        }
    )
    fit = KIND.fit(rows.assign(time_s=KIND.predicted_s(rows, other)), GPU)
    expected = {"copy.host_to_device": 55e9, "copy.device_to_host": 45e9, "copy.latency": 4e-6}
    assert fit.constants == pytest.approx(expected, rel=1e-3)
    assert fit.evidence["copy.host_to_device"] == "4 pinned copies of 4,096 to 268,435,456 bytes"


def test_large_copies_tell_no_latency_and_one_direction_nothing_of_the_other() -> None:
    rows = KIND.rows(table(("device_to_host", 2e9, 1.0))).table
    fit = KIND.fit(rows.assign(time_s=1e-5 + 2e9 / 40e9), GPU)
    assert fit.constants == pytest.approx({"copy.device_to_host": 40e9}, rel=1e-3)


def test_small_copies_alone_tell_nothing() -> None:
    assert KIND.fit(KIND.rows(table(("device_to_host", 4096, 0.01))).table, GPU).constants == {}


def test_what_is_no_copy_is_left_out_with_the_reason() -> None:
    rows = KIND.rows(
        pd.concat(
            [
                table(("device_to_device", 1e6, 1.0), ("host_to_device", 0, 1.0)),
                table(("host_update", 1e9, 1.0), num_gpus=0),
            ],
            ignore_index=True,
        )
    )
    assert rows.table.empty
    assert rows.skipped == {
        "neither host_to_device, device_to_host nor host_update": 1,
        "no number of GPUs that share the host": 1,
        "nothing is copied": 1,
    }


def test_halves_are_the_smaller_copies() -> None:
    rows = KIND.rows(table(("device_to_host", 1e3, 1.0), ("device_to_host", 1e9, 1.0))).table
    assert [seen.tolist() for seen in KIND.halves(rows).values()] == [[True, False]]
