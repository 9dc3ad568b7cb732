"""Runs: operations of one rank that are one event, at a rate of compute that may change while they run.

A run is cut into phases, each from one operation that starts while nothing else of the run does to the next such
one. At a steady rate the phases' times add up, so that only a phase in which the rate changes is looked into.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from math import inf, prod
from typing import NamedTuple

import numpy as np

from sim.spec.topology import Floats, Ints

Changes = list[tuple[float, float]]
"""(moment, rate of compute from then on): moments in ascending order, the first at 0."""


@dataclass(frozen=True, eq=False)
class Phase:
    """Operations in an order in which each comes after what it waits for; the first one starts them.

    work_s: time of each alone.  slows: what it does to compute while it runs, a factor on its time; None for compute.
    before: for each, those of the phase that it waits for.
    """

    work_s: tuple[float, ...]
    slows: tuple[float | None, ...]
    before: tuple[tuple[int, ...], ...]

    def play(self, changes: Changes) -> tuple[list[float], list[float]]:
        """Start and end of each operation, s after the phase's."""
        size = len(self.work_s)
        if size == 1:
            return [0.0], [self._lone_s(changes)]
        return _PhasePlayer(self).play(changes)

    @cached_property
    def after(self) -> list[list[int]]:
        """For each operation, those of the phase that wait for it."""
        size = len(self.before)
        return [[other for other in range(size) if index in self.before[other]] for index in range(size)]

    @cached_property
    def _steady(self) -> dict[float, tuple[list[float], list[float]]]:
        return {}

    def steady(self, rate: float) -> tuple[list[float], list[float]]:
        """`play` at one rate."""
        if rate not in self._steady:
            self._steady[rate] = self.play([(0.0, rate)])
        return self._steady[rate]

    def _lone_s(self, changes: Changes) -> float:
        """Time of the only operation."""
        left_s = self.work_s[0]
        if self.slows[0] is not None:
            return left_s
        for (since_s, rate), (until_s, _) in itertools.pairwise(changes):
            if left_s <= (until_s - since_s) * rate:
                return since_s + left_s / rate
            left_s -= (until_s - since_s) * rate
        return changes[-1][0] + left_s / changes[-1][1]


class _PhasePlayer:
    """Plays one phase: from one moment at which something starts, ends or changes to the next."""

    def __init__(self, phase: Phase) -> None:
        size = len(phase.work_s)
        self._phase = phase
        self._start_s, self._end_s = [0.0] * size, [0.0] * size
        self._waits = [len(before) for before in phase.before]
        self._moving: list[int] = []
        self._computing = -1
        self._left_s = 0.0

    def play(self, changes: Changes) -> tuple[list[float], list[float]]:
        """See `Phase.play`."""
        slows = self._phase.slows
        now_s, known, rate = 0.0, 0, changes[0][1]
        self._start(0, now_s)
        while self._moving or self._computing >= 0:
            own_rate = rate / prod([slows[index] or 1.0 for index in self._moving])
            done_s = now_s + self._left_s / own_rate if self._computing >= 0 else inf
            until_s = min([done_s, *(self._end_s[index] for index in self._moving)])
            if known + 1 < len(changes) and changes[known + 1][0] <= until_s:
                known += 1
                until_s, rate = changes[known]
            done = [index for index in self._moving if self._end_s[index] <= until_s]
            if done_s <= until_s:
                done.append(self._computing)
                self._end_s[self._computing] = until_s
                self._computing = -1
            else:
                self._left_s -= (until_s - now_s) * own_rate
            now_s = until_s
            self._finish(done, now_s)
        return self._start_s, self._end_s

    def _start(self, index: int, now_s: float) -> None:
        self._start_s[index] = now_s
        if self._phase.slows[index] is None:
            assert self._computing < 0, "two kernels on one stream"
            self._computing, self._left_s = index, self._phase.work_s[index]
        else:
            self._end_s[index] = now_s + self._phase.work_s[index]
            self._moving.append(index)

    def _finish(self, done: list[int], now_s: float) -> None:
        """Take what is done away, and start what waited for it."""
        self._moving = [index for index in self._moving if index not in done]
        for index in done:
            for other in self._phase.after[index]:
                self._waits[other] -= 1
                if not self._waits[other]:
                    self._start(other, now_s)


