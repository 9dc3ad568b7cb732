"""What lies in a store: which of its rows, and as a table."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from sim.errors import SimError
from sim.spec.where import condition
from sim.study.play import unpacked
from sim.study.store import Stored
from sim.study.table import COLUMNS, Table, answers, flat, joined, without_sources

OWN = ("key", "name", "status", "fidelity", "version", "is_current", "added", "seconds")
"""Columns of a stored row itself."""


def own_values(row: Stored) -> dict[str, Any]:
    """Values of the columns `OWN`, and `error`. added: UTC."""
    added = datetime.fromtimestamp(row.added, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {name: getattr(row, name) for name in OWN} | {"added": added, "error": row.error}


def selected(rows: Iterable[Stored], where: str | None) -> list[Stored]:
    """Rows for which a condition holds: over `OWN`, `error`, answers (`mfu`), and fields of scenarios (`layout.tp`).

    A row that lacks one of the values, such as the answers of one that failed, is not selected. Raises SimError for
    what is no condition, and for one that no row can answer.
    """
    if where is None:
        return list(rows)
    try:
        asked = condition(where)
    except ValueError as error:
        raise SimError(f"--where: {error}") from error
    found, mistakes, num_rows = [], [], 0
    for row in rows:
        num_rows += 1
        try:
            if asked.holds(functools.partial(_value, row, _Unpacked(row))):
                found.append(row)
        except ValueError as error:
            mistakes.append(error)
    if mistakes and len(mistakes) == num_rows:
        raise SimError(f"--where: {mistakes[0]}")
    return found


def stored_table(rows: Sequence[Stored]) -> Table:
    """A line for each row: `OWN`, its answers, and `scenario.PATH` in SI."""
    return joined([_line(row) for row in rows], [*OWN, *COLUMNS, "error"])


class _Unpacked:
    """The scenario and the answers of a row, read when they are asked for."""

    def __init__(self, row: Stored) -> None:
        self._row = row

    @functools.cached_property
    def scenario(self) -> dict[str, Any]:
        """As `sim.spec.load.dump` gives it, without its names."""
        return unpacked(self._row.scenario)

    @functools.cached_property
    def answers(self) -> dict[str, Any]:
        """By column; none where there is no result."""
        return {} if self._row.result is None else answers(unpacked(self._row.result))


def _value(row: Stored, content: _Unpacked, path: str) -> Any:
    """Raises LookupError for a path that the row has not."""
    own = own_values(row)
    if path in own:
        return own[path]
    if path.split(".", maxsplit=1)[0] in content.scenario:
        try:
            return functools.reduce(operator.getitem, path.split("."), content.scenario)
        except (KeyError, TypeError):
            raise KeyError(path) from None
    return content.answers[path]


def _line(row: Stored) -> dict[str, Any]:
    content = _Unpacked(row)
    scenario = {
        key: without_sources(value) if isinstance(value, dict) else value for key, value in content.scenario.items()
    }
    return own_values(row) | content.answers | flat(scenario, "scenario.")
