"""A CSV file that grows a row at a time and can be gone on with after an interruption."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import final

from sim.errors import Problem, SimError
from sim.profile.case import Cell, Section


@final
class Table:
    """Rows of one section. A line that an interruption cut short is dropped when the file is opened again.

    Raises SimError where the file has another head.
    """

    def __init__(self, path: Path, section: Section) -> None:
        self.path = path
        self._section = section
        self._done: set[tuple[str, ...]] = set()
        if path.exists():
            self._resume()
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._append(section.columns)

    def has(self, key: Mapping[str, Cell]) -> bool:
        """Whether the row was measured before."""
        return self._identity(key) in self._done

    def add(self, row: Mapping[str, Cell]) -> None:
        """Write a measured row, at once."""
        assert set(row) == set(self._section.columns), f"{self._section.name}: columns {sorted(row)}"
        self._append(tuple(str(row[column]) for column in self._section.columns))
        self._done.add(self._identity(row))

    def _identity(self, row: Mapping[str, Cell]) -> tuple[str, ...]:
        return tuple(str(row[column]) for column in self._section.key_columns)

    def _append(self, cells: tuple[str, ...]) -> None:
        with self.path.open("a", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerow(cells)

    def _resume(self) -> None:
        text = self.path.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1]
        if whole != text:
            self.path.write_text(whole, encoding="utf-8")
        rows = list(csv.reader(whole.splitlines()))
        head = tuple(rows[0]) if rows else ()
        if head != self._section.columns:
            message = f"another head (got {','.join(head)}, allowed {','.join(self._section.columns)}, or a new folder)"
            raise SimError(Problem(message, file=str(self.path), line=1, column=1))
        for cells in rows[1:]:
            self._done.add(self._identity(dict(zip(head, cells, strict=True))))
