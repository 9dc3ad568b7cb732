"""Kernels that only move bytes: elementwise, norms, softmax, gathers of rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import least_squares

from sim.calibrate.kind import KINDS, Fit, Form, Rows
from sim.cost.stream import REREAD_FRAC, StreamKind, moving_s, reread_bytes
from sim.spec.gpu import Gpu
from sim.spec.topology import Floats

TRAINING_BYTES = 256e6
SMALL_BYTES = 16e6
"""Kernels that move less tell the launch: at 1 TB/s or more, the bytes take 16 us at most."""

EAGER_HOST_S = 15e-6
"""Host time inside a measurement that puts two events around one eager call of PyTorch, beyond a launch of about 3 us.
The 32 pairs of operation and GPU of sitar-lab/NeuSight, each fitted as intercept + bytes / rate, read 14 to 25 us,
median 18. No part of a GPU's file: in a step the host runs ahead."""

QUEUED = "queued"
"""`timing` of a kernel whose start was waiting on the GPU: no host time."""

TURNS = 5
"""In which shares of the HBM rate and the launch settle to a part in a thousand."""

_FP32_BYTES = 4
_FORMATS = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}
"""As PyTorch calls them -> as the catalogue does."""

_SHORT_ROW_BYTES = 16384.0
_STARTS = np.geomspace(2e3, 2e5, 9)

_REACH = 1.5
"""How far beyond the rows of a fit a cached row can be told: there the caches hold 8 or 92 % of them."""

_ARRAYS: dict[str, int] = {
    **dict.fromkeys(("add", "sub", "mul", "div", "pow"), 3),
    **dict.fromkeys(("addu", "subu", "mulu", "divu", "powu"), 2),
    **dict.fromkeys(("relu", "gelu", "tanh", "sigmoid", "silu", "exp", "ln", "softmax"), 2),
}
"""Arrays of B x H that an operation of NeuSight reads or writes; a suffix u: the other operand is a scalar."""

_REDUCTIONS: dict[str, StreamKind] = {"ln": "norm", "softmax": "softmax"}


class MemoryBoundKind:
    """Measured kernels of B rows of H values each.

    Two forms: NeuSight's, fp32, where the operation tells the bytes; and that of `sim profile`, which says bytes,
    kind, row and launches itself.
    """

    name = "memory_bound"
    training = "256 MB moved or more"
    forms = (
        Form(
            numbers=("B", "H", "nbytes", "row_bytes", "launches"),
            measured="Latency",
            words=("OPName", "Device", "stream_kind", "dtype", "timing"),
        ),
        Form(numbers=("B", "H"), measured="Latency", words=("OPName", "Device")),
    )

    def rows(self, table: pd.DataFrame) -> Rows:
        """Adds what the model needs: stream_kind, nbytes, row_bytes, launches and host_s (time beyond the kernel)."""
        full = table if "stream_kind" in table.columns else _with_bytes(table)
        is_known = full["stream_kind"].isin(get_args(StreamKind))
        skipped = {
            f"unknown operation {name}": int(n) for name, n in full.loc[~is_known, "OPName"].value_counts().items()
        }
        known = full[is_known].copy()
        known["time_s"] = known["Latency"] * 1e-3
        known["format"] = known["dtype"].replace(_FORMATS)
        known["region"] = _regions(known)
        known["kernel"] = known["OPName"]
        known["host_s"] = np.where(known["timing"] == QUEUED, 0.0, EAGER_HOST_S)
        known["is_training"] = known["nbytes"] >= TRAINING_BYTES
        return Rows(known, skipped)

    def predicted_s(self, table: pd.DataFrame, gpu: Gpu) -> Floats:
        """As `sim.cost.stream.stream_s`, with the host's time where it is part of the measurement: (rows,), s."""
        overhead = table["host_s"] + table["launches"] * gpu.memory_bound.launch_s
        time = overhead.to_numpy(dtype=float, copy=True)
        for kind, chosen in _by_kind(table):
            nbytes, row_bytes = (table[name].to_numpy(dtype=float)[chosen] for name in ("nbytes", "row_bytes"))
            time[chosen] += moving_s(kind, nbytes, row_bytes, gpu.memory_bound, gpu.hbm_bytes_per_s)
        return time

    def fit(self, table: pd.DataFrame, gpu: Gpu) -> Fit:
        """Share of the HBM rate and cached row by kind from the rows of training size; the launch from small rows.

        Each holds the other: they are fitted in turn.
        """
        is_large = table["is_training"].to_numpy(dtype=bool)
        large = {kind: table[chosen & is_large] for kind, chosen in _by_kind(table) if (chosen & is_large).any()}
        small = table[(table["host_s"] == 0.0) & (table["nbytes"] < SMALL_BYTES)]
        rates: dict[StreamKind, dict[str, float]] = {}
        for _ in range(TURNS if len(small) else 1):
            rates = {kind: _fitted(kind, rows, gpu) for kind, rows in large.items()}
            gpu = _with(gpu, {kind: getattr(gpu.memory_bound, kind).model_copy(update=rates[kind]) for kind in rates})
            if len(small):
                left = small["time_s"] - (self.predicted_s(small, gpu) - small["launches"] * gpu.memory_bound.launch_s)
                gpu = _with(gpu, {"launch_s": max(float((left / small["launches"]).median()), 0.0)})
        constants: dict[str, float] = {}
        evidence: dict[str, str] = {}
        for kind, rows in large.items():
            key = f"memory_bound.{kind}"
            constants |= {f"{key}.{field.removesuffix('_bytes')}": value for field, value in rates[kind].items()}
            formats = ", ".join(sorted(rows["format"].unique()))
            evidence[key] = f"{formats}, {len(rows):,} {kind} kernels of {self.training}"
        if len(small):
            constants["memory_bound.launch"] = gpu.memory_bound.launch_s
            evidence["memory_bound.launch"] = f"{len(small):,} kernels that move less than {SMALL_BYTES / 1e6:.0f} MB"
        return Fit(constants, evidence)

    def halves(self, table: pd.DataFrame) -> Mapping[str, NDArray[np.bool_]]:
        """Few rows, read on many; and every other row length: those below the median never leave the caches."""
        num_rows = table["B"].to_numpy(dtype=float)
        order = {width: index for index, width in enumerate(sorted(table["H"].unique()))}
        is_even = np.array([order[width] % 2 == 0 for width in table["H"]])
        return {"few rows": num_rows <= np.median(num_rows), "every other row length": is_even}


