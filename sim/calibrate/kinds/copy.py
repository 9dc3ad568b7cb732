"""Copies between pinned host memory and the GPU, and the optimizer step on the host's cores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sim.calibrate.fitting import Bounds, fit_relative
from sim.calibrate.kind import KINDS, Fit, Form, Rows
from sim.cost.copy import Copy, HostUpdate, copy_s, host_update_s
from sim.spec.gpu import Gpu
from sim.spec.topology import Floats

COPIES = ("host_to_device", "device_to_host")
UPDATE = "host_update"

TRAINING_BYTES = 1e6
"""A copy of less is as short as its latency."""

SMALL_BYTES = 1e5
"""A copy of less tells the latency: at 25 GB/s or more, the bytes take 4 us at most."""

REACH = 10.0
"""How far a rate may lie from that of the largest copy, and the latency from the shortest."""


@final
class CopyKind:
    """Copies by direction, and `host_update`: Adam in fp32 over the host's memory, on all cores that the process may
    use. `num_gpus` GPUs share those, so that each has so large a part of the rate (1 where a file does not say)."""

    name = "copy"
    training = "1 MB or more"
    forms = (Form(numbers=("nbytes",), measured="latency_ms", words=("direction",)),)

    def rows(self, table: pd.DataFrame) -> Rows:
        """Rows by direction, nbytes and num_gpus."""
        num_gpus = pd.to_numeric(table["num_gpus"], errors="coerce") if "num_gpus" in table else 1.0
        found = table[["direction", "nbytes"]].assign(
            num_gpus=num_gpus,
            time_s=table["latency_ms"] * 1e-3,
            format="bytes",
            region=table["direction"],
            kernel=table["direction"],
            is_training=table["nbytes"] >= TRAINING_BYTES,
        )
        skipped = pd.Series("", index=table.index, dtype=object)
        for reason, is_out in (
            (f"neither {', '.join(COPIES)} nor {UPDATE}", ~table["direction"].isin([*COPIES, UPDATE])),
            ("nothing is copied", table["nbytes"] < 1),
            ("no number of GPUs that share the host", ~(found["num_gpus"] >= 1)),
        ):
            skipped = skipped.mask(is_out & (skipped == ""), reason)
        counts = skipped[skipped != ""].value_counts().sort_index()
        return Rows(found[skipped == ""], {str(reason): int(count) for reason, count in counts.items()})

    def predicted_s(self, table: pd.DataFrame, gpu: Gpu) -> Floats:
        """As `sim.cost.copy`: (rows,), s."""
        constants = gpu.copy_constants
        predicted = []
        for direction, nbytes, num_gpus in zip(table["direction"], table["nbytes"], table["num_gpus"], strict=True):
            if direction == UPDATE:
                predicted.append(host_update_s(HostUpdate(UPDATE, float(nbytes)), constants) / float(num_gpus))
            else:
                predicted.append(copy_s(Copy(direction, float(nbytes), direction), constants))
        return np.array(predicted, dtype=float)

    def fit(self, table: pd.DataFrame, gpu: Gpu) -> Fit:
        """Rates of the directions that have large copies, the latency where some are small, and the host's rate."""
        copies = table[table["direction"].isin(COPIES)]
        large = copies[copies["is_training"].astype(bool)]
        told = [direction for direction in COPIES if (large["direction"] == direction).any()]
        constants, evidence = _copies(copies[copies["direction"].isin(told)], told, gpu)
        updates = table[(table["direction"] == UPDATE) & table["is_training"].astype(bool)]
        if len(updates):
            rates = updates["nbytes"] / updates["time_s"] / updates["num_gpus"]
            constants[f"copy.{UPDATE}"] = float(rates.median())
            num_gpus = ", ".join(f"{count:g}" for count in sorted(updates["num_gpus"].unique()))
            evidence[f"copy.{UPDATE}"] = f"optimizer steps ({len(updates):,}) on cores that {num_gpus} GPUs share"
        return Fit(constants, evidence)

    def halves(self, table: pd.DataFrame) -> Mapping[str, NDArray[np.bool_]]:
        """Up to the median of the bytes."""
        return {"bytes above the median": (table["nbytes"] <= table["nbytes"].median()).to_numpy(dtype=bool)}


def _copies(copies: pd.DataFrame, told: list[str], gpu: Gpu) -> tuple[dict[str, float], dict[str, str]]:
    """Rates of the directions `told`, and the latency of all where small copies tell it, with their evidence."""
    if not told:
        return {}, {}
    nbytes, measured_s = (copies[name].to_numpy(dtype=float) for name in ("nbytes", "time_s"))
    places = np.array([told.index(direction) for direction in copies["direction"]])
    bounds = [_around(max(nbytes[places == place] / measured_s[places == place])) for place in range(len(told))]
    is_small = nbytes < SMALL_BYTES
    if is_small.any():
        bounds.append(_around(float(measured_s[is_small].min())))

    def model(values: Floats) -> Floats:
        latency_s = float(values[-1]) if is_small.any() else gpu.copy_constants.latency_s
        times: Floats = latency_s + nbytes / values[places]
        return times

    found = fit_relative(model, measured_s, bounds)
    constants = {f"copy.{direction}": float(found[place]) for place, direction in enumerate(told)}
    evidence = {f"copy.{direction}": _said(copies[copies["direction"] == direction]) for direction in told}
    if is_small.any():
        constants["copy.latency"] = float(found[-1])
        evidence["copy.latency"] = _said(copies)
    return constants, evidence


def _around(start: float) -> Bounds:
    return Bounds(start, start / REACH, start * REACH)


def _said(rows: pd.DataFrame) -> str:
    least, most = rows["nbytes"].min(), rows["nbytes"].max()
    return f"{len(rows):,} pinned copies of {least:,.0f} to {most:,.0f} bytes"


KINDS.register("copy")(CopyKind())
