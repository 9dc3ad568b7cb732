"""Where to look for the cause of an error: like rows, the largest parts of the simulated step, what was assumed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from sim.validation.residuals import CATEGORIES, NUMERIC

LIKE = 4
"""Other rows that must share a value before their mean says something."""

NUM_PARTS = 3
NUM_ASSUMED = 2


def hint(table: pd.DataFrame, row: Mapping[str, Any]) -> str:
    """One line: the feature whose other rows err most in the same way, the largest parts, the first assumptions."""
    shared = _shared(table, row)
    found = [f"rows with {shared} are alike"] if shared else []
    parts = sorted(row["breakdown_s"].items(), key=lambda part: -part[1])[:NUM_PARTS]
    found.append(", ".join(f"{name} {100 * seconds / row['predicted_s']:.0f} %" for name, seconds in parts))
    found += row["assumed"][:NUM_ASSUMED]
    return "; ".join(found)


def _shared(table: pd.DataFrame, row: Mapping[str, Any]) -> str:
    """`feature value (+12 % of 9)`: the value that the row shares with rows that err most in its direction."""
    others = table[(table["case_id"] != row["case_id"]) & (table["stack"] == row["stack"])]
    best, best_error = "", 0.0
    sign = 1 if row["error"] > 0 else -1
    for name in (*NUMERIC, *CATEGORIES):
        alike = others[others[name] == row[name]]["error"]
        if len(alike) >= LIKE and sign * alike.mean() > best_error:
            best_error = sign * alike.mean()
            best = f"{name} {row[name]} ({alike.mean():+.0f} % of {len(alike)})"
    return best
