"""Fused attention, forward and backward."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import least_squares, minimize_scalar

from sim.calibrate.attention_rows import (
    FIGURES,
    FORMATS,
    KERNELS,
    SERVING,
    TRAINING_SEQ_LEN,
    VALUE_BYTES,
    attention_rows,
    shape_of_rows,
)
from sim.calibrate.kind import KINDS, Fit, Rows
from sim.cost.attention import (
    BURST_S,
    REFERENCE_HEAD_DIM,
    Device,
    Values,
    launched_s,
    lone_launch_s,
    products_s,
)
from sim.spec.gpu import AttentionConstants, Gpu, peak_in
from sim.spec.topology import Floats

CACHE_HBM_FRAC = 0.5
"""Share of the HBM rate at which an inference framework copies K and V into its cache before attention runs, by
vectors of at least 128 values: fitted alone on A100, H100, H200, B200 and GB200 it is 0.42 to 0.62."""
CACHE_COPIES = 4
"""K and V, each read and written."""

_MIN_ROWS = 5
"""Rows that a pass must have to be fitted."""
_MIN_BURSTS = 20
"""Rows at the clock of a burst that say more of a kernel than rows at a fixed clock do."""
_OUTLIER = 0.1
"""Relative error from which on a row counts by its error, no longer by the square of it."""

_TINY = 1e-9
_INSIDE = 1e-6
"""How far inside its bounds a search starts, in logarithms."""

_BOUNDS: Mapping[str, tuple[float, float]] = {
    "flop_frac": (0.05, 1.0),
    "s_half": (1.0, 5000.0),
    "softmax_dim": (1.0, 512.0),
    "full_head_dim": (float(REFERENCE_HEAD_DIM), 512.0),
    "edge_keys": (1.0, 512.0),
    "tail_rows": (1.0, 1024.0),
    "launch_s": (1e-7, 5e-5),
    "long_frac": (0.3, 1.0),
}


class AttentionKind:
    """Causal or full fused attention, over a whole sequence or a sliding window, of many query heads by key head.

    Reads times of causal forward kernels in inference frameworks (ai-dynamo/aiconfigurator), which include the copy of
    K and V into the cache, times of both passes from `sim profile`, and TFLOP/s of both passes as papers print them (a
    causal mask halves their FLOP).
    """

    name = "attention"
    forms = (SERVING, FIGURES)
    training = f"sequences of {TRAINING_SEQ_LEN} tokens or more, no sliding window"

    def rows(self, table: pd.DataFrame) -> Rows:
        """See `sim.calibrate.attention_rows`."""
        return attention_rows(table)

    def predicted_s(self, table: pd.DataFrame, gpu: Gpu) -> Floats:
        """Time of each row at the clock of its measurement: (rows,), s."""
        found = np.empty(len(table))
        used = used_kernels(table, gpu)
        for kernel in gpu.attention:
            mine = used == kernel
            found[mine] = _row_s(table[mine], gpu.attention[kernel], gpu)
        return found

    def fit(self, table: pd.DataFrame, gpu: Gpu) -> Fit:
        """Constants of each implementation that the rows name; what they do not tell stays as the GPU has it.

        Rows of an unnamed kernel are fitted as the GPU's first one, where that has no rows under its own name. A named
        one that the GPU's file lacks is added to it, from the constants of the first one on.
        """
        first = next(iter(gpu.attention))
        lacking = [name for name in KERNELS.values() if name not in gpu.attention and (table["kernel"] == name).any()]
        gpu = gpu.model_copy(update={"attention": {**gpu.attention, **dict.fromkeys(lacking, gpu.attention[first])}})
        constants: dict[str, float] = {}
        evidence: dict[str, str] = {}
        ranges: dict[str, tuple[float, float]] = {}
        used = used_kernels(table, gpu)
        for kernel, held in gpu.attention.items():
            named = table["kernel"] == kernel
            rows = table[named] if named.any() else table[used == kernel]
            rows = rows[rows["seq_len"] >= TRAINING_SEQ_LEN]
            for part in _fitted(rows, held, gpu):
                prefix = f"attention.{kernel}"
                keys = {f"{prefix}.{_file_key(field)}": field for field in part.constants}
                constants |= {key: part.constants[field] for key, field in keys.items()}
                for key, field in keys.items():
                    group = key.rpartition(".")[0] if "." in field else key
                    evidence.setdefault(group, part.evidence)
                if part.is_forward:
                    ranges[f"{prefix}.range_seq_len"] = _range(rows["seq_len"])
                    ranges[f"{prefix}.range_head_dim"] = _range(rows["head_dim"])
        added = [f"attention.{name}" for name in lacking if f"attention.{name}.range_seq_len" in ranges]
        return Fit(constants, evidence, ranges, dict.fromkeys(added, f"attention.{first}"))

    def halves(self, table: pd.DataFrame) -> Mapping[str, NDArray[np.bool_]]:
        """Short against long sequences, and few against many heads x batch, halved over the rows of training sizes."""
        sides = {"sequence": table["seq_len"], "heads x batch": table["heads"] * table["batch"]}
        is_training = table["is_training"].astype(bool)
        return {name: (side <= side[is_training].median()).to_numpy(dtype=bool) for name, side in sides.items()}


@dataclass(frozen=True)
class _Part:
    """Constants that some of the rows told, by field (`forward.s_half`)."""

    constants: Mapping[str, float]
    evidence: str
    is_forward: bool = False


def used_kernels(table: pd.DataFrame, gpu: Gpu) -> NDArray[np.object_]:
    """The implementation by which each row is predicted: its own, the GPU's first where the GPU has none of that."""
    first = next(iter(gpu.attention))
    return np.array([name if name in gpu.attention else first for name in table["kernel"]], dtype=object)


