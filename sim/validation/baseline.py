"""What a model of training steps must beat: one share of the peak for all steps of a stack on a GPU."""

from __future__ import annotations

import numpy as np
import pandas as pd

KINDS = ["stack", "gpu", "precision"]


def constant_mfu(table: pd.DataFrame) -> pd.Series[float]:
    """Signed error, %, of a step predicted by the MFU of the other rows of its stack, GPU and number format.

    The MFU is the median of what was measured on the other rows (full attention, no recomputation), so no row helps to
    predict itself; blank for a row that is alone. table: measured_s, model_flop, peak_flop_per_s and `KINDS`.
    """
    errors = pd.Series(np.nan, index=table.index, dtype=float)
    mfu = table["model_flop"] / (table["peak_flop_per_s"] * table["measured_s"])
    for _, rows in table.groupby(KINDS):
        for index in rows.index:
            others = mfu[rows.index.drop(index)]
            if len(others):
                errors[index] = 100 * (mfu[index] / others.median() - 1)
    return errors
