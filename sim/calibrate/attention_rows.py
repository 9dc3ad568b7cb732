"""Measured files of fused attention: what their columns mean, and which rows are left out."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from sim.calibrate.kind import Form, Rows
from sim.cost.attention import BURST_S, Shape, Values, shape_flop
from sim.spec.gpu import AttentionKernel, NumberFormat
from sim.spec.topology import Floats

TRAINING_SEQ_LEN = 1024

KERNELS: Mapping[str, AttentionKernel] = {
    "trtllm": "trtllm",
    "triton": "triton",
    "cudnn": "cudnn",
    "fa3": "fa3",
    "fa2": "fa2",
}
"""Part of what a file calls a kernel -> the implementation. Any other name (`flash_attention`) says no more than that
attention is fused, and is predicted as the first kernel of the GPU."""

FORMATS: Mapping[str, NumberFormat] = {"bfloat16": "bf16", "bf16": "bf16", "float16": "fp16", "fp16": "fp16"}

PASSES = ("fwd", "bwd")
OTHER_DIRECTION = "neither a forward nor a backward pass"

NO_CACHE = "none"
"""`kv_cache_dtype` of training, which keeps no keys and values: none are copied inside the measured time."""

VALUE_BYTES = 2.0
"""Of the formats that are kept, all of 16 bits."""

_SIDES = ["batch", "seq_len", "heads", "kv_heads", "head_dim"]

SERVING = Form(
    numbers=("batch_size", "isl", "num_heads", "num_key_value_heads", "head_dim"),
    measured="latency_ms",
    words=("kernel_source", "attn_dtype", "kv_cache_dtype"),
)
FIGURES = Form(numbers=("head_dim", "seqlen", "batch"), measured="tflops", words=("pass", "impl", "dtype"))


@dataclass(frozen=True)
class _Read:
    """One form's columns under the kind's names, and why rows are left out: a reason -> which rows it holds for."""

    table: pd.DataFrame
    reasons: Mapping[str, pd.Series[bool]]


def attention_rows(table: pd.DataFrame) -> Rows:
    """Rows by batch, seq_len, heads, kv_heads, head_dim, work_frac, is_backward, has_cache and burst_s; `source` is the
    kernel as the file names it."""
    is_serving = set(SERVING.columns) <= set(table.columns)
    read = _serving(table) if is_serving else _figures(table)
    is_empty = ~(read.table[_SIDES] >= 1).all(axis=1)
    skipped = _first_reason({**read.reasons, "an empty side": is_empty}, table.index)
    kept = read.table[skipped == ""].copy()
    kept["region"] = [_region(row) for row in kept.to_dict("records")]
    kept["is_training"] = (kept["seq_len"] >= TRAINING_SEQ_LEN) & (kept["window"] == 0)
    counts = skipped[skipped != ""].value_counts().sort_index()
    return Rows(kept, {str(reason): int(count) for reason, count in counts.items()})


def _serving(table: pd.DataFrame) -> _Read:
    """Times. Columns `pass` and `causal` of `sim profile` may say what inference frameworks leave no choice of: the
    forward pass under a causal mask."""
    said = _numbers(table, "window_size")
    window = said.where((said > 0) & (said < table["isl"]), 0.0)
    keys = window.where(window > 0, table["isl"])
    causal = _numbers(table, "causal") if "causal" in table else pd.Series(1.0, index=table.index)
    passes = table["pass"].astype(str).str.lower() if "pass" in table else pd.Series("fwd", index=table.index)
    seen_keys = (keys - keys * (keys - 1) / (2 * table["isl"])).where(causal > 0, table["isl"])
    has_cache = table["kv_cache_dtype"].str.lower() != NO_CACHE
    read = pd.DataFrame(
        {
            "batch": table["batch_size"],
            "seq_len": table["isl"],
            "heads": table["num_heads"],
            "kv_heads": table["num_key_value_heads"],
            "head_dim": table["head_dim"],
            "window": window,
            "mask": np.select([window > 0, causal > 0], ["window", "causal"], "full"),
            "work_frac": seen_keys / table["isl"],
            "is_backward": passes == "bwd",
            "has_cache": has_cache,
            "burst_s": BURST_S,
            "format": table["attn_dtype"].map(FORMATS).fillna(""),
            "kernel": table["kernel_source"].map(_kernel),
            "source": table["kernel_source"],
            "time_s": table["latency_ms"] * 1e-3,
        },
        index=table.index,
    )
    reasons = {
        "computes in a format that no training run uses for attention": read["format"] == "",
        "the cache of K and V is in another format, and the kernel computes in that": (
            has_cache & (table["kv_cache_dtype"].map(FORMATS).fillna("") != read["format"])
        ),
        "a kernel of single queries (decode)": table["kernel_source"].str.contains("decode"),
        "a window that is no number": said.isna() & _is_given(table, "window_size"),
        OTHER_DIRECTION: ~passes.isin(PASSES),
        "no word on the mask (causal 0 or 1)": ~causal.isin([0, 1]),
        "a sliding window that is not causal": (window > 0) & (causal == 0),
    }
    return _Read(read, reasons)


def _figures(table: pd.DataFrame) -> _Read:
    causal = _numbers(table, "causal")
    heads = _numbers(table, "num_heads")
    passes = table["pass"].str.lower()
    gpu = table["gpu"].astype(str) if "gpu" in table else pd.Series("", index=table.index)
    read = pd.DataFrame(
        {
            "batch": table["batch"],
            "seq_len": table["seqlen"],
            "heads": heads,
            "kv_heads": heads,
            "head_dim": table["head_dim"],
            "window": 0,
            "mask": np.where(causal > 0, "causal", "full"),
            "work_frac": 1.0 - causal / 2,
            "is_backward": passes == "bwd",
            "has_cache": False,
            "burst_s": np.where(gpu.str.contains("clock fixed"), np.inf, BURST_S),
            "format": table["dtype"].map(FORMATS).fillna(""),
            "kernel": table["impl"].map(_kernel),
            "source": table["impl"],
        },
        index=table.index,
    )
    read["time_s"] = _flop(read) / (table["tflops"] * 1e12)
    reasons = {
        "computes in a format that no training run uses for attention": read["format"] == "",
        OTHER_DIRECTION: ~passes.isin(PASSES),
        "attention that is not fused": table["impl"].str.contains("standard"),
        "no word on the mask (causal 0 or 1) or on the number of heads": ~causal.isin([0, 1]) | heads.isna(),
    }
    return _Read(read, reasons)


def _numbers(table: pd.DataFrame, column: str) -> pd.Series[float]:
    """A column that a file may lack or leave empty: NaN there, and where it holds no number."""
    if column not in table:
        return pd.Series(np.nan, index=table.index)
    return pd.to_numeric(table[column], errors="coerce")


def _is_given(table: pd.DataFrame, column: str) -> pd.Series[bool]:
    if column not in table:
        return pd.Series(False, index=table.index)
    return table[column].notna() & (table[column].astype(str).str.strip() != "")


def _first_reason(reasons: Mapping[str, pd.Series[bool]], index: pd.Index[int]) -> pd.Series[str]:
    found = pd.Series("", index=index, dtype=object)
    for reason, holds in reasons.items():
        found = found.mask(holds & (found == ""), reason)
    return found


def _kernel(name: str) -> str:
    """The implementation that a name contains, else the name."""
    return next((kernel for part, kernel in KERNELS.items() if part in name.lower()), name)


def _region(row: Mapping[Hashable, object]) -> str:
    """Pass, mask and head dim of one row, in words."""
    direction = "backward, " if row["is_backward"] else ""
    length = "" if float(str(row["seq_len"])) >= TRAINING_SEQ_LEN else f", s < {TRAINING_SEQ_LEN}"
    return f"{direction}{row['mask']}, head dim {row['head_dim']:g}{length}"


def shape_of_rows(table: pd.DataFrame) -> Shape:
    """Shapes of the kernels of `attention_rows`: each (rows,)."""

    def column(name: str) -> Floats:
        return table[name].to_numpy(dtype=float)

    seq_len, head_dim = column("seq_len"), column("head_dim")
    heads, kv_heads = column("heads"), column("kv_heads")
    return Shape(
        column("batch"), seq_len, seq_len, heads, kv_heads, head_dim, head_dim, column("work_frac"), VALUE_BYTES
    )


def _flop(table: pd.DataFrame) -> Values:
    is_backward = table["is_backward"].to_numpy(dtype=bool)
    shape = shape_of_rows(table)
    return np.where(is_backward, shape_flop(shape, is_backward=True), shape_flop(shape, is_backward=False))
