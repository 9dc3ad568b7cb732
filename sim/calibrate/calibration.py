"""Constants of one GPU fitted to measured kernels, with their errors in sample and out of sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from sim.calibrate.entry import Entry, gpu_of, is_below, with_constants, with_group
from sim.calibrate.errors import Errors, errors_in, is_headline
from sim.calibrate.kind import Fit, Kind
from sim.calibrate.measured import Measured
from sim.calibrate.validation import Validation, together, validate
from sim.errors import SimError
from sim.spec.gpu import Gpu

MIN_ROWS = 20
"""Fewer rows than this on either side of a split say nothing about it."""


@dataclass(frozen=True)
class Data:
    """Rows of one kind, measured on one GPU, and how their source is cited."""

    measured: Measured
    source: str


@dataclass(frozen=True)
class Calibration:
    """One kind fitted on one GPU.

    validation: the rows that it was fitted to beside their predictions.  held_out: by the name of a split, the rows of
    training sizes on its other side, with the predictions of a fit that did not see them.
    """

    fit: Fit
    validation: Validation
    held_out: Mapping[str, pd.DataFrame]

    @property
    def out_of_sample(self) -> dict[str, Errors]:
        """Errors of the headline's rows that a fit on the other half did not see, by the name of the split."""
        found = {name: errors_in(table[is_headline(table)]) for name, table in self.held_out.items()}
        return {name: errors for name, errors in found.items() if errors is not None}


def calibrated(entry: Entry, kind: Kind, data: Sequence[Data]) -> tuple[Entry, Calibration]:
    """The entry with the constants of one kind fitted to all of `data`, and what the fit says.

    Raises SimError where the model can predict none of the rows.
    """
    before = gpu_of(entry)
    read = [kind.rows(each.measured.rows) for each in data]
    table = pd.concat([rows.table for rows in read], ignore_index=True)
    if table.empty:
        reasons = "; ".join(f"{count} rows: {reason}" for rows in read for reason, count in rows.skipped.items())
        raise SimError(f"no row of kind {kind.name} to fit {entry.name} to ({reasons})")
    fit = kind.fit(table, before)
    fitted = gpu_of(_fitted(entry, fit, {}))
    validation = together([validate(kind, each.measured, fitted, cited=each.source) for each in data])
    calibration = Calibration(fit, validation, _held_out(entry, kind, table, before))
    sources = {key: _cited(key, said, calibration) for key, said in fit.evidence.items()}
    return _fitted(entry, fit, sources), calibration


def _fitted(entry: Entry, fit: Fit, sources: Mapping[str, str]) -> Entry:
    """The entry with a fit's constants; without `sources`, a trial whose numbers are cited by the evidence alone."""
    assert all(any(is_below(key, said) for said in fit.evidence) for key in fit.constants), "a constant of no evidence"
    for key, origin in fit.carried.items():
        entry = with_group(entry, key, origin)
    return with_constants(entry, {**fit.constants, **fit.ranges}, sources or fit.evidence)


def _held_out(entry: Entry, kind: Kind, table: pd.DataFrame, before: Gpu) -> dict[str, pd.DataFrame]:
    found = {}
    for name, is_seen in kind.halves(table).items():
        seen, unseen = table[is_seen], table[~is_seen & table["is_training"].astype(bool)]
        if min(len(seen), len(unseen)) < MIN_ROWS:
            continue
        trial = gpu_of(_fitted(entry, kind.fit(seen, before), {}))
        found[name] = unseen.assign(predicted_s=kind.predicted_s(unseen, trial))
    return found


def _cited(key: str, evidence: str, calibration: Calibration) -> str:
    """The source of a group of constants: data, rows, and the errors of the rows of training sizes that it predicts."""
    table = about(key, calibration.validation.table)
    text = f"fitted to {' and '.join(sorted(set(table['cited'])))}: {evidence}"
    errors = errors_in(table[table["is_training"].astype(bool)])
    if errors is None:
        return text
    text += f"; mean absolute error / bias of the sum {_figures(errors)} % (n = {errors.n:,})"
    held_out = {name: errors_in(about(key, table)) for name, table in calibration.held_out.items()}
    splits = [f"{name} {_figures(each)}" for name, each in held_out.items() if each is not None and each.n >= MIN_ROWS]
    return f"{text}; out of sample: {', '.join(splits)}" if splits else text


def _figures(errors: Errors) -> str:
    return f"{errors.mape:.1f} / {errors.bias:+.1f}"


def about(key: str, table: pd.DataFrame) -> pd.DataFrame:
    """Rows that a group of constants predicts: those with a format, kernel or other word that its key names, if any.

    A column `is_backward` is the word `backward`.
    """
    words = [name for name in table.columns if not pd.api.types.is_numeric_dtype(table[name])]
    for part in key.split(".")[1:]:
        if f"is_{part}" in table.columns:
            table = table[table[f"is_{part}"].astype(bool)]
        for name in words:
            if (table[name] == part).any():
                table = table[table[name] == part]
                break
    return table
