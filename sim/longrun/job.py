"""One run of weeks, from event to event: training, checkpoints, failures, recovery, stragglers."""

from __future__ import annotations

import heapq
import math
from collections.abc import Generator
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import simpy

from sim.longrun.hazards import DAY_S, Failure, Hazards
from sim.longrun.ledger import Ledger
from sim.longrun.plan import PhasePlan, Plan
from sim.longrun.saved import Saved
from sim.longrun.shop import Shop
from sim.longrun.spike_watch import SpikeWatch
from sim.longrun.stretch import Stretch

Waits: TypeAlias = Generator[simpy.Event, Any, None]
Strikes: TypeAlias = Generator[simpy.Event, Any, Failure | None]
Parts: TypeAlias = list[tuple[str, float]]
Band: TypeAlias = tuple[float, float, str]


@dataclass(frozen=True, order=True)
class _Corruption:
    """Data that was corrupted after `clean_step`, which checks will find at `found_s`."""

    found_s: float
    clean_step: int
    failure: Failure = field(compare=False)


class WindowEnds(Exception):  # noqa: N818 - not an error: how a process learns that nobody looks any more
    """The time that is looked at is over."""


class Job:
    """The job as a SimPy process. It waits for the nearest of what can happen, and books what has passed.

    Failures strike at any time, also while it recovers; then recovery starts again. Training between two of them is
    one event: how many steps and checkpoints it had follows in closed form (`Stretch`).
    """

    def __init__(
        self, env: simpy.Environment, plan: Plan, seed: np.random.SeedSequence, *, with_bands: bool = False
    ) -> None:
        hazards, repairs, late, spikes, slow = (np.random.default_rng(each) for each in seed.spawn(5))
        file = plan.file
        self._env, self._plan, self._recovery = env, plan, file.recovery
        self._late_rng, self._slow_rng = late, slow
        self.hazards = Hazards(file.failures, plan.num_nodes, hazards)
        self.shop = Shop(env, repairs, file.spares.nodes, file.spares.repair_crews)
        self.ledger = Ledger()
        self.saved = Saved(plan)
        self.spikes = SpikeWatch(file.spikes, spikes)
        self.bands: list[Band] = []
        self._with_bands = with_bands
        self.restarts = 0
        self.evictions = 0
        self.silent_found = 0
        self.step = 0
        self._horizon_s = file.window_s if file.window_s is not None else math.inf
        self._missing = 0
        self._lost_replicas: list[int] = []
        self._corrupt: list[_Corruption] = []
        self._clean_step = 0
        self._slow: list[float] = []
        self._soft: list[tuple[float, str, float]] = []
        self._next_straggler()

    @property
    def _nodes(self) -> int:
        return self._plan.num_nodes - self._missing

    def run(self) -> Waits:
        """Until the last step is done or the window ends."""
        try:
            yield from self._recover((yield from self._pause(self._start_parts(0.0))))
            while self.step < self._plan.total_steps:
                yield from self._before_training()
                yield from self._train()
        except WindowEnds:
            pass
        self.shop.settle()

    # What can happen, and waiting for it.

    def _strike(self, reached: int) -> Failure | None:
        """The failure that is due now; None for corruption that nobody sees yet, or that was rolled back meanwhile.

        reached: steps done when it strikes.
        """
        if self._corrupt and self._corrupt[0].found_s <= self.hazards.next_s:
            found = heapq.heappop(self._corrupt)
            self.silent_found += 1
            self._clean_step = min(each.clean_step for each in (found, *self._corrupt))
            return found.failure
        failure = self.hazards.take()
        if not failure.is_silent:
            return failure
        found_s = self._env.now + self._recovery.silent_detect_s * self._late_rng.standard_exponential()
        heapq.heappush(self._corrupt, _Corruption(found_s, reached, failure))
        return None

    def _strikes_s(self) -> float:
        return min(self.hazards.next_s, self._corrupt[0].found_s) if self._corrupt else self.hazards.next_s

    def _sleep(self, until_s: float, arrival: simpy.Event | None = None) -> Waits:
        """Until a time, or until `arrival` fires if that is sooner."""
        if until_s > self._env.now:
            timeout = self._env.timeout(until_s - self._env.now)
            yield timeout if arrival is None else timeout | arrival

    def _pause(self, parts: Parts) -> Strikes:
        """Spend the parts one after the other; cut short by a failure, which is returned."""
        start_s = self._env.now
        end_s = start_s + sum(time_s for _, time_s in parts)
        while True:
            until_s = min(end_s, self._strikes_s(), self._horizon_s)
            yield from self._sleep(until_s)
            if end_s <= until_s:
                self._spend(parts, start_s, math.inf)
                return None
            passed_s = self._env.now - start_s
            if until_s == self._horizon_s:
                self._spend(parts, start_s, passed_s)
                raise WindowEnds
            failure = self._strike(self.step)
            if failure is not None:
                self._spend(parts, start_s, passed_s)
                return failure

    def _spend(self, parts: Parts, start_s: float, passed_s: float) -> None:
        """Book the parts as far as `passed_s` goes."""
        for cause, time_s in parts:
            used_s = min(time_s, passed_s)
            if used_s > 0:
                self.ledger.spend(cause, used_s, self._nodes)
                self._band(start_s, start_s + used_s, cause)
            start_s += used_s
            passed_s -= used_s

    def _band(self, start_s: float, end_s: float, cause: str) -> None:
        if self._with_bands:
            self.bands.append((start_s, end_s, cause))

    # Failure and recovery.

    def _recover(self, failure: Failure | None) -> Waits:
        """Until the job trains again, however often it fails meanwhile."""
        while failure is not None:
            self.restarts += 1
            failure = yield from self._attempt(failure)

    def _attempt(self, failure: Failure) -> Strikes:
        """One attempt to recover; a failure on the way ends it."""
        recovery = self._recovery
        if failure.nodes > self._nodes:
            failure = replace(failure, nodes=self._nodes)
        detect_s = recovery.hang_detect_s if failure.is_hang else recovery.detect_s
        parts: Parts = [("detect", 0.0 if failure.is_silent else detect_s)]
        if failure.nodes:
            self._missing += failure.nodes
            for _ in range(failure.nodes):
                self.shop.repair(failure.repair_s)
        if self._goes_on_without(failure):
            return (yield from self._pause([*parts, ("reconfigure", self._reconfigure_s(failure))]))
        self._fall_back(failure)
        parts.append(("diagnose", recovery.diagnose_s))
        return (yield from self._restart(parts))

    def _fall_back(self, failure: Failure) -> None:
        if failure.is_silent:
            self.step = self.saved.before(min(self._clean_step, self.step), self._env.now)
        else:
            self.step = self.saved.after_failure(failure.hit, self._env.now)
        self._forget_after(self.step)

    def _restart(self, parts: Parts) -> Strikes:
        """The parts, spares for what is missing, and the start from the checkpoint."""
        self._lost_replicas.clear()
        if self._missing:
            swap_s = self._plan.file.spares.swap_s
            place_s = self._recovery.reschedule_s if swap_s is None else swap_s
            if self.shop.idle < self._missing:
                failure = yield from self._pause(parts)
                failure = failure or (yield from self._wait_for_nodes())
                if failure is not None:
                    return failure
                parts = []
            else:
                self._missing -= self.shop.take(self._missing)
            parts.append(("reschedule", place_s))
        return (yield from self._pause(parts + self._start_parts(self.saved.load_s)))

    def _start_parts(self, load_s: float) -> Parts:
        return [("init", self._recovery.init_s), ("load", load_s), ("catch_up", self._recovery.catch_up_s)]

    def _wait_for_nodes(self) -> Strikes:
        """Until repaired nodes have filled every gap."""
        self._missing -= self.shop.take(self._missing)
        while self._missing:
            start_s = self._env.now
            until_s = min(self._strikes_s(), self._horizon_s)
            arrival = self.shop.arrival()
            yield from self._sleep(until_s, arrival)
            self._spend([("wait_spare", math.inf)], start_s, self._env.now - start_s)
            self._missing -= self.shop.take(self._missing)
            if arrival.triggered:
                continue
            if until_s == self._horizon_s:
                raise WindowEnds
            if (failure := self._strike(self.step)) is not None:
                return failure
        return None

    # Going on with fewer replicas.

    def _goes_on_without(self, failure: Failure) -> bool:
        """Whether the other replicas train on; those that the failure hit are left out."""
        elastic = self._plan.file.elastic
        if elastic is None or not failure.hit or failure.is_silent:
            return False
        size = self._plan.replica_nodes
        hit = math.ceil(failure.hit / size)
        alive = self._plan.num_nodes // size - len(self._lost_replicas) - (hit if failure.nodes else 0)
        if alive < elastic.min_replicas or self._missing - failure.nodes > sum(self._lost_replicas):
            return False
        if failure.nodes:
            left = failure.nodes
            for _ in range(hit):
                self._lost_replicas.append(min(left, size))
                left -= self._lost_replicas[-1]
        return True

    def _reconfigure_s(self, failure: Failure) -> float:
        elastic = self._plan.file.elastic
        assert elastic is not None
        return elastic.reconfigure_s + (0.0 if failure.nodes else elastic.rejoin_s)

    def _rejoin(self) -> Waits:
        """Replicas whose nodes are all there again come back, in one stall."""
        came = self.shop.take(sum(self._lost_replicas))
        self._missing -= came
        back = 0
        while came:
            used = min(came, self._lost_replicas[0])
            came -= used
            self._lost_replicas[0] -= used
            if not self._lost_replicas[0]:
                self._lost_replicas.pop(0)
                back += 1
        if back:
            elastic = self._plan.file.elastic
            assert elastic is not None
            yield from self._recover((yield from self._pause([("reconfigure", elastic.rejoin_s)])))

    # Training.

    def _before_training(self) -> Waits:
        """What waits for the end of a step: stragglers that come, go or are swapped; replicas that come back."""
        while self._soft and self._soft[0][0] <= self._env.now:
            _, what, until_s = heapq.heappop(self._soft)
            if what == "slow":
                self._slow_node()
            elif until_s in self._slow:
                self._slow.remove(until_s)
                if what == "found":
                    yield from self._evict()
        if self._lost_replicas and self.shop.idle:
            yield from self._rejoin()

    def _train(self) -> Waits:
        """Train until a failure, the end of the phase, an alarm, or what `_before_training` handles."""
        phase = self._plan.phase_at(self.step)
        stretch, times = self._stretch(phase)
        start_s, start_step = self._env.now, self.step
        limit = min(phase.last - start_step, self.spikes.steps_left)
        arrival = self.shop.arrival() if self._lost_replicas else None
        soft_s = self._soft[0][0] if self._soft else math.inf
        failure = None
        while failure is None:
            end_s = start_s + stretch.time_at(limit)
            until_s = min(end_s, self._strikes_s(), self._horizon_s, soft_s)
            yield from self._sleep(until_s, arrival)
            passed_s = self._env.now - start_s
            if arrival is not None and arrival.triggered:
                limit, arrival = min(limit, stretch.steps_at(passed_s) + 1), None
            elif end_s <= until_s:
                self._book(stretch, times, limit, stretch.time_at(limit))
                yield from self._after_training()
                return
            elif until_s == soft_s:
                limit, soft_s = min(limit, stretch.steps_at(passed_s) + 1), math.inf
            elif until_s == self._horizon_s:
                self._book(stretch, times, min(limit, stretch.steps_at(passed_s)), passed_s)
                raise WindowEnds
            else:
                failure = self._strike(start_step + min(limit, stretch.steps_at(passed_s)))
        self._book(stretch, times, min(limit, stretch.steps_at(passed_s)), passed_s)
        yield from self._recover(failure)

    def _stretch(self, phase: PhasePlan) -> tuple[Stretch, tuple[float, float, float]]:
        """Training as it is now, and the parts of a step: ideal, what stragglers and missing replicas add."""
        ideal_s = phase.step_s
        stragglers = self._plan.file.stragglers
        slow_s = ideal_s * (stragglers.slowdown - 1) if stragglers is not None and self._slow else 0.0
        replicas = self._plan.num_nodes // self._plan.replica_nodes
        share = replicas / (replicas - len(self._lost_replicas))
        degraded_s = (ideal_s + slow_s) * (share - 1)
        return Stretch(self.step - phase.first, ideal_s + slow_s + degraded_s, phase.tiers), (
            ideal_s,
            slow_s,
            degraded_s,
        )

    def _book(self, stretch: Stretch, times: tuple[float, float, float], steps: int, passed_s: float) -> None:
        """`steps` are done and `passed_s` gone: the rest is checkpoints, and the step in flight, which is lost."""
        start_s = self._env.now - passed_s
        self.ledger.execute((self.step, steps), *times, self._nodes)
        done_s = stretch.time_at(steps)
        blocks_s = done_s - steps * stretch.step_s
        if passed_s < done_s:
            blocks_s -= done_s - passed_s
        else:
            self.ledger.spend("lost", passed_s - done_s, self._nodes)
        self.ledger.spend("checkpoint", blocks_s, self._nodes)
        self._band(start_s, self._env.now, "progress")
        self.saved.book(self.step, stretch, steps, (start_s, passed_s))
        self.step += steps
        self.spikes.trained(steps)

    def _after_training(self) -> Waits:
        """Loss spikes and alarms that are due at this step."""
        while (answer := self.spikes.due(self.step)) is not None:
            yield from self._recover((yield from self._pause([("alarm", answer.pause_s)])))
            if answer.rollback_to is None:
                continue
            self.step = self.saved.before(min(answer.rollback_to, self.step), self._env.now)
            self._forget_after(self.step)
            self.spikes.answered(answer, self.step)
            yield from self._recover((yield from self._restart([])))

    def _forget_after(self, step: int) -> None:
        """Steps after `step` are gone, and with them what corrupted them."""
        self.ledger.roll_back(step)
        self._corrupt = [each for each in self._corrupt if each.clean_step < step]
        heapq.heapify(self._corrupt)

    # Stragglers.

    def _next_straggler(self) -> None:
        stragglers = self._plan.file.stragglers
        if stragglers is not None:
            rate = stragglers.per_1000_days / 1000 / DAY_S * self._plan.num_nodes
            heapq.heappush(self._soft, (self._env.now + self._slow_rng.standard_exponential() / rate, "slow", 0.0))

    def _slow_node(self) -> None:
        """A node becomes slow: it ends by itself, or is found before."""
        stragglers = self._plan.file.stragglers
        assert stragglers is not None
        ends_s = self._env.now + stragglers.lasts_s * self._slow_rng.standard_exponential()
        self._slow.append(ends_s)
        heapq.heappush(self._soft, (ends_s, "over", ends_s))
        if stragglers.evict:
            heapq.heappush(self._soft, (self._env.now + stragglers.detect_s, "found", ends_s))
        self._next_straggler()

    def _evict(self) -> Waits:
        """A checkpoint, written out, and a start on another node."""
        saving = self._plan.saving
        failure = yield from self._pause([("checkpoint", saving.block_s + saving.persist_s)])
        if failure is None:
            self.evictions += 1
            self.saved.now(self.step)
            self._missing += 1
            self.shop.repair(self._plan.file.failures.repair_s)
            failure = yield from self._restart([])
        yield from self._recover(failure)
