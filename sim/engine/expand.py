"""From runs back to their operations."""

from __future__ import annotations

import numpy as np

from sim.engine.plan import Plan
from sim.engine.runs import Part, Run
from sim.engine.slowdown import ComputeStreams
from sim.program.program import Program
from sim.spec.topology import Floats


def expanded(
    program: Program, plan: Plan, starts: list[float], ends: list[float], compute: ComputeStreams
) -> tuple[Floats, Floats]:
    """Start and end of every slot, s: (slots,), from those of each number and the rates at which runs went."""
    start_s, end_s = np.zeros(len(program.node)), np.zeros(len(program.node))
    start_s[plan.slot], end_s[plan.slot] = starts, ends
    if any(run is not None for run in plan.runs):
        expansion = _Expansion()
        for number, (slot, run) in enumerate(zip(plan.slot.tolist(), plan.runs, strict=True)):
            if run is None:
                continue
            if number in compute.changed:
                for part in compute.changed[number].parts():
                    expansion.add(slot, run, part)
            else:
                rate = compute.slow_from_start.get(number, 1.0)
                expansion.add(slot, run, Part(0, len(run.phases), starts[number], rate))
        expansion.write(start_s, end_s)
    return start_s[program.node], end_s[program.node]


class _Expansion:
    """Parts of runs. Steady ones are rows of a table: where their operations stand in the run's own times, how many,
    their run's first slot, a shift; of the others every operation is kept."""

    def __init__(self) -> None:
        self._tables: dict[tuple[Run, float], int] = {}
        self._size = 0
        self._rows: list[tuple[int, int, int]] = []
        self._shift_s: list[float] = []
        self._slots: list[int] = []
        self._start_s: list[float] = []
        self._end_s: list[float] = []

    def add(self, slot: int, run: Run, part: Part) -> None:
        """A part of the run that begins at `slot`."""
        phase, until, began_s, rate, played = part
        lo, hi = run.first[phase], run.first[until]
        if played is None:
            first = self._tables.get((run, rate))
            if first is None:
                first = self._tables[run, rate] = self._size
                self._size += len(run.inside)
            self._rows.append((first + lo, hi - lo, slot))
            self._shift_s.append(began_s - run.begin(phase, rate))
        else:
            self._slots += [slot + place for place in run.places[lo:hi]]
            self._start_s += [began_s + start for start in played[0]]
            self._end_s += [began_s + end for end in played[1]]

    def write(self, start_s: Floats, end_s: Floats) -> None:
        """Put the times of every operation at its slot."""
        start_s[self._slots], end_s[self._slots] = self._start_s, self._end_s
        if not self._rows:
            return
        inside = np.concatenate([run.inside for run, _ in self._tables])
        starts, ends = zip(*(run.offsets(rate) for run, rate in self._tables), strict=True)
        first, size, slot = np.array(self._rows, dtype=np.int64).T
        at = np.repeat(first - (np.cumsum(size) - size), size) + np.arange(size.sum())
        slots, shift_s = np.repeat(slot, size) + inside[at], np.repeat(self._shift_s, size)
        start_s[slots] = np.concatenate(starts)[at] + shift_s
        end_s[slots] = np.concatenate(ends)[at] + shift_s
