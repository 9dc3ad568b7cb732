"""A user's own schedule: a CSV file as torch.distributed.pipelining writes it, one row of actions for each rank."""

from __future__ import annotations

import csv
import functools
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal, final, get_args

from sim.errors import SimError
from sim.program.check_table import check_table
from sim.program.table import CELLS, SCHEDULES, Cell, PassTimes, Placement, Schedule, Table, actions_of, cell_of, home

SUFFIX = ".csv"
ALLOWED = f"{CELLS} or (0F1;0B0)OVERLAP_F_B, or nothing"


def schedule_of(name: str) -> Schedule:
    """The schedule that `layout.schedule` means: one of the registry, or a file.

    Raises SimError for an unknown name, and for a file that cannot be read or holds anything but actions.
    """
    if not name.endswith(SUFFIX):
        return SCHEDULES[name]
    try:
        changed_ns = Path(name).stat().st_mtime_ns
    except OSError as error:
        raise SimError(f"cannot read {name}: {error.strerror} (allowed a CSV file of a schedule)") from error
    return _read(name, changed_ns)


@functools.cache
def _read(name: str, _changed_ns: int) -> ScheduleFile:
    """The file as it was at that time."""
    try:
        with Path(name).open(encoding="utf-8", newline="") as file:
            cells = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SimError(f"cannot read {name}: {error} (allowed a CSV file of a schedule)") from error
    while cells and not any(cells[-1]):
        cells.pop()
    rows = [
        [_cell(name, row, column, token.strip()) for column, token in enumerate(line, start=1)]
        for row, line in enumerate(cells, start=1)
    ]
    return ScheduleFile(name, tuple(tuple(cell for cell in row if cell is not None) for row in rows))


def _cell(name: str, row: int, column: int, token: str) -> Cell | None:
    """What a cell of the file holds; None for an empty one, where a rank idles."""
    if not token:
        return None
    cell = cell_of(token)
    if cell is None:
        raise SimError(f"{name}: row {row}, column {column}: no action (got {token!r}, allowed {ALLOWED})")
    return cell


@final
@dataclass(frozen=True)
class ScheduleFile:
    """The table of a file. When its ranks idle follows from what they wait for, not from the file's empty cells."""

    name: str
    rows: Table
    span: Literal["pipeline", "rank"] = "pipeline"

    @property
    def placement(self) -> Placement:
        """The one that puts every action on its rank; where none does, the first, so that the checker names one."""
        p = len(self.rows)
        places = [(rank, action) for rank, row in enumerate(self.rows) for action in actions_of(row)]
        m = 1 + max((action.microbatch for _, action in places), default=0)
        fitting = (
            placement
            for placement in get_args(Placement)
            if all(home(action, p, m, placement) == rank for rank, action in places)
        )
        return next(fitting, "loop")

    def refusal(self, p: int, v: int, m: int) -> str | None:
        """A table that the layout or the checker refuses."""
        if len(self.rows) != p:
            return f"pp = {p}, but {self.name} has {len(self.rows)} rows (allowed one for each pipeline rank)"
        try:
            check_table(self.rows, p, v, m, self.placement)
        except SimError as error:
            return f"{self.name} with pp = {p}, vpp = {v} and {m} micro-batches: {error}"
        return None

    def table(self, p: int, v: int, m: int) -> Table:
        """The file's rows."""
        assert self.refusal(p, v, m) is None
        return self.rows

    def bubble_of_ideal(self, p: int, v: int, m: int, times: PassTimes) -> Fraction | None:
        """Nothing is published."""
        del p, v, m, times
        return None

    def bubble_assumptions(self, p: int, v: int, m: int, times: PassTimes) -> None:
        """There is no form that could fail."""
        del p, v, m, times
