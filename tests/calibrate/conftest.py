"""A kind of kernel whose cost model is one line: time = bytes / (share x HBM), share fitted as a ratio of sums."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from sim.calibrate.kind import Fit, Form, Kind, Rows
from sim.spec.gpu import Gpu
from sim.spec.topology import Floats

SHARE = "memory_bound.elementwise.hbm_frac"


class Moves:
    """Kernels that move `mib` MiB; more than 512 MiB is nothing that the model knows."""

    name = "moves"
    forms = (Form(numbers=("mib",), measured="time_us", words=("who",)),)
    training = "1 MiB and more"

    def rows(self, table: pd.DataFrame) -> Rows:
        known = table[table["mib"] <= 512]
        out = known.assign(
            time_s=known["time_us"] / 1e6,
            format="bf16",
            region=np.where(known["mib"] >= 1, "large", "small"),
            kernel=known["who"],
            is_training=known["mib"] >= 1,
        )
        skipped = len(table) - len(known)
        return Rows(out, {"more than 512 MiB": skipped} if skipped else {})

    def predicted_s(self, table: pd.DataFrame, gpu: Gpu) -> Floats:
        share = gpu.memory_bound.elementwise.hbm_frac
        return table["mib"].to_numpy(dtype=float) * 2**20 / (share * gpu.hbm_bytes_per_s)

    def fit(self, table: pd.DataFrame, gpu: Gpu) -> Fit:
        rate = table["mib"].sum() * 2**20 / table["time_s"].sum()
        return Fit({SHARE: rate / gpu.hbm_bytes_per_s}, {SHARE: f"{len(table)} kernels"})

    def halves(self, table: pd.DataFrame) -> Mapping[str, NDArray[np.bool_]]:
        return {"above the median size": (table["mib"] <= table["mib"].median()).to_numpy()}


@pytest.fixture
def moves() -> Kind:
    return Moves()