@dataclass(frozen=True, eq=False)
class Run:
    """Phases of a block, one after the other.

    inside: (operations,) their places in the block.
    """

    inside: Ints
    phases: tuple[Phase, ...]

    @cached_property
    def first(self) -> list[int]:
        """Place of each phase's first operation, and their number at last."""
        return [0, *np.cumsum([len(phase.work_s) for phase in self.phases]).tolist()]

    @cached_property
    def places(self) -> list[int]:
        """`inside` as a list."""
        places: list[int] = self.inside.tolist()
        return places

    @cached_property
    def _ends(self) -> dict[float, list[float]]:
        return {}

    @cached_property
    def _offsets(self) -> dict[float, tuple[Floats, Floats]]:
        return {}

    def ends(self, rate: float) -> list[float]:
        """End of each phase after the run's start, at a steady rate, s."""
        if rate not in self._ends:
            now, ends = 0.0, []
            for phase in self.phases:
                now += max(phase.steady(rate)[1])
                ends.append(now)
            self._ends[rate] = ends
        return self._ends[rate]

    def offsets(self, rate: float) -> tuple[Floats, Floats]:
        """Start and end of each operation after the run's start, at a steady rate: (operations,), s."""
        if rate not in self._offsets:
            begins = [0.0, *self.ends(rate)]
            played = [phase.steady(rate) for phase in self.phases]
            start_s = [begin + start for begin, (starts, _) in zip(begins, played, strict=False) for start in starts]
            end_s = [begin + end for begin, (_, ends) in zip(begins, played, strict=False) for end in ends]
            self._offsets[rate] = np.array(start_s), np.array(end_s)
        return self._offsets[rate]

    def begin(self, phase: int, rate: float) -> float:
        """Start of a phase after the run's, at a steady rate, s."""
        return self.ends(rate)[phase - 1] if phase else 0.0


class Part(NamedTuple):
    """Phases from `phase` on that begin at `start_s`: all up to `until` at one rate, or one of them at several, as
    `played`: start and end of each operation after the phase's, s."""

    phase: int
    until: int
    start_s: float
    rate: float
    played: tuple[list[float], list[float]] | None = None


class Progress:
    """A run during which the rate of compute changed.

    Kept are (phase, its start, rates since then): with one rate, for this phase and those up to the next entry; with
    several, for this phase alone, and from the next one on the last of them.
    """

    def __init__(self, run: Run, start_s: float, rate: float) -> None:
        self.run = run
        self._entries: list[tuple[int, float, Changes]] = [(0, start_s, [(0.0, rate)])]
        self._played: dict[int, tuple[list[float], list[float]]] = {}

    def change(self, now_s: float, rate: float) -> None:
        """The rate is another one from now on."""
        run = self.run
        phase, start_s, changes = self._entries[-1]
        if len(changes) > 1:
            end_s = start_s + self._phase_s(phase)
            if now_s < end_s:
                changes.append((now_s - start_s, rate))
                del self._played[phase]
                return
            phase, start_s, changes = phase + 1, end_s, [(0.0, changes[-1][1])]
            self._entries.append((phase, start_s, changes))
        old = changes[0][1]
        ends, begin = run.ends(old), run.begin(phase, old)
        current = bisect_right(ends, now_s - start_s + begin)
        if current == len(ends):
            return
        started_s = start_s + run.begin(current, old) - begin
        if current == phase:
            self._entries.pop()
        self._entries.append((current, started_s, [(0.0, old), (max(now_s - started_s, 0.0), rate)]))

    def end_s(self) -> float:
        """When the run ends, if the rate stays."""
        phase, start_s, changes = self._entries[-1]
        ends = self.run.ends(changes[-1][1])
        if len(changes) > 1:
            return start_s + self._phase_s(phase) + ends[-1] - ends[phase]
        return start_s + ends[-1] - self.run.begin(phase, changes[0][1])

    def _phase_s(self, phase: int) -> float:
        """Time of the last phase with several rates."""
        return max(self._times(phase)[1])

    def _times(self, phase: int) -> tuple[list[float], list[float]]:
        if phase not in self._played:
            self._played[phase] = self.run.phases[phase].play(self._entries[-1][2])
        return self._played[phase]

    def parts(self) -> list[Part]:
        """The whole run, once it is over."""
        entries = list(self._entries)
        phase, start_s, changes = entries[-1]
        if len(changes) > 1:
            entries.append((phase + 1, start_s + self._phase_s(phase), changes[-1:]))
        bounds = [*(phase for phase, _, _ in entries[1:]), len(self.run.phases)]
        return [
            Part(phase, until, start_s, changes[0][1], self._played[phase] if len(changes) > 1 else None)
            for (phase, start_s, changes), until in zip(entries, bounds, strict=True)
        ]


PhaseKey = tuple[tuple[float, ...], tuple[float | None, ...], tuple[tuple[int, ...], ...]]


def phases(
    work_s: list[float], slows: list[float | None], before: list[list[int]], known: dict[PhaseKey, Phase]
) -> tuple[Phase, ...]:
    """Cut operations where one starts that comes after all before it and before all that follow.

    known: phases found before, so that those that repeat are one.
    """
    size = len(work_s)
    ancestors: list[int] = []
    for index in range(size):
        seen = 0
        for other in before[index]:
            seen |= ancestors[other] | 1 << other
        ancestors.append(seen)
    cuts, common = [size], -1
    for index in range(size - 1, -1, -1):
        if common >> index & 1 and ancestors[index] == (1 << index) - 1:
            cuts.append(index)
        common &= ancestors[index]
    cuts.reverse()
    found = []
    for lo, hi in itertools.pairwise(cuts):
        inner = tuple(tuple(other - lo for other in before[index] if other >= lo) for index in range(lo, hi))
        key = (tuple(work_s[lo:hi]), tuple(slows[lo:hi]), inner)
        found.append(known.setdefault(key, Phase(*key)))
    return tuple(found)
