from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from sim.calibrate.entry import gpu_of, read_entry
from sim.calibrate.kind import KINDS
from sim.cost.attention import Attention, attention_s
from sim.cost.gemm import Gemm, gemm_s
from sim.spec.find import find
from sim.spec.gpu import Gpu

GEMM, ATTENTION = KINDS["gemm_sustained"], KINDS["attention_sustained"]
H100 = gpu_of(read_entry(find("gpus", "h100-sxm")))


def products(*rows: tuple[Any, ...]) -> pd.DataFrame:
    """Rows of (kernel, format, m, n, k, ms)."""
    return pd.DataFrame(list(rows), columns=["kernel_source", "gemm_dtype", "m", "n", "k", "sustained_ms"])


def passes(**changed: Any) -> pd.DataFrame:
    row = {
        "kernel_source": "cudnn_torch_sdpa",
        "batch_size": 2,
        "isl": 8192,
        "num_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "window_size": 0,
        "attn_dtype": "bfloat16",
        "kv_cache_dtype": "none",
        "pass": "fwd",
        "causal": 0,
        "sustained_ms": 1.0,
    }
    return pd.DataFrame([row | changed])


def slower(gpu: Gpu, **share: float) -> Gpu:
    return gpu.model_copy(
        update={"gemm": {name: each.model_copy(update={"in_run_frac": share[name]}) for name, each in gpu.gemm.items()}}
    )


def test_a_sustained_product_is_predicted_as_a_step_reads_it() -> None:
    rows = GEMM.rows(products(("torch.mm", "bfloat16", 8192, 4096, 2048, 1.0))).table
    assert GEMM.predicted_s(rows, H100).tolist() == [gemm_s(Gemm("x", 8192, 4096, 2048, "bf16"), H100)]


def test_sustained_attention_is_predicted_as_a_step_reads_it() -> None:
    rows = ATTENTION.rows(pd.concat([passes(), passes(**{"pass": "bwd"})], ignore_index=True)).table
    sides = (2, 8192, 8192, 32, 8, 128, 128, 1.0)
    assert ATTENTION.predicted_s(rows, H100).tolist() == [
        attention_s(Attention("x", *sides, is_backward=is_backward, format="bf16", kernel="cudnn"), H100)
        for is_backward in (False, True)
    ]


@pytest.mark.parametrize("share", [0.62, 0.9, 1.0])
def test_the_share_that_made_the_times_is_found(share: float) -> None:
    # The last one is bound by memory: it loses nothing.
    sides = [(8192, 8192, 8192), (16384, 4096, 4096), (512, 8192, 512)]
    rows = GEMM.rows(products(*(("torch.mm", "bfloat16", *side, 1.0) for side in sides))).table
    machine = slower(H100, **dict.fromkeys(H100.gemm, share))
    fit = GEMM.fit(rows.assign(time_s=GEMM.predicted_s(rows, machine)), H100)
    assert fit.constants == pytest.approx({"gemm.bf16.in_run_frac": share}, rel=1e-3)
    assert fit.evidence == {"gemm.bf16.in_run_frac": "bf16, 3 sustained shapes with m, n, k >= 512"}


def test_one_shape_that_is_off_hardly_moves_the_share() -> None:
    rows = GEMM.rows(products(*(("torch.mm", "bfloat16", 8192, 8192, 1024 * n, 1.0) for n in range(4, 14)))).table
    times = GEMM.predicted_s(rows, slower(H100, **dict.fromkeys(H100.gemm, 0.8)))
    times[0] *= 2.0
    assert GEMM.fit(rows.assign(time_s=times), H100).constants["gemm.bf16.in_run_frac"] == pytest.approx(0.8, rel=0.02)


def test_a_run_is_never_faster_than_a_burst() -> None:
    rows = GEMM.rows(products(("torch.mm", "bfloat16", 8192, 8192, 8192, 0.1))).table
    assert GEMM.fit(rows, H100).constants == {"gemm.bf16.in_run_frac": 1.0}


def test_clock_and_power_are_cited_where_they_are_known() -> None:
    table = products(("torch.mm", "bfloat16", 8192, 8192, 8192, 1.6)).assign(clock_mhz=1400.4, power_w=[""])
    said = GEMM.fit(GEMM.rows(table).table, H100).evidence["gemm.bf16.in_run_frac"]
    assert said == "bf16, 1 sustained shape with m, n, k >= 512, at 1,400 MHz"


def test_products_that_are_not_the_product_alone_are_left_out() -> None:
    rows = GEMM.rows(
        products(
            ("torch._scaled_mm_fast", "fp8", 8192, 8192, 8192, 1.0),
            ("CutlassFP8ScaledMM", "fp8", 8192, 8192, 8192, 1.0),
            ("torch.mm", "int8", 8192, 8192, 8192, 1.0),
            ("torch.mm", "bfloat16", 0, 8192, 8192, 1.0),
        )
    )
    assert rows.table["format"].tolist() == ["fp8"]
    assert rows.skipped == {
        "casts its activations inside the measured time": 1,
        "a format that the cost model does not know": 1,
        "an empty product": 1,
    }


def test_each_implementation_of_attention_has_a_share_of_its_own_over_both_passes() -> None:
    table = pd.concat(
        [passes(kernel_source=name, **{"pass": way}) for name in ("cudnn", "fa2", "mine") for way in ("fwd", "bwd")],
        ignore_index=True,
    )
    rows = ATTENTION.rows(table).table
    share = {"cudnn": 0.8, "fa2": 0.9}
    held = {
        name: each.model_copy(update={"in_run_frac": share.get(name, 1.0)}) for name, each in H100.attention.items()
    }
    machine = H100.model_copy(update={"attention": held})
    fit = ATTENTION.fit(rows.assign(time_s=ATTENTION.predicted_s(rows, machine)), H100)
    expected = {"attention.cudnn.in_run_frac": 0.8, "attention.fa2.in_run_frac": 0.9}
    assert fit.constants == pytest.approx(expected, rel=1e-3)
    assert set(fit.evidence.values()) == {"1 sustained forward and 1 backward, s >= 1024"}


def test_attention_that_fills_a_cache_is_left_out() -> None:
    rows = ATTENTION.rows(passes(kv_cache_dtype="bfloat16"))
    assert rows.table.empty
    assert rows.skipped == {"copies keys and values into a cache": 1}


def test_halves_are_the_smaller_products_and_the_shorter_sequences() -> None:
    rows = GEMM.rows(products(*(("torch.mm", "bfloat16", 8192, 8192, k, 1.0) for k in (1024, 8192)))).table
    assert [np.flatnonzero(seen).tolist() for seen in GEMM.halves(rows).values()] == [[0]]
    rows = ATTENTION.rows(pd.concat([passes(), passes(isl=1024)], ignore_index=True)).table
    assert [np.flatnonzero(seen).tolist() for seen in ATTENTION.halves(rows).values()] == [[1]]
