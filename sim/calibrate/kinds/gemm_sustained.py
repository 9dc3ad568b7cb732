"""Dense matrix products that run back to back until clock and power have settled, as in a training run."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sim.calibrate.kind import KINDS, Fit, Form, Rows
from sim.calibrate.kinds.gemm import FORMATS, PRODUCT_ALONE, TRAINING_SIDE, shapes_of
from sim.calibrate.sustained import readings, settled, share_of
from sim.cost.gemm import product_s, rates
from sim.spec.gpu import BYTES_PER_VALUE, Gpu, NumberFormat, gemm_constants
from sim.spec.topology import Floats


@final
class SustainedGemmKind:
    """Products at the clock of a run. They tell `in_run_frac`, the sustained over the burst rate at the same shape,
    where the burst is what the other constants of `gemm` say."""

    name = "gemm_sustained"
    training = f"m, n, k >= {TRAINING_SIDE}"
    forms = (Form(numbers=("m", "n", "k"), measured="sustained_ms", words=("kernel_source", "gemm_dtype")),)

    def rows(self, table: pd.DataFrame) -> Rows:
        """Products of a known format, without a cast inside; `clock_mhz` and `power_w` are NaN where not known."""
        file_format = table["gemm_dtype"].astype(str)
        computed_in = file_format.map({name: computed for name, (_, computed) in FORMATS.items()})
        shortest = table[["m", "n", "k"]].min(axis=1)
        has_cast = computed_in.map(BYTES_PER_VALUE).lt(BYTES_PER_VALUE["bf16"])
        has_cast &= ~table["kernel_source"].str.startswith(PRODUCT_ALONE)
        skipped = pd.Series("", index=table.index, dtype=object)
        for reason, is_out in (
            ("a format that the cost model does not know", computed_in.isna()),
            ("an empty product", shortest < 1),
            ("casts its activations inside the measured time", has_cast),
        ):
            skipped = skipped.mask(is_out & (skipped == ""), reason)
        found = table[["m", "n", "k"]].assign(
            time_s=table["sustained_ms"] * 1e-3,
            format=computed_in,
            region=np.where(shortest >= TRAINING_SIDE, self.training, "a side below 512"),
            kernel=table["kernel_source"],
            is_training=shortest >= TRAINING_SIDE,
            clock_mhz=readings(table, "clock_mhz"),
            power_w=readings(table, "power_w"),
        )
        counts = skipped[skipped != ""].value_counts().sort_index()
        return Rows(found[skipped == ""], {str(reason): int(count) for reason, count in counts.items()})

    def predicted_s(self, table: pd.DataFrame, gpu: Gpu) -> Floats:
        """Time of the product in a training run, (rows,), s."""
        predicted = np.empty(len(table))
        for name, chosen in _by_format(table):
            predicted[chosen] = _in_run_s(table[chosen], name, gpu, gemm_constants(gpu, name).in_run_frac)
        return predicted

    def fit(self, table: pd.DataFrame, gpu: Gpu) -> Fit:
        """`in_run_frac` of each number format that has rows of training sizes and that the GPU computes in."""
        constants: dict[str, float] = {}
        evidence: dict[str, str] = {}
        for name, chosen in _by_format(table):
            rows = table[chosen & table["is_training"].to_numpy(dtype=bool)]
            if rows.empty or name not in gpu.peak_flop_per_s:
                continue
            key = f"gemm.{name}.in_run_frac"
            constants[key] = share_of(partial(_in_run_s, rows, name, gpu), rows)
            evidence[key] = f"{name}, {len(rows):,} sustained {_noun(len(rows))} with {self.training}{settled(rows)}"
        return Fit(constants, evidence)

    def halves(self, table: pd.DataFrame) -> Mapping[str, NDArray[np.bool_]]:
        """Up to the median of the product's size: small ones draw less power."""
        flop = table["m"] * table["n"] * table["k"]
        return {"FLOP above the median": (flop <= flop.median()).to_numpy(dtype=bool)}


def _in_run_s(rows: pd.DataFrame, name: NumberFormat, gpu: Gpu, share: float) -> Floats:
    """Time at `share` of the burst rate, (rows,), s."""
    constants = gemm_constants(gpu, name).model_copy(update={"in_run_frac": share})
    return product_s(shapes_of(rows, name), constants, rates(gpu, name), burst=False)


def _by_format(table: pd.DataFrame) -> list[tuple[NumberFormat, NDArray[np.bool_]]]:
    """Number formats of the rows, and which rows are of each."""
    formats: list[NumberFormat] = sorted(set(table["format"]))
    return [(name, (table["format"] == name).to_numpy(dtype=bool)) for name in formats]


def _noun(count: int) -> str:
    return "shape" if count == 1 else "shapes"


KINDS.register("gemm_sustained")(SustainedGemmKind())
