"""Errors of simulated steps against measured ones: by row, by group, and for the sets on which others publish."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from sim.spec.topology import Floats
from sim.validation.baseline import constant_mfu
from sim.validation.case import Case, values_of
from sim.validation.play import Played
from sim.validation.residuals import FEATURES, features_of

GROUPS = ("source", "gpu", "kind", "size", "tier", "precision")
"""Columns by which errors are shown. Sizes are numbers of GPUs."""

SIZES = (1, 9, 65, 513, 2049)
"""First number of GPUs of each size: a node, a few, a pod, a cluster, a large one."""

SIZE_NAMES = (*(f"{first}-{after - 1}" for first, after in itertools.pairwise(SIZES)), f"{SIZES[-1]}+")

HEADLINE_TIERS = ("A", "B")
"""Tiers in which time, architecture and layout are stated, or nearly so."""


@dataclass(frozen=True)
class RunErrors:
    """Errors of n steps, %: of each, predicted / measured - 1. bias: the mean of them; the others of their absolute."""

    n: int
    mape: float
    median_ape: float
    bias: float
    p90: float
    max_ape: float


@dataclass(frozen=True)
class Scoreboard:
    """Rows that were compared, and those that could not be.

    table: a row for each compared step; columns of `values_of`, `size`, `measured_s`, `predicted_s`, `error` (%),
    `constant_mfu_error` (%), `assumed`, `breakdown_s`, the features of `FEATURES`, and where memory is published
    `measured_peak_bytes`, `predicted_peak_bytes`, `memory_error` (%).
    skipped: case_id, source, tier, reason of the others, in the order of the file.
    """

    table: pd.DataFrame
    skipped: pd.DataFrame

    @property
    def errors(self) -> RunErrors | None:
        """All compared rows."""
        return errors_in(self.table)

    @property
    def headline(self) -> pd.DataFrame:
        """Compared rows of tiers A and B; all where no tier is stated."""
        rows = self.table[self.table["tier"].isin(HEADLINE_TIERS)]
        return rows if len(rows) else self.table

    @property
    def memory(self) -> pd.DataFrame:
        """Rows with a published peak."""
        return self.table[self.table["memory_error"].notna()]

    def groups(self, column: str) -> list[tuple[str, RunErrors, pd.DataFrame]]:
        """Errors of each value of a column, with its rows; sizes and names in order."""
        return [
            (str(value), errors, rows)
            for value, rows in self.table.groupby(column, sort=True, observed=True)
            if (errors := errors_in(rows)) is not None
        ]

    def worst(self, num_rows: int) -> pd.DataFrame:
        """The rows that are furthest off."""
        order = self.table["error"].abs().sort_values(ascending=False, kind="stable").index
        return self.table.loc[order[:num_rows]]

    def to_dict(self) -> dict[str, Any]:
        """Plain values with stable keys: what `--json` holds."""
        return {
            **_figures(self.errors),
            "n_skipped": len(self.skipped),
            "headline": _figures(errors_in(self.headline)),
            "constant_mfu": _figures(errors_in(self.table, "constant_mfu_error")),
            "peak_memory": _figures(errors_in(self.memory, "memory_error")),
            "groups": {
                column: {
                    value: {
                        **_figures(errors),
                        "n_skipped": int((self.skipped[column] == value).sum()) if column in self.skipped else 0,
                        "constant_mfu_mape": _figures(errors_in(rows, "constant_mfu_error"))["mape"],
                    }
                    for value, errors, rows in self.groups(column)
                }
                for column in GROUPS
            },
            "rows": [_row({str(name): value for name, value in row.items()}) for row in self.table.to_dict("records")],
            "skipped": self.skipped[["case_id", "source", "tier", "reason"]].to_dict("records"),
        }


def errors_of(errors: Floats) -> RunErrors | None:
    """Figures of signed errors (n,) in %; None of none.

    >>> errors_of(np.array([10.0, -2.0]))
    RunErrors(n=2, mape=6.0, median_ape=6.0, bias=4.0, p90=9.2, max_ape=10.0)
    """
    if not len(errors):
        return None
    apes = np.abs(errors)
    figures = (apes.mean(), np.median(apes), errors.mean(), np.quantile(apes, 0.9), apes.max())
    return RunErrors(len(errors), *(round(float(figure), 6) for figure in figures))


def errors_in(table: pd.DataFrame, column: str = "error") -> RunErrors | None:
    """Figures of a column of signed errors, blanks left out."""
    return errors_of(table[column].dropna().to_numpy(dtype=float))


def scoreboard(outcomes: Iterable[tuple[Case, Played | None]]) -> Scoreboard:
    """The rows of `play_all` as a scoreboard."""
    compared: list[dict[str, Any]] = []
    skipped: list[dict[str, Any]] = []
    for case, played in outcomes:
        values = values_of(case) | {"size": size_of(case.run.count("num_gpus") or 0)}
        if played is None or played.error:
            skipped.append(values | {"reason": case.reason if played is None else played.error})
        else:
            compared.append(values | _compared(case, played))
    table = pd.DataFrame(compared, columns=[*_KEYS, "size", *_COMPARED, *FEATURES])
    table["size"] = pd.Categorical(table["size"], SIZE_NAMES, ordered=True)
    table["constant_mfu_error"] = constant_mfu(table)
    return Scoreboard(table, pd.DataFrame(skipped, columns=[*_KEYS, "size", "reason"]))


def size_of(num_gpus: int) -> str:
    """The size of a run: a number of GPUs.

    >>> size_of(8), size_of(384), size_of(16384)
    ('1-8', '65-512', '2049+')
    """
    return SIZE_NAMES[max(bisect.bisect_right(SIZES, num_gpus) - 1, 0)]


_KEYS = ("case_id", "source", "stack", "gpu", "kind", "num_gpus", "tier", "gold", "scale_proxy", "precision")
_COMPARED = (
    *("measured_s", "measured_from", "predicted_s", "error", "fits", "assumed", "breakdown_s", "model_flop"),
    *("peak_flop_per_s", "measured_peak_bytes", "predicted_peak_bytes", "memory_counts", "memory_error"),
)


def _compared(case: Case, played: Played) -> dict[str, Any]:
    assert case.scenario is not None
    assert case.measured_s is not None
    values: dict[str, Any] = {
        "measured_s": case.measured_s,
        "measured_from": case.measured_from,
        "predicted_s": played.step_time_s,
        "error": 100 * (played.step_time_s / case.measured_s - 1),
        "fits": played.fits,
        "assumed": case.assumed,
        "breakdown_s": played.breakdown_s,
        "model_flop": played.model_flop,
        "peak_flop_per_s": played.peak_flop_per_s,
    }
    if case.measured_peak_bytes is not None:
        predicted = {
            "allocated": played.allocated_bytes, "reserved": played.reserved_bytes, "peak": played.peak_bytes
        }[case.memory_counts]  # fmt: skip
        values |= {
            "measured_peak_bytes": case.measured_peak_bytes,
            "predicted_peak_bytes": predicted,
            "memory_counts": case.memory_counts,
            "memory_error": 100 * (predicted / case.measured_peak_bytes - 1),
        }
    return values | features_of(case.scenario, case.run)


def _figures(errors: RunErrors | None) -> dict[str, Any]:
    if errors is None:
        return {"mape": None, "median_ape": None, "bias": None, "p90": None, "max_ape": None, "n": 0}
    return asdict(errors)


def _row(row: dict[str, Any]) -> dict[str, Any]:
    """A compared row for `--json`; memory where it is published."""
    names = ("case_id", "source", "stack", "gpu", "kind", "num_gpus", "tier", "gold", "measured_s", "predicted_s")
    values = {name: row[name] for name in names} | {"error": round(row["error"], 6), "assumed": list(row["assumed"])}
    values["breakdown_s"] = row["breakdown_s"]
    if pd.notna(row["memory_error"]):
        values |= {name: row[name] for name in ("measured_peak_bytes", "predicted_peak_bytes", "memory_counts")}
        values["memory_error"] = round(row["memory_error"], 6)
    return values


Kept = Callable[[pd.DataFrame], Any]


@dataclass(frozen=True)
class NamedSet:
    """Rows on which a figure is asked of us, or published by others. kept: which rows of the table are in it.

    goal: what we want to reach, peer: what the best of the others reach, both in words, %; source: of that.
    """

    title: str
    kept: Kept
    goal: str
    peer: str
    source: str
    column: str = "error"


def _is(gpu: str) -> Kept:
    return lambda table: table["gpu"].str.contains(gpu, regex=True)


def _dense(tiers: Sequence[str], gpu: str = "") -> Kept:
    return lambda table: (table["kind"] == "dense") & table["tier"].isin(tiers) & _is(gpu)(table)


def _moe(gpu: str) -> Kept:
    return lambda table: (table["kind"] == "moe") & table["tier"].isin(HEADLINE_TIERS) & _is(gpu)(table)


SETS = (
    NamedSet(
        "Korthikanti et al., Table 5",
        lambda table: table["case_id"].str.match("korth") & (table["dp"] == 1),
        "mean 2.5, max 5",
        "Calculon 3.65 / 8.87, SimuMax 5.15 / 9.81",
        "both run with the constants that they ship; paper: arXiv 2205.05198",
    ),
    NamedSet(
        "vTrain, several nodes",
        lambda table: (table["source"] == "vTrain") & (table["num_gpus"] > 8),
        "mean 6",
        "SimuMax 10.4, Calculon 11.1, vTrain 14.7",
        "both run on 109 rows of VIA-Research/vTrain; vTrain's own figure from its paper",
    ),
    NamedSet(
        "vTrain, one node (composed from layer timings, no measurement)",
        lambda table: (table["source"] == "vTrain") & (table["num_gpus"] <= 8),
        "mean 8",
        "vTrain 8.4, SimuMax 27.8, Calculon 39.0",
        "both run on 1,440 rows of VIA-Research/vTrain; vTrain's own figure from its paper",
    ),
    NamedSet("gold rows", lambda table: table["gold"], "mean 4, max 10", "", "the rows to trust most"),
    NamedSet("tier A, dense, A100 and H100", _dense(["A"], "a100|h100"), "median 3, mean 5, bias 1.5", "", ""),
    NamedSet("tiers A and B, dense", _dense(HEADLINE_TIERS), "median 5, mean 8", "", ""),
    NamedSet("MoE, Hopper", _moe("^h[128]"), "mean 8", "", ""),
    NamedSet("MoE, Blackwell", _moe("^g?b[23]"), "mean 15", "", ""),
    NamedSet(
        "Llama 3.1 405B on 8,192 and 16,384 H100",
        lambda table: table["source"] == "Llama 3",
        "each 5",
        "Calculon -46 to +13, SimuMax -42 to +6",
        "by number of stages a rank, of 400 TFLOP/s; arXiv 2407.21783, Table 4",
    ),
    NamedSet(
        "peak memory", lambda table: table["memory_error"].notna(), "mean 6", "SimuMax 1.4 on its own rows of 8 GPUs",
        "MooreThreads/SimuMax docs", "memory_error",
    ),
)  # fmt: skip