def _with_bytes(table: pd.DataFrame) -> pd.DataFrame:
    """NeuSight's rows with what their operation says about them."""
    values = table["B"] * table["H"] * _FP32_BYTES
    arrays = table["OPName"].map(_ARRAYS)
    kind = (
        table["OPName"].map(_REDUCTIONS).where(table["OPName"].isin(_REDUCTIONS), "elementwise").where(arrays.notna())
    )
    row_bytes = np.where(kind.isin(REREAD_FRAC), table["H"] * _FP32_BYTES, 0.0)
    return table.assign(
        stream_kind=kind, nbytes=values * arrays, row_bytes=row_bytes, launches=1, dtype="fp32", timing="eager"
    )


def _regions(table: pd.DataFrame) -> list[str]:
    """Kind, and for a reduction whether its rows are short."""
    return [
        kind if row == 0 else f"{kind}, rows {'below' if row < _SHORT_ROW_BYTES else 'of'} 16 KiB{_more(row)}"
        for kind, row in zip(table["stream_kind"], table["row_bytes"], strict=True)
    ]


def _more(row_bytes: float) -> str:
    return "" if row_bytes < _SHORT_ROW_BYTES else " or more"


def _by_kind(table: pd.DataFrame) -> Iterator[tuple[StreamKind, NDArray[np.bool_]]]:
    """Each kind in the table, and which rows are of it."""
    for kind in get_args(StreamKind):
        chosen = (table["stream_kind"] == kind).to_numpy(dtype=bool)
        if chosen.any():
            yield kind, chosen


def _fitted(kind: StreamKind, rows: pd.DataFrame, gpu: Gpu) -> dict[str, float]:
    """hbm_frac of the least squared relative error, and cached_row where some rows are shorter and some longer."""
    if kind not in REREAD_FRAC or not (rows["row_bytes"] > 0).all():
        return {"hbm_frac": _share(rows, rows["nbytes"].to_numpy(dtype=float), gpu)[0]}
    nbytes, row_bytes = (rows[name].to_numpy(dtype=float) for name in ("nbytes", "row_bytes"))

    def errors(log_row: Floats) -> Floats:
        moved = nbytes + reread_bytes(nbytes, row_bytes, float(np.exp(log_row[0])), REREAD_FRAC[kind])
        return _share(rows, moved, gpu)[1]

    trials = [least_squares(errors, [np.log(start)]) for start in _STARTS]
    cached_row = float(np.exp(min(trials, key=lambda trial: trial.cost).x[0]))
    if not row_bytes.min() / _REACH < cached_row < row_bytes.max() * _REACH:
        held = getattr(gpu.memory_bound, kind).cached_row_bytes
        moved = nbytes + reread_bytes(nbytes, row_bytes, held, REREAD_FRAC[kind])
        return {"hbm_frac": _share(rows, moved, gpu)[0]}
    moved = nbytes + reread_bytes(nbytes, row_bytes, cached_row, REREAD_FRAC[kind])
    return {"hbm_frac": _share(rows, moved, gpu)[0], "cached_row_bytes": cached_row}


def _with(gpu: Gpu, update: Mapping[str, object]) -> Gpu:
    """The GPU with some fields of its memory-bound constants replaced."""
    return gpu.model_copy(update={"memory_bound": gpu.memory_bound.model_copy(update=update)})


def _share(rows: pd.DataFrame, moved: Floats, gpu: Gpu) -> tuple[float, Floats]:
    """Share of HBM in `overhead + moved / (HBM x share) = time`, by least squares of relative errors, and the errors.

    Linear in the inverse of the share. At most 1, which rows in the second-level cache would pass.
    """
    time = rows["time_s"].to_numpy(dtype=float)
    overhead = (rows["host_s"] + rows["launches"] * gpu.memory_bound.launch_s).to_numpy(dtype=float)
    per_share = moved / gpu.hbm_bytes_per_s / time
    wanted = 1.0 - overhead / time
    inverse = max(float(per_share @ wanted / (per_share @ per_share)), 1.0)
    return 1.0 / inverse, inverse * per_share - wanted


KINDS.register("memory_bound")(MemoryBoundKind())
