"""Files of measured kernels: CSV, or CSV in gzip, checked cell by cell and split by GPU."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sim.calibrate.devices import Device, device
from sim.calibrate.kind import KINDS, Form, Kind, Table
from sim.errors import Problem, SimError
from sim.spec.find import names

DEVICE_COLUMNS = ("system", "device", "Device", "gpu")
"""Columns that may name the GPU of a row."""

MAX_PROBLEMS = 10
"""More mistakes than that in one file are counted, not listed."""

_GZIP = b"\x1f\x8b"


@dataclass(frozen=True)
class Measured:
    """Rows of one file that were measured on one GPU.

    rows: as in the file, numbers as numbers; the index is the line of the file (the head is line 1).
    note: in what the GPU differs from the one that the file names; empty where it does not.
    """

    file: str
    gpu: str
    rows: pd.DataFrame
    note: str = ""


def read(path: Path) -> pd.DataFrame:
    """All cells of a file as text; the index is the line of the file. Lines without a cell are left out.

    Raises SimError where the file cannot be read, is no table, or has no row.
    """
    try:
        content = path.read_bytes()
        text = (gzip.decompress(content) if content.startswith(_GZIP) else content).decode("utf-8-sig")
        table = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False, skip_blank_lines=False)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
        raise SimError(Problem(f"no table in CSV or CSV.gz ({reason})", file=str(path))) from error
    table.columns = table.columns.astype(str).str.strip()
    table = table.fillna("")
    table.index = pd.RangeIndex(2, len(table) + 2)
    table = table[(table != "").any(axis=1)]
    if table.empty:
        raise SimError(Problem("no row (allowed a head and one row or more)", file=str(path)))
    return table


def form_of(kind: Table, columns: Sequence[str]) -> Form | None:
    """The form of the kind's files that has these columns, None where it has none."""
    return next((form for form in kind.forms if set(form.columns) <= set(columns)), None)


def kind_of(path: Path) -> Kind:
    """The kind of kernel that a file holds, by its columns. Raises SimError where that is none, or several."""
    columns = list(read(path).columns)
    found = [kind for kind in KINDS.values() if form_of(kind, columns) is not None]
    if len(found) == 1:
        return found[0]
    allowed = "; or ".join(", ".join(form.columns) for kind in KINDS.values() for form in kind.forms)
    what = f"columns of {' and '.join(kind.name for kind in found)}" if found else "columns of no kind of kernel"
    raise SimError(Problem(f"{what} (got {', '.join(columns)}, allowed {allowed})", file=str(path), line=1, column=1))


def measured(path: Path, kind: Table, gpu: str | None = None) -> list[Measured]:
    """The rows of a file of one kind, split by GPU; `gpu` says which it is, whatever the file says.

    The GPU of a row is `gpu`, else what a column of `DEVICE_COLUMNS` says, which tells rows apart, else what the name
    of the file says (`gemm__h100_sxm__vllm-0.24.0.csv.gz`).

    Raises SimError with every cell that is wrong, and where the columns are no form of the kind or no GPU is known.
    """
    table = read(path)
    form = form_of(kind, list(table.columns))
    if form is None:
        raise SimError(Problem(_missing(kind, list(table.columns)), file=str(path), line=1, column=1))
    problems = list(_wrong_cells(table, form, str(path)))
    if problems:
        left = len(problems) - MAX_PROBLEMS
        more = [Problem(f"{left} more cells are wrong", file=str(path))] if left > 0 else []
        raise SimError([*problems[:MAX_PROBLEMS], *more])
    typed = _typed(table, form)
    if gpu is not None:
        return [Measured(str(path), gpu, typed)]
    said = _said(table, path)
    return [
        Measured(str(path), each.gpu, typed[said == each], each.note)
        for each in sorted(set(said), key=lambda each: (each.gpu, each.note))
    ]


def measured_on(path: Path, kind: Table, gpu: str) -> Measured:
    """The rows of a file that were measured on `gpu`: all, unless a column says which are of which GPU.

    Raises SimError as `measured` does, and where all rows are of other GPUs.
    """
    is_told_apart = _device_column(read(path)) is not None
    found = measured(path, kind, None if is_told_apart else gpu)
    of_gpu = [each for each in found if each.gpu == gpu]
    if not of_gpu:
        others = ", ".join(sorted({each.gpu for each in found}))
        raise SimError(Problem(f"no row was measured on {gpu} (got rows of {others})", file=str(path)))
    return of_gpu[0] if len(of_gpu) == 1 else _joined(of_gpu)


