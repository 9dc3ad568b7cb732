"""What kernels tell that run back to back until clock and power have settled: the share of the burst rate in a run."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from sim.calibrate.fitting import Bounds, fit_relative
from sim.spec.topology import Floats

SHARE = Bounds(0.85, 0.05, 1.0)
"""A run is never faster than a burst."""

FULL_RATE = 0.999
"""A share above it is what the fit gives where nothing is lost."""


def share_of(in_run_s: Callable[[float], Floats], rows: pd.DataFrame) -> float:
    """The share of the burst rate under which the model (share -> (rows,), s) is nearest to the measured times."""
    measured_s = rows["time_s"].to_numpy(dtype=float)
    (found,) = fit_relative(lambda share: in_run_s(float(share[0])), measured_s, [SHARE])
    return 1.0 if found > FULL_RATE else float(found)


def readings(table: pd.DataFrame, column: str) -> pd.Series[float]:
    """Clock or power of each row, NaN where a file does not say."""
    if column not in table:
        return pd.Series(np.nan, index=table.index)
    return pd.to_numeric(table[column], errors="coerce")


def settled(rows: pd.DataFrame) -> str:
    """Mean clock and power of the rows where they are known: `, at 1,410 MHz and 698 W`."""
    said = [
        f"{rows[column].mean():,.0f} {unit}"
        for column, unit in (("clock_mhz", "MHz"), ("power_w", "W"))
        if rows[column].notna().any()
    ]
    return f", at {' and '.join(said)}" if said else ""
