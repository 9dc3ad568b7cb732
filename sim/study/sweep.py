"""The points of a sweep as rows of numbers; a point that cannot be played is a row with its reason."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TextIO

from sim.errors import SimError
from sim.program.lower import Fidelity
from sim.program.operations import COLLECTIVE_KINDS
from sim.results.result import SCALARS, Result
from sim.simulation import simulate
from sim.spec.load import Point

KINDS = (*COLLECTIVE_KINDS, "pp")

COLUMNS = (
    *SCALARS,
    "num_gpus",
    *(f"exposed_{kind}_s" for kind in KINDS),
)
"""Result columns of a sweep's table, in SI; a kind of communication that a layout does not have is left empty."""


@dataclass(frozen=True)
class Row:
    """A point that was tried. values: what the sweep set, by dotted path.  result: None where `error` says why not."""

    values: dict[str, Any]
    result: Result | None
    error: str


def sweep(points: Iterable[Point], fidelity: Fidelity = "fused") -> Iterator[Row]:
    """Play each point when its turn comes; rows in the order of the points."""
    for point in points:
        try:
            if point.error is not None:
                raise point.error
            assert point.scenario is not None, "a point without an error has a scenario"
            yield Row(point.values, simulate(point.scenario, fidelity), "")
        except SimError as error:
            yield Row(point.values, None, "; ".join(str(problem) for problem in error.problems))


def cells(row: Row) -> dict[str, Any]:
    """Swept values as text, result columns and `error` of a row; empty strings where there is no result."""
    numbers: dict[str, Any] = dict.fromkeys(COLUMNS, "")
    if row.result is not None:
        for name in COLUMNS:
            numbers[name] = getattr(row.result, name, "")
        for kind, exposed_s in row.result.exposed_s_by_kind.items():
            numbers[f"exposed_{kind}_s"] = exposed_s
    values = {path: value_text(value) for path, value in row.values.items()}
    return values | numbers | {"error": row.error}


def value_text(value: Any) -> str:
    """A swept value as a scenario file has it, on one line.

    >>> value_text((16, 16)), value_text({"tp": 2}), value_text(None), value_text("full")
    ('[16, 16]', '{"tp": 2}', 'null', 'full')
    """
    return value if isinstance(value, str) else json.dumps(value)


def write_csv(rows: Iterable[Row], paths: list[str], file: TextIO) -> Iterator[Row]:
    """Write each row as it comes, so that a sweep that is stopped keeps what it has, and pass it on.

    paths: the dotted paths that the sweep sets, in the order of the columns.
    """
    writer = csv.DictWriter(file, [*paths, *COLUMNS, "error"], lineterminator="\n", restval="")
    writer.writeheader()
    for row in rows:
        writer.writerow(cells(row))
        file.flush()
        yield row
