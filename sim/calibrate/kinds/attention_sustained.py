"""Fused attention that runs back to back until clock and power have settled, as in a training run."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sim.calibrate.attention_rows import TRAINING_SEQ_LEN, attention_rows
from sim.calibrate.kind import KINDS, Fit, Form, Rows
from sim.calibrate.kinds.attention import rows_s, used_kernels
from sim.calibrate.sustained import readings, settled, share_of
from sim.spec.gpu import AttentionKernel, Gpu
from sim.spec.topology import Floats


@final
class SustainedAttentionKind:
    """Both passes of attention at the clock of a run. They tell `in_run_frac`, the sustained over the burst rate at the
    same shape, where the burst is what the other constants of the implementation say."""

    name = "attention_sustained"
    training = f"sequences of {TRAINING_SEQ_LEN} tokens or more, no sliding window"
    forms = (
        Form(
            numbers=("batch_size", "isl", "num_heads", "num_key_value_heads", "head_dim", "causal"),
            measured="sustained_ms",
            words=("kernel_source", "attn_dtype", "kv_cache_dtype", "pass"),
        ),
    )

    def rows(self, table: pd.DataFrame) -> Rows:
        """As `sim.calibrate.attention_rows`, of kernels that copy nothing into a cache, with clock and power."""
        read = attention_rows(table.assign(latency_ms=table["sustained_ms"]))
        has_cache = read.table["has_cache"].astype(bool)
        found = read.table[~has_cache].copy()
        for column in ("clock_mhz", "power_w"):
            found[column] = readings(table, column)[found.index]
        skipped = dict(read.skipped)
        if has_cache.any():
            skipped["copies keys and values into a cache"] = int(has_cache.sum())
        return Rows(found, skipped)

    def predicted_s(self, table: pd.DataFrame, gpu: Gpu) -> Floats:
        """Time of each row in a training run: (rows,), s."""
        found = np.empty(len(table))
        used = used_kernels(table, gpu)
        for kernel in gpu.attention:
            mine = used == kernel
            found[mine] = _in_run_s(table[mine], kernel, gpu, gpu.attention[kernel].in_run_frac)
        return found

    def fit(self, table: pd.DataFrame, gpu: Gpu) -> Fit:
        """`in_run_frac` of each implementation of the GPU that has rows of training sizes under its own name."""
        constants: dict[str, float] = {}
        evidence: dict[str, str] = {}
        for kernel in gpu.attention:
            rows = table[(table["kernel"] == kernel) & table["is_training"].astype(bool)]
            if rows.empty:
                continue
            key = f"attention.{kernel}.in_run_frac"
            constants[key] = share_of(partial(_in_run_s, rows, kernel, gpu), rows)
            num_backward = int(rows["is_backward"].sum())
            passes = f"{len(rows) - num_backward:,} sustained forward and {num_backward:,} backward"
            evidence[key] = f"{passes}, s >= {TRAINING_SEQ_LEN}{settled(rows)}"
        return Fit(constants, evidence)

    def halves(self, table: pd.DataFrame) -> Mapping[str, NDArray[np.bool_]]:
        """Short against long sequences."""
        return {"sequence": (table["seq_len"] <= table["seq_len"].median()).to_numpy(dtype=bool)}


def _in_run_s(rows: pd.DataFrame, kernel: AttentionKernel, gpu: Gpu, share: float) -> Floats:
    """Time at `share` of the burst rate, (rows,), s."""
    return rows_s(rows, gpu.attention[kernel], gpu, lambda alone_s: alone_s / share)


KINDS.register("attention_sustained")(SustainedAttentionKind())
