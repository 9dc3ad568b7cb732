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
from sim.program.table import SCHEDULES, Action, PassTimes, Placement, Schedule, Table, action_of, rank_of

SUFFIX = ".csv"
ALLOWED = "<stage><F, B, I or W><micro-batch> such as 0F0, or nothing"


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
        [_action(name, row, column, cell.strip()) for column, cell in enumerate(line, start=1)]
        for row, line in enumerate(cells, start=1)
    ]
    return ScheduleFile(name, tuple(tuple(action for action in row if action is not None) for row in rows))


def _action(name: str, row: int, column: int, token: str) -> Action | None:
    """The action of a cell; None for an empty one, where a rank idles."""
    if not token:
        return None
    action = action_of(token)
    if action is None:
        raise SimError(f"{name}: row {row}, column {column}: no action (got {token!r}, allowed {ALLOWED})")
    return action


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
        fitting = (
            placement
            for placement in get_args(Placement)
            if all(rank_of(action.stage, p, placement) == rank for rank, row in enumerate(self.rows) for action in row)
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