def _cache_s(table: pd.DataFrame, gpu: Gpu) -> Floats:
    """Time of the copy of K and V into the cache, where the measurement includes it: (rows,), s."""
    vectors = (table["batch"] * table["seq_len"] * table["kv_heads"]).to_numpy(dtype=float)
    values = vectors * np.maximum(table["head_dim"].to_numpy(dtype=float), REFERENCE_HEAD_DIM)
    copy_s = CACHE_COPIES * values * VALUE_BYTES / (gpu.hbm_bytes_per_s * CACHE_HBM_FRAC)
    return np.where(table["has_cache"].to_numpy(dtype=bool), copy_s, 0.0)


def _row_s(table: pd.DataFrame, constants: AttentionConstants, gpu: Gpu) -> Floats:
    """Time of rows of one implementation at the clock of their measurement: (rows,), s."""
    burst_s = table["burst_s"].to_numpy(dtype=float)

    def compute_s(alone_s: Values) -> Values:
        return lone_launch_s(alone_s, constants.long_frac, burst_s)

    return rows_s(table, constants, gpu, compute_s) + _cache_s(table, gpu)


def rows_s(
    table: pd.DataFrame, constants: AttentionConstants, gpu: Gpu, compute_s: Callable[[Values], Values]
) -> Floats:
    """Time of rows of one implementation whose products take `compute_s` of their time at full clock: (rows,), s."""
    shape = shape_of_rows(table)
    peak_by_format = {name: peak_in(gpu, name) for name in set(FORMATS.values()) if (table["format"] == name).any()}
    peak_flop_per_s: Floats = np.array([peak_by_format[name] for name in table["format"]], dtype=np.float64)
    device = Device(peak_flop_per_s, gpu.hbm_bytes_per_s, gpu.num_sms)

    def pass_s(*, is_backward: bool) -> Floats:
        alone_s = products_s(shape, constants, device, is_backward=is_backward)
        return np.asarray(launched_s(compute_s(alone_s), shape, constants, device, is_backward=is_backward))

    back = table["is_backward"].to_numpy(dtype=bool)
    return np.where(back, pass_s(is_backward=True), pass_s(is_backward=False))


def _fitted(rows: pd.DataFrame, held: AttentionConstants, gpu: Gpu) -> Iterator[_Part]:
    """What the rows of one implementation tell, each part on top of those before: forward, windows, backward."""
    forward = rows[~rows["is_backward"].astype(bool)]
    whole = forward[forward["window"] == 0]
    bursts = whole[np.isfinite(whole["burst_s"])]
    is_burst = len(bursts) >= _MIN_BURSTS
    seen = bursts if is_burst else whole
    if len(seen) < _MIN_ROWS:
        return
    values = _solved(seen, _forward_fields(seen, is_burst=is_burst), held, gpu)
    held = _with(held, values)
    yield _Part(values, _evidence(seen, "forward"), is_forward=True)

    windows = forward[forward["window"] > 0]
    if len(windows) >= _MIN_BURSTS:
        values = _edges(windows, held, gpu)
        held = _with(held, values)
        yield _Part(values, _evidence(windows, "forward, sliding windows"))

    backward = rows[rows["is_backward"].astype(bool)]
    target = _scaled(backward, whole, held, gpu) if is_burst else backward
    if len(target) >= _MIN_ROWS:
        fields = ["backward.flop_frac", "backward.s_half"]
        fields += ["backward.softmax_dim"] if target["head_dim"].unique().size > 1 else []
        how = "backward over forward rate" if is_burst else "backward"
        yield _Part(_solved(target, fields, held, gpu), _evidence(target, how))


def _edges(windows: pd.DataFrame, held: AttentionConstants, gpu: Gpu) -> dict[str, float]:
    """How much of what a causal query costs beyond its keys belongs to the edge of the mask: a window has two."""
    causal_keys = held.forward.s_half + held.edge_keys
    measured_s = windows["time_s"].to_numpy(dtype=float)

    def values(edge_keys: float) -> dict[str, float]:
        return {"edge_keys": edge_keys, "forward.s_half": causal_keys - edge_keys}

    def error(edge_keys: float) -> float:
        return float(np.abs(_row_s(windows, _with(held, values(edge_keys)), gpu) / measured_s - 1).mean())

    found = minimize_scalar(error, bounds=(0.0, causal_keys), method="bounded")
    return values(float(found.x))


