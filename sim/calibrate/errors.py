"""How far predictions are from measurements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from sim.spec.topology import Floats

SIXTEEN_BITS = ("bf16", "fp16")


@dataclass(frozen=True)
class Errors:
    """Errors of n predictions, %: of each, |predicted / measured - 1|, the mean, the median and the 90th percentile.

    bias: sum of predictions over sum of measurements, minus 1: what a step made of these kernels would be off by.
    """

    n: int
    mape: float
    median_ape: float
    bias: float
    p90: float


def errors_of(predicted_s: Floats, measured_s: Floats) -> Errors | None:
    """Errors of predictions (n,) of measurements (n,); None of none.

    >>> errors_of(np.array([1.1, 1.0]), np.array([1.0, 2.0]))
    Errors(n=2, mape=30.0, median_ape=30.0, bias=-30.0, p90=46.0)
    """
    assert predicted_s.shape == measured_s.shape
    if not len(measured_s):
        return None
    apes = 100 * np.abs(predicted_s / measured_s - 1)
    figures = (apes.mean(), np.median(apes), 100 * (predicted_s.sum() / measured_s.sum() - 1), np.quantile(apes, 0.9))
    mape, median, bias, p90 = (round(float(figure), 6) for figure in figures)
    return Errors(len(measured_s), mape, median, bias, p90)


def errors_in(table: pd.DataFrame) -> Errors | None:
    """Errors of rows that have `predicted_s` and `time_s`; None of none."""
    return errors_of(table["predicted_s"].to_numpy(dtype=float), table["time_s"].to_numpy(dtype=float))


def is_headline(table: pd.DataFrame) -> pd.Series[bool]:
    """Rows (those of `sim.calibrate.kind.Rows`) that the headline counts: of training sizes and, where there are any,
    of 16-bit formats, in which training computes most."""
    is_training = table["is_training"].astype(bool)
    in_16_bits = is_training & table["format"].isin(SIXTEEN_BITS)
    return in_16_bits if in_16_bits.any() else is_training


def by_group(table: pd.DataFrame, columns: Sequence[str]) -> list[tuple[dict[str, str], Errors]]:
    """Errors of each combination of the values of `columns`, sorted; `table` has predicted_s and time_s."""
    found = []
    for values, rows in table.groupby(list(columns), sort=True):
        errors = errors_in(rows)
        assert errors is not None
        found.append((dict(zip(columns, map(str, values), strict=True)), errors))
    return found
