"""Compute streams whose kernels slow down while communication runs on their GPU.

What runs on a rank's compute stream (an operation, or a run of them) has a rate, 1 alone, that changes when
communication starts or ends there: the work that is left moves its end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import simpy
from simpy.events import NORMAL

from sim.cost.slowdown import combined
from sim.engine.events import triggered
from sim.engine.runs import Progress, Run

KIND_BITS = 8
"""Transfers of one kind that run on a rank at once are counted in so many bits of its code."""


@dataclass(frozen=True)
class Beside:
    """Which communication may run beside compute, by number of what is played; none that is exposed by construction.

    ranks: simulated ranks whose compute it slows.  unit: what it adds to the codes of those ranks while it runs.
    factor_of_kind: for each kind, in the order of the codes' bits.
    """

    ranks: dict[int, tuple[int, ...]]
    unit: dict[int, int]
    factor_of_kind: list[float]


class _Rates(dict[int, float]):
    """Rate of compute by the code of the communication that runs."""

    def __init__(self, factor_of_kind: list[float]) -> None:
        super().__init__()
        self._factor_of_kind = factor_of_kind

    def __missing__(self, code: int) -> float:
        present = [
            factor
            for kind, factor in enumerate(self._factor_of_kind)
            if code >> (KIND_BITS * kind) & (1 << KIND_BITS) - 1
        ]
        self[code] = rate = 1.0 / combined(present)
        return rate


class _Gang:
    """Operations (or one run) that compute on as many ranks, started at one instant, with the same work at one rate:
    they are one event.

    left_s: work at `since_s`, in seconds at rate 1 (of a run, all of it).  assumed: rate with which the event was
    scheduled.  is_late: the rate was below it since, so that the event comes too early and the end is looked at then.
    """

    __slots__ = ("assumed", "event", "is_late", "left_s", "numbers", "rate", "since_s")

    def __init__(self, event: simpy.Event) -> None:
        self.event = event
        self.numbers: list[int] = []
        self.left_s = self.since_s = 0.0
        self.rate = self.assumed = 1.0
        self.is_late = False


class ComputeStreams:
    """What computes on each rank, and how fast.

    rank: simulated rank of each number that computes.  work_s: its time at rate 1.  on_end: called with the numbers
    that are done at an instant.
    """

    def __init__(
        self,
        env: simpy.Environment,
        beside: Beside,
        runs: list[Run | None],
        rank: list[int],
        work_s: list[float],
        on_end: Callable[[list[int]], None],
    ) -> None:
        self._env = env
        self._beside = beside
        self._runs = runs
        self._has_runs = any(run is not None for run in runs)
        self._rank = rank
        self._work_s = work_s
        self._on_end = on_end
        self._rate_of = _Rates(beside.factor_of_kind)
        size = max(rank) + 1
        self._code = [0] * size
        self._rate = [1.0] * size
        self._gang: list[_Gang | None] = [None] * size
        self._callbacks: list[Callable[[Any], None]] = [self._end]
        self._used: list[_Gang] = []
        self.slow_from_start: dict[int, float] = {}
        self.changed: dict[int, Progress] = {}

    def start(self, ready: list[int]) -> None:
        """All of `ready` start to compute now."""
        work_s, rank_of, rate = self._work_s, self._rank, self._rate
        first_s, first_rate = work_s[ready[0]], rate[rank_of[ready[0]]]
        if len(ready) == 1 or not self._has_runs:
            for number in ready:
                if work_s[number] != first_s or rate[rank_of[number]] != first_rate:
                    break
            else:
                self._open(ready, first_s, first_rate)
                return
        alike: dict[object, list[int]] = {}
        for number in ready:
            is_run = self._runs[number] is not None
            alike.setdefault(number if is_run else (work_s[number], rate[rank_of[number]]), []).append(number)
        for numbers in alike.values():
            self._open(numbers, work_s[numbers[0]], rate[rank_of[numbers[0]]])

    def _open(self, numbers: list[int], work_s: float, rate: float) -> None:
        gang = self._used.pop() if self._used else self._new()
        gang.numbers, gang.left_s, gang.since_s, gang.rate = numbers, work_s, self._env.now, rate
        gang_of, rank_of = self._gang, self._rank
        for number in numbers:
            gang_of[rank_of[number]] = gang
        if rate != 1.0:
            run = self._runs[numbers[0]]
            if run is None:
                work_s /= rate
            else:
                self.slow_from_start[numbers[0]] = rate
                work_s = run.ends(rate)[-1]
        self._schedule(gang, work_s)

    def _new(self) -> _Gang:
        gang = _Gang(triggered(self._env))
        gang.event._value = gang  # noqa: SLF001 - as in `triggered`
        return gang

    def _schedule(self, gang: _Gang, delay_s: float) -> None:
        gang.assumed = gang.rate
        gang.is_late = False
        gang.event.callbacks = self._callbacks
        self._env.schedule(gang.event, NORMAL, delay_s)

    def _end(self, event: simpy.Event) -> None:
        gang: _Gang = event._value  # noqa: SLF001 - as in `triggered`
        if gang.is_late and (left_s := self._until_end_s(gang)) > 0:
            self._schedule(gang, left_s)
            return
        numbers = gang.numbers
        gang_of, rank_of = self._gang, self._rank
        for number in numbers:
            gang_of[rank_of[number]] = None
        self._used.append(gang)
        self._on_end(numbers)

    def _until_end_s(self, gang: _Gang) -> float:
        """Time until the gang ends at its present rate, s."""
        now_s, number = self._env.now, gang.numbers[0]
        if self._runs[number] is not None:
            return self.changed[number].end_s() - now_s
        return (gang.left_s - (now_s - gang.since_s) * gang.rate) / gang.rate

    def communication(self, number: int, sign: int) -> None:
        """Communication starts (+1) or ends (-1): the rates of its ranks change."""
        step = sign * self._beside.unit[number]
        turned: dict[_Gang, list[int]] = {}
        codes, rates, rate_of, gang_of = self._code, self._rate, self._rate_of, self._gang
        for rank in self._beside.ranks[number]:
            code = codes[rank] = codes[rank] + step
            rate = rate_of[code]
            if rate != rates[rank]:
                rates[rank] = rate
                gang = gang_of[rank]
                if gang is not None:
                    turned.setdefault(gang, []).append(rank)
        for gang, ranks in turned.items():
            self._turn(gang, ranks)

    def _turn(self, gang: _Gang, ranks: list[int]) -> None:
        """The rate has changed on some ranks of a gang: those leave it unless all changed alike."""
        if len(gang.numbers) == 1:
            self._change(gang, self._rate[ranks[0]])
            return
        rates = {self._rate[rank] for rank in ranks}
        if len(ranks) == len(gang.numbers) and len(rates) == 1:
            self._change(gang, rates.pop())
            return
        number_of = {self._rank[number]: number for number in gang.numbers}
        leaving = {rank: number_of.pop(rank) for rank in ranks}
        gang.numbers = list(number_of.values())
        if not gang.numbers:
            gang.event.callbacks = []
        for rate in sorted(rates):
            own = self._new()
            own.numbers = [number for rank, number in leaving.items() if self._rate[rank] == rate]
            own.left_s, own.since_s, own.rate = gang.left_s, gang.since_s, gang.rate
            for number in own.numbers:
                self._gang[self._rank[number]] = own
            self._advance(own, rate)
            self._schedule(own, max(self._until_end_s(own), 0.0))

    def _advance(self, gang: _Gang, rate: float) -> None:
        """The gang goes on at another rate."""
        now_s, number = self._env.now, gang.numbers[0]
        run = self._runs[number]
        if run is None:
            gang.left_s = max(gang.left_s - (now_s - gang.since_s) * gang.rate, 0.0)
            gang.since_s = now_s
        else:
            if number not in self.changed:
                self.changed[number] = Progress(run, gang.since_s, gang.rate)
            self.changed[number].change(now_s, rate)
        gang.rate = rate

    def _change(self, gang: _Gang, rate: float) -> None:
        """A gang ends later, which its event will find, or earlier, so that another event must stand for its end."""
        self._advance(gang, rate)
        if rate <= gang.assumed:
            gang.is_late = True
            return
        gang.event.callbacks = []
        gang.event = triggered(self._env, gang)
        self._schedule(gang, max(self._until_end_s(gang), 0.0))
