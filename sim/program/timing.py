"""When each action of a schedule's table runs, where passes take given times and communication takes none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from sim.program.table import Action, Cell, Kind, Pair, PassTimes, Table, actions_of, awaited


@dataclass(frozen=True)
class Timed:
    """An action, or a pair, and when it runs, in the unit of the pass times."""

    cell: Cell
    start: Fraction
    end: Fraction


@dataclass(frozen=True)
class TimedTable:
    """The cells of each rank in order, with their times."""

    rows: tuple[tuple[Timed, ...], ...]

    @property
    def length(self) -> Fraction:
        """From the first forward to the last backward over all ranks."""
        return max(row[-1].end for row in self.rows)

    def span(self, of: Literal["pipeline", "rank"]) -> Fraction:
        """What `Schedule.span` names: the pipeline's window, or the longest from the first to the last action of a
        rank."""
        return self.length if of == "pipeline" else max(row[-1].end - row[0].start for row in self.rows)


@dataclass(frozen=True)
class ChunkTimes:
    """What the passes of one chunk take by kind, and what F and B take side by side (F + B where None)."""

    by_kind: Mapping[Kind, Fraction]
    pair: Fraction | None = None

    def of(self, cell: Cell) -> Fraction:
        """Time of a cell."""
        if isinstance(cell, Pair):
            return self.by_kind[Kind.F] + self.by_kind[Kind.B] if self.pair is None else self.pair
        return self.by_kind[cell.kind]


def chunk_times(times: PassTimes, v: int) -> ChunkTimes:
    """What the passes of one of v equal chunks take."""
    of_rank = {
        Kind.F: times.forward,
        Kind.B: times.backward,
        Kind.I: times.input_gradient,
        Kind.W: times.weight_gradient,
    }
    return ChunkTimes({kind: time / v for kind, time in of_rank.items()}, times.forward_and_backward / v)


def timed(table: Table, num_stages: int, times: ChunkTimes) -> TimedTable:
    r"""Each rank runs its cells in order, each as soon as the neighbour stages are done with what it waits for.

    The table must have passed `sim.program.check_table.check_table`.

    >>> from sim.program.table import from_text
    >>> units = ChunkTimes(dict.fromkeys(Kind, Fraction(1)))
    >>> float(timed(from_text("0F0 0B0\n1F0 1B0"), 2, units).length)
    4.0
    >>> float(timed(from_text("0F0 0F1&0B0 0B1"), 1, ChunkTimes(units.by_kind, Fraction(3, 2))).length)
    3.5
    """
    end: dict[Action, Fraction] = {}
    rows: list[list[Timed]] = [[] for _ in table]
    left = sum(map(len, table))
    while left:
        for row, cells in zip(rows, table, strict=True):
            while len(row) < len(cells):
                cell = cells[len(row)]
                ready = _ready(cell, end, num_stages)
                if ready is None:
                    break
                start = max([ready, row[-1].end if row else Fraction(0)])
                row.append(Timed(cell, start, start + times.of(cell)))
                end |= dict.fromkeys(actions_of([cell]), row[-1].end)
        remaining = sum(map(len, table)) - sum(map(len, rows))
        assert remaining < left, "the table deadlocks"
        left = remaining
    return TimedTable(tuple(map(tuple, rows)))


def _ready(cell: Cell, end: Mapping[Action, Fraction], num_stages: int) -> Fraction | None:
    """When the neighbour stages are done with what a cell waits for; None where that is not known yet."""
    moments = [Fraction(0)]
    for action in actions_of([cell]):
        needed = awaited(action, num_stages)
        moments += (done := [end[each] for each in needed if each in end])
        if needed and not done:
            return None
    return max(moments)