def _forward_fields(rows: pd.DataFrame, *, is_burst: bool) -> list[str]:
    """What the rows can tell: head dims apart, few heads, long launches."""
    fields = ["forward.flop_frac", "forward.s_half"]
    if rows["head_dim"].unique().size > 1:
        fields.append("forward.softmax_dim")
        if rows["head_dim"].max() > REFERENCE_HEAD_DIM:
            fields.append("full_head_dim")
    masks = rows["mask"].value_counts()
    if masks.size > 1 and masks.min() >= (_MIN_BURSTS if is_burst else 1):
        fields.append("edge_keys")
    if is_burst:
        fields += ["tail_rows", "launch_s"]
        if (rows["time_s"] > BURST_S).sum() >= _MIN_BURSTS:
            fields.append("long_frac")
    return fields


def _scaled(backward: pd.DataFrame, forward: pd.DataFrame, held: AttentionConstants, gpu: Gpu) -> pd.DataFrame:
    """Backward rows with a forward row of their shape, as they would take at the clock of the forward constants.

    The backward time is that of the fitted forward pass times measured backward over measured forward: so the ratio of
    the passes is kept, whatever the clock at which the pair was measured.
    """
    shape = ["batch", "seq_len", "heads", "kv_heads", "head_dim", "work_frac", "burst_s", "has_cache", "source"]
    partners = forward[[*shape, "time_s"]].drop_duplicates(shape)
    pairs = backward.merge(partners, on=shape, suffixes=("", "_forward"))
    alone = pairs.assign(is_backward=False)
    return pairs.assign(time_s=pairs["time_s"] * _row_s(alone, held, gpu) / pairs["time_s_forward"])


def _solved(rows: pd.DataFrame, fields: Sequence[str], held: AttentionConstants, gpu: Gpu) -> dict[str, float]:
    """Values of `fields` with the least error of the logarithm of the time, robust against outliers; from `held` on.

    The error has a kink, and with it a minimum, where `full_head_dim` crosses a measured head dim: hence many starts.
    """
    low, high = np.log([_bounds(field, rows) for field in fields]).T
    log_measured = np.log(rows["time_s"].to_numpy(dtype=float))

    def error(logs: Floats) -> Floats:
        trial = _with(held, dict(zip(fields, np.exp(logs).tolist(), strict=True)))
        return np.asarray(np.log(_row_s(rows, trial, gpu)) - log_measured)

    trials = []
    for constants in _starts(fields, held, rows):
        start = np.log([max(_get(constants, field), _TINY) for field in fields])
        start = np.clip(start, low + _INSIDE, high - _INSIDE)
        trials.append(least_squares(error, start, bounds=(low, high), loss="soft_l1", f_scale=_OUTLIER))
    best = min(trials, key=lambda trial: trial.cost)
    return dict(zip(fields, np.exp(best.x).tolist(), strict=True))


def _starts(fields: Sequence[str], held: AttentionConstants, rows: pd.DataFrame) -> list[AttentionConstants]:
    """Constants from which a fit sets out: with a tile that ends between each wide head dim and the reference."""
    if "full_head_dim" not in fields:
        return [held]
    wide = [float(dim) for dim in np.sort(rows["head_dim"].unique()) if dim > REFERENCE_HEAD_DIM]
    return [_with(held, {"full_head_dim": math.sqrt(dim * REFERENCE_HEAD_DIM)}) for dim in wide]


def _bounds(field: str, rows: pd.DataFrame) -> tuple[float, float]:
    """Range of a constant; a tile is at most as wide as the widest head that was measured."""
    low, high = _BOUNDS[field.rpartition(".")[2]]
    return (low, float(rows["head_dim"].max())) if field == "full_head_dim" else (low, high)


def _get(constants: AttentionConstants, field: str) -> float:
    direction, _, name = field.rpartition(".")
    return float(getattr(getattr(constants, direction) if direction else constants, name))


def _with(constants: AttentionConstants, values: Mapping[str, float]) -> AttentionConstants:
    """The constants with some fields replaced."""
    updated = constants
    for field, value in values.items():
        direction, _, name = field.rpartition(".")
        update = {name: value}
        if direction:
            update = {direction: getattr(updated, direction).model_copy(update={name: value})}
        updated = updated.model_copy(update=update)
    return updated


def _file_key(field: str) -> str:
    """A field as a GPU's file calls it."""
    return {"launch_s": "launch"}.get(field, field)


def _range(values: pd.Series[float]) -> tuple[float, float]:
    return float(values.min()), float(values.max())


def _evidence(rows: pd.DataFrame, what: str) -> str:
    dims = ", ".join(str(dim) for dim in sorted(rows["head_dim"].unique()))
    clock = "" if np.isfinite(rows["burst_s"]).any() else ", fixed clock"
    return f"{what}, {len(rows):,} rows, head dim {dims}, s >= {TRAINING_SEQ_LEN}{clock}"


KINDS.register("attention")(AttentionKind())