def _joined(parts: Sequence[Measured]) -> Measured:
    """Rows of several devices that the catalogue has as one GPU."""
    rows = pd.concat([each.rows for each in parts]).sort_index()
    return Measured(parts[0].file, parts[0].gpu, rows, "; ".join(each.note for each in parts if each.note))


def _device_column(table: pd.DataFrame) -> str | None:
    """The column that names GPUs of the catalogue, None where none does."""
    columns = (name for name in DEVICE_COLUMNS if name in table.columns)
    return next((name for name in columns if any(map(device, table[name].unique()))), None)


def _missing(kind: Table, columns: Sequence[str]) -> str:
    """What the form that comes nearest still lacks."""
    nearest = min(kind.forms, key=lambda form: len(set(form.columns) - set(columns)))
    lacks = ", ".join(name for name in nearest.columns if name not in columns)
    allowed = "; or ".join(", ".join(form.columns) for form in kind.forms)
    return f"no table of {kind.name}: column {lacks} is missing (got {', '.join(columns)}, allowed {allowed})"


def _wrong_cells(table: pd.DataFrame, form: Form, file: str) -> Iterator[Problem]:
    """Cells that are no number where one must stand, or one out of range; empty words."""
    for column in form.columns:
        cells = table[column].str.strip()
        if column in form.words:
            wrong, allowed = cells == "", "text"
        else:
            values = pd.to_numeric(cells, errors="coerce").to_numpy(dtype=float)
            is_measured = column == form.measured
            in_range = values > 0 if is_measured else values >= 0
            wrong = pd.Series(~(np.isfinite(values) & in_range), index=table.index)
            allowed = "a number above 0" if is_measured else "a number, 0 or more"
        for line in table.index[wrong]:
            message = f"wrong value (got {table.loc[line, column]!r}, allowed {allowed})"
            yield Problem(message, path=column, file=file, line=int(line), column=list(table.columns).index(column) + 1)


def _typed(table: pd.DataFrame, form: Form) -> pd.DataFrame:
    """Numbers as numbers, also in columns beyond the form where every cell is one or empty (NaN)."""
    typed = table.copy()
    for column in table.columns:
        if column in form.words:
            typed[column] = table[column].str.strip()
        elif column in (*form.numbers, form.measured):
            typed[column] = pd.to_numeric(table[column])
        else:
            values = pd.to_numeric(table[column], errors="coerce")
            if (values.notna() | (table[column].str.strip() == "")).all():
                typed[column] = values
    return typed


def _said(table: pd.DataFrame, path: Path) -> pd.Series[Any]:
    """The device of each row.

    Raises SimError where neither a column nor the name of the file names a known GPU, or a row of the column does not.
    """
    column = _device_column(table)
    if column is None:
        found = _of_name(path)
        if found is None:
            raise SimError(Problem(_unknown(path.name), file=str(path)))
        return pd.Series([found] * len(table), index=table.index)
    known = {text: device(text) for text in table[column].unique()}
    unknown = table.index[[known[text] is None for text in table[column]]]
    if len(unknown):
        line, place = int(unknown[0]), list(table.columns).index(column) + 1
        message = _unknown(str(table.loc[line, column]))
        raise SimError(Problem(message, path=column, file=str(path), line=line, column=place))
    return table[column].map(known)


def _of_name(path: Path) -> Device | None:
    """The GPU that the name of a file says: in one of its parts between double underscores, else in all of it."""
    stem = path.name.removesuffix(".gz").removesuffix(".csv")
    found = [each for part in stem.split("__") if (each := device(part)) is not None]
    return found[0] if len(found) == 1 else None


def _unknown(text: str) -> str:
    columns = ", ".join(DEVICE_COLUMNS)
    allowed = f"--gpu NAME, the name of the file, or a column of {columns} with one of {', '.join(names('gpus'))}"
    return f"which GPU was it measured on? (got {text!r}, allowed {allowed})"
