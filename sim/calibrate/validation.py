"""How far the constants of a GPU's file are from measured kernels."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from sim.calibrate.errors import Errors, by_group, errors_in, is_headline
from sim.calibrate.kind import Kind
from sim.calibrate.measured import Measured
from sim.spec.gpu import Gpu

GROUPED_BY = ("format", "region")


@dataclass(frozen=True)
class Validation:
    """Predictions beside measurements of one kind.

    training: which rows are of training sizes, in words.  file: name of the file, or of all of them.  gpus: on which
    they were measured, sorted.  table: the rows of `sim.calibrate.kind.Rows` and their GPU (`gpu`), file (`file`), line
    (`line`), source (`cited`) and prediction (`predicted_s`).  skipped: reason -> how many rows were left out for it.
    """

    kind: str
    training: str
    file: str
    gpus: tuple[str, ...]
    table: pd.DataFrame
    skipped: Mapping[str, int]
    notes: tuple[str, ...] = ()

    @property
    def headline(self) -> Errors | None:
        """Errors over the rows of training sizes."""
        return errors_in(self.table[is_headline(self.table)])

    def groups(self, columns: Sequence[str] = GROUPED_BY) -> list[tuple[dict[str, str], Errors]]:
        """Errors of all rows by format and region, or by other columns."""
        return by_group(self.table, columns)

    def worst(self, num_rows: int) -> pd.DataFrame:
        """Rows of the headline that are furthest off, the worst first, with their error (`error`, signed, %)."""
        rows = self.table[is_headline(self.table)]
        error = 100 * (rows["predicted_s"] / rows["time_s"] - 1)
        order = np.argsort(-np.abs(error.to_numpy(dtype=float)), kind="stable")[:num_rows]
        return rows.assign(error=error).iloc[order]

    def to_dict(self) -> dict[str, Any]:
        """What `--json` writes: errors in %, null where no row is of training sizes."""
        headline = self.headline
        figures = dataclasses.asdict(headline) if headline else dict.fromkeys(_FIGURES) | {"n": 0}
        return {
            "kind": self.kind,
            "gpu": ", ".join(self.gpus),
            **figures,
            "n_rows": len(self.table),
            "n_skipped": sum(self.skipped.values()),
            "skipped": dict(self.skipped),
            "groups": [group | dataclasses.asdict(errors) for group, errors in self.groups()],
            "kernels": [group | dataclasses.asdict(errors) for group, errors in self.groups(("kernel", "format"))],
            "notes": list(self.notes),
        }


_FIGURES = tuple(field.name for field in dataclasses.fields(Errors))


def validate(kind: Kind, measured: Measured, gpu: Gpu, *, cited: str = "") -> Validation:
    """Predictions of `gpu` beside the rows of one file that were measured on it; `cited` is how the file is cited."""
    rows = kind.rows(measured.rows)
    predicted_s = np.asarray(kind.predicted_s(rows.table, gpu), dtype=float)
    assert predicted_s.shape == (len(rows.table),)
    assert np.all(np.isfinite(predicted_s)), f"{kind.name}: no prediction for a row that was not skipped"
    table = rows.table.assign(
        predicted_s=predicted_s,
        gpu=measured.gpu,
        file=measured.file,
        line=rows.table.index.to_numpy(),
        cited=cited or measured.file,
    )
    return Validation(
        kind.name,
        kind.training,
        measured.file,
        (measured.gpu,),
        table,
        rows.skipped,
        (measured.note,) if measured.note else (),
    )


def together(validations: Sequence[Validation]) -> Validation:
    """Several validations of one kind as one."""
    ((kind, training),) = {(validation.kind, validation.training) for validation in validations}
    skipped: dict[str, int] = {}
    for validation in validations:
        for reason, count in validation.skipped.items():
            skipped[reason] = skipped.get(reason, 0) + count
    tables = [validation.table for validation in validations if len(validation.table)]
    table = pd.concat(tables, ignore_index=True) if tables else validations[0].table
    notes = tuple(dict.fromkeys(note for validation in validations for note in validation.notes))
    files = ", ".join(dict.fromkeys(validation.file for validation in validations))
    gpus = tuple(sorted({gpu for validation in validations for gpu in validation.gpus}))
    return Validation(kind, training, files, gpus, table, skipped, notes)
