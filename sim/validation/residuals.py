"""Which features of a run go with the error: where the next cause may be found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from sim.spec.layout import layers_of_stages
from sim.spec.scenario import Scenario
from sim.validation.published import PublishedRun

NUMERIC = (
    *("tp", "pp", "vpp", "cp", "ep", "dp", "num_microbatches", "seq_len", "micro_batch", "hidden", "head_dim"),
    *("layers_on_a_stage", "year"),
)
CATEGORIES = ("recompute", "number_format", "zero", "attention", "is_uneven")
FEATURES = (*NUMERIC, *CATEGORIES)
"""What is known of every simulated row, in the terms of the scenario."""

MAX_VALUES = 6
"""Different values of a number of which each is a bin of its own; more are cut into four bins of like size."""

MIN_ROWS = 8
"""Rows below which errors say nothing about a feature."""


@dataclass(frozen=True)
class Feature:
    """How the signed error (%) goes with a feature.

    explained_frac: share of the errors' variance that lies between the bins.  rank_correlation: Spearman's, None for
    categories.  bins: value (`8+` from 8 to the next bin), rows, mean signed error.
    """

    name: str
    explained_frac: float
    rank_correlation: float | None
    bins: tuple[tuple[str, int, float], ...]


def features_of(scenario: Scenario, run: PublishedRun) -> dict[str, Any]:
    """The features of a row's scenario."""
    layout, training = scenario.layout, scenario.training
    assert layout.dp is not None
    counts = [len(layers) for layers in layers_of_stages(layout, scenario.model.num_layers)]
    return {
        "tp": layout.tp,
        "pp": layout.pp,
        "vpp": layout.vpp,
        "cp": layout.cp,
        "ep": layout.ep,
        "dp": layout.dp,
        "num_microbatches": training.global_batch // (layout.dp * training.micro_batch),
        "seq_len": training.seq_len,
        "micro_batch": training.micro_batch,
        "hidden": scenario.model.hidden,
        "head_dim": scenario.model.head_dim,
        "layers_on_a_stage": max(counts),
        "year": run.number("year") or np.nan,
        "recompute": training.recompute,
        "number_format": training.precision,
        "zero": str(layout.zero),
        "attention": "unfused" if scenario.stack.attention[0] == "unfused" else "fused",
        "is_uneven": "uneven" if len(set(counts)) > 1 else "even",
    }


def explained(table: pd.DataFrame) -> list[Feature]:
    """Features by the share of the errors' variance that they explain, the largest first; none of too few rows."""
    if len(table) < MIN_ROWS:
        return []
    found = [feature for name in FEATURES if (feature := _feature(table, name)) is not None]
    return sorted(found, key=lambda feature: -feature.explained_frac)


def _feature(table: pd.DataFrame, name: str) -> Feature | None:
    rows = table[table[name].notna()]
    bins = _bins(rows[name]) if name in NUMERIC else rows[name].astype(str)
    errors = rows["error"].astype(float)
    if bins.nunique() < 2 or errors.std(ddof=0) == 0:
        return None
    means = errors.groupby(bins, sort=False).transform("mean")
    correlation = None
    if name in NUMERIC:
        correlation = round(float(spearmanr(rows[name].astype(float), errors).statistic), 6)
    mark = "+" if rows[name].nunique() > MAX_VALUES else ""
    shown = tuple(
        (f"{value:g}{mark}" if name in NUMERIC else value, len(part), round(float(part.mean()), 6))
        for value, part in errors.groupby(bins, sort=True)
    )
    return Feature(name, round(float(means.var(ddof=0) / errors.var(ddof=0)), 6), correlation, shown)


def _bins(values: pd.Series[Any]) -> pd.Series[Any]:
    """Bins of a number: its values, or four of like size that are named by their ends and sort by them."""
    numbers = values.astype(float)
    if numbers.nunique() <= MAX_VALUES:
        return numbers
    edges = np.unique(np.quantile(numbers, [0, 0.25, 0.5, 0.75, 1]))
    index = np.clip(np.searchsorted(edges, numbers, side="right") - 1, 0, max(len(edges) - 2, 0))
    return pd.Series(edges[index], index=values.index)
