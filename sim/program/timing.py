"""When each action of a schedule's table runs, where passes take given times and communication takes none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from sim.program.table import Action, Kind, PassTimes, Table, awaited


@dataclass(frozen=True)
class Timed:
    """An action and when it runs, in the unit of the pass times."""

    action: Action
    start: Fraction
    end: Fraction


@dataclass(frozen=True)
class TimedTable:
    """The actions of each rank in order, with their times."""

    rows: tuple[tuple[Timed, ...], ...]

    @property
    def length(self) -> Fraction:
        """From the first forward to the last backward over all ranks."""
        return max(row[-1].end for row in self.rows)

    def span(self, of: Literal["pipeline", "rank"]) -> Fraction:
        """What `Schedule.span` names: the pipeline's window, or the longest from the first to the last action of a
        rank."""
        return self.length if of == "pipeline" else max(row[-1].end - row[0].start for row in self.rows)


def chunk_times(times: PassTimes, v: int) -> dict[Kind, Fraction]:
    """What the passes of one of v equal chunks take."""
    of_rank = {
        Kind.F: times.forward,
        Kind.B: times.input_gradient + times.weight_gradient,
        Kind.I: times.input_gradient,
        Kind.W: times.weight_gradient,
    }
    return {kind: time / v for kind, time in of_rank.items()}


def timed(table: Table, num_stages: int, times: Mapping[Kind, Fraction]) -> TimedTable:
    r"""Each rank runs its actions in order, each as soon as the neighbour stage is done with what it waits for.

    The table must have passed `sim.program.check_table.check_table`.

    >>> from sim.program.table import from_text
    >>> units = dict.fromkeys(Kind, Fraction(1))
    >>> float(timed(from_text("0F0 0B0\n1F0 1B0"), 2, units).length)
    4.0
    """
    end: dict[Action, Fraction] = {}
    rows: list[list[Timed]] = [[] for _ in table]
    left = sum(map(len, table))
    while left:
        for row, actions in zip(rows, table, strict=True):
            while len(row) < len(actions):
                action = actions[len(row)]
                needed = awaited(action, num_stages)
                ready = [end[each] for each in needed if each in end]
                if needed and not ready:
                    break
                start = max([*ready, row[-1].end if row else Fraction(0)])
                end[action] = start + times[action.kind]
                row.append(Timed(action, start, end[action]))
        remaining = sum(map(len, table)) - sum(map(len, rows))
        assert remaining < left, "the table deadlocks"
        left = remaining
    return TimedTable(tuple(map(tuple, rows)))
