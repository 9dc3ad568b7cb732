"""Rows of a sweep as one table: what was swept, every result, every field of the scenario; as CSV and as Parquet."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sim.program.operations import COLLECTIVE_KINDS
from sim.results.result import SCALARS
from sim.spec.scenario import Scenario
from sim.study.sweep import Row, value_text

KINDS = (*COLLECTIVE_KINDS, "pp")
COLUMNS = (
    *SCALARS,
    "num_gpus",
    *(f"exposed_{kind}_s" for kind in KINDS),
)
"""Result columns that every table has, in SI; a kind of communication that a layout does not have is left empty."""

_OF_A_RANK = ("breakdown_s_by_rank", "pp_rank_of", "num_ranks_of", "memory", "exposed_s_by_kind", "name")
"""Parts of a result that are no single value of the step, or stand under another name."""
_SOURCES = ("sources", "estimated")
_PARTS = ("model", "gpu", "topology", "stack")

Table = dict[str, list[Any]]
"""Name of a column -> a value for each row, None where it has none."""


def table(rows: Sequence[Row], paths: Sequence[str]) -> Table:
    """A column for each swept path, each answer, each part of the breakdown, and each field of the scenarios.

    paths: the dotted paths that the sweep sets.  A path holds the swept value, `scenario.PATH` what it was resolved to,
    in SI.  `status` and `error` say why a row has no answers.
    """
    fields = _Fields()
    return joined([_line(row, fields) for row in rows], [*paths, "status", *COLUMNS, "error"])


def joined(lines: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Table:
    """Rows as columns: those of `names` first, then other answers, then fields of scenarios."""
    extra = dict.fromkeys(name for line in lines for name in line)
    answered = [name for name in extra if not name.startswith("scenario.")]
    return {name: [line.get(name) for line in lines] for name in dict.fromkeys([*names, *answered, *extra])}


def _line(row: Row, fields: _Fields) -> dict[str, Any]:
    line: dict[str, Any] = {**row.values, "status": row.status, "error": row.error}
    if row.result is not None:
        line |= answers(row.result)
    if row.scenario is not None:
        line |= fields.of(row.scenario)
    return line


def answers(result: Mapping[str, Any]) -> dict[str, Any]:
    """The single values of a result (`Result.to_dict`), by column."""
    memory = result["memory"]
    spending = result["spending"]
    found = {name: value for name in SCALARS if (value := result.get(name, spending.get(name))) is not None}
    found |= {"peak_bytes": memory["peak_bytes"], "fits": memory["fits"], "num_gpus": result["num_gpus"]}
    found |= {f"exposed_{kind}_s": value for kind, value in result["exposed_s_by_kind"].items()}
    found["capacity_bytes"] = memory["capacity_bytes"]
    found |= flat({name: value for name, value in result.items() if name not in _OF_A_RANK})
    return found


class _Fields:
    """Fields of scenarios that share their parts: each part is laid flat once."""

    def __init__(self) -> None:
        self._parts: dict[int, tuple[object, dict[str, Any]]] = {}

    def of(self, scenario: Scenario) -> dict[str, Any]:
        """Every field by `scenario.PATH`, without where numbers are from."""
        rest = scenario.model_dump(mode="json", exclude={*_PARTS, "name", "variant"})
        found = flat(rest, "scenario.")
        for part in _PARTS:
            value = getattr(scenario, part)
            if id(value) not in self._parts:
                # The part is kept, as another one could get its id.
                dumped = scenario.model_dump(mode="json", include={part})[part]
                self._parts[id(value)] = (value, flat(without_sources(dumped), f"scenario.{part}."))
            found |= self._parts[id(value)][1]
        return found


def without_sources(part: Mapping[str, Any]) -> dict[str, Any]:
    """A part of a dumped scenario without where its numbers are from."""
    return {key: item for key, item in part.items() if key not in _SOURCES}


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Mappings within mappings as one, by dotted key; a list is JSON on one line.

    >>> flat({"tp": 8, "overlap": {"tensor": True}, "stages": [4, 4]})
    {'tp': 8, 'overlap.tensor': True, 'stages': '[4, 4]'}
    """
    found: dict[str, Any] = {}
    for key, value in values.items():
        match value:
            case Mapping():
                found |= flat(value, f"{prefix}{key}.")
            case list() | tuple():
                found[f"{prefix}{key}"] = json.dumps(value)
            case _:
                found[f"{prefix}{key}"] = value
    return found


def write(columns: Table, path: Path) -> None:
    """Write a table as the end of the file's name says: .csv, .parquet or .json. It is there whole, or not at all."""
    with _whole(path) as partial:
        WRITERS[path.suffix](columns, partial)


def _write_csv(columns: Table, path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*(map(_cell, column) for column in columns.values()), strict=True))


def _cell(value: Any) -> Any:
    """A value as CSV has it: a number or truth as Python prints it, nothing as nothing, else as a scenario file."""
    match value:
        case None:
            return ""
        case bool() | int() | float() | str():
            return value
        case _:
            return value_text(value)


def _write_parquet(columns: Table, path: Path) -> None:
    import pyarrow as pa  # noqa: PLC0415 - slow to import, and only a table needs it
    from pyarrow import parquet  # noqa: PLC0415 - the same

    arrays = {name: pa.array(_of_one_type(column)) for name, column in columns.items()}
    parquet.write_table(pa.table(arrays), path)


def _of_one_type(column: Sequence[Any]) -> list[Any]:
    """The column as it is where its values are of one simple type (numbers may mix), else as text."""
    types = {type(value) for value in column if value is not None}
    if types <= {int, float}:
        return [float(value) if value is not None and len(types) > 1 else value for value in column]
    if types <= {bool} or types <= {str}:
        return list(column)
    return [None if value is None else value_text(value) for value in column]


def _write_json(columns: Table, path: Path) -> None:
    lines = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    path.write_text(json.dumps(lines, indent=2, allow_nan=False) + "\n", encoding="utf-8")


WRITERS: dict[str, Callable[[Table, Path], None]] = {
    ".csv": _write_csv,
    ".parquet": _write_parquet,
    ".json": _write_json,
}
"""By the end of a file's name."""


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A name to write to, whose file takes the place of `path` at the end."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
