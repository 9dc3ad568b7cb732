"""When the next failure strikes, and what it breaks."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np

from sim.spec.reliability import Component, Failures

DAY_S = 86400.0


@dataclass(frozen=True)
class Failure:
    """An interruption. nodes: that are broken, 0 where the same ones run on.  hit: nodes that lost their memory."""

    component: str
    nodes: int
    hit: int
    is_hang: bool
    is_silent: bool
    repair_s: float


def unit_rate_per_s(failures: Failures, component: Component) -> float:
    """Failures of one unit in a second: a count over the units and days in which it was counted."""
    if component.per_1000_days is not None:
        return component.per_1000_days / 1000 / DAY_S
    assert failures.observed is not None
    assert component.count is not None
    seen = failures.observed
    units = 1.0 if component.scope == "job" else seen.gpus / seen.gpus_per_node / component.nodes
    return component.count / (units * seen.days * DAY_S)


def component_rate_per_s(failures: Failures, component: Component, num_nodes: int) -> float:
    """Failures of all its units that a job on `num_nodes` nodes meets in a second, without lemons."""
    units = 1.0 if component.scope == "job" else num_nodes / component.nodes
    return units * unit_rate_per_s(failures, component)


def rate_per_s(failures: Failures, num_nodes: int) -> float:
    """Interruptions of the job in a second, with lemons, as it starts."""
    total = sum(component_rate_per_s(failures, part, num_nodes) for part in failures.components.values())
    if failures.lemons is not None:
        lemons = round(failures.lemons.frac * num_nodes)
        total += lemons * (failures.lemons.factor - 1) * _lemon_rate_per_s(failures)
    return total


def _lemon_rate_per_s(failures: Failures) -> float:
    """Of one ordinary node, of the components that lemons have more often."""
    parts = failures.components.values()
    return sum(unit_rate_per_s(failures, part) for part in parts if part.scope == "node" and part.shape == 1)


class Hazards:
    """Failures of one job in the order of their time.

    Exponential components are one superposed Poisson process; each unit of a Weibull component has its own age, which
    starts at 0 with the run and with each of its failures. Time runs on while the job is down.
    """

    def __init__(self, failures: Failures, num_nodes: int, rng: np.random.Generator) -> None:
        self._failures, self._num_nodes, self._rng = failures, num_nodes, rng
        steady = [(name, part) for name, part in failures.components.items() if part.shape == 1]
        rates = [component_rate_per_s(failures, part, num_nodes) for _, part in steady]
        self._names = [name for name, _ in steady]
        self._cumulative = np.cumsum(rates) if rates else np.zeros(1)
        lemons = failures.lemons
        self._lemons = [0] * round(lemons.frac * num_nodes) if lemons is not None else []
        self._lemon_rate = _lemon_rate_per_s(failures)
        ageing = [(name, part) for name, part in failures.components.items() if part.shape != 1]
        self._ages = {name: self._first_failures(part) for name, part in ageing}
        self._steady_s = self._after(0.0)
        self.next_s = self._next_s()
        self.evicted_lemons = 0
        self.counts: Counter[str] = Counter()

    def _first_failures(self, component: Component) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        units = max(1, self._num_nodes // component.nodes)
        times: np.ndarray[tuple[int], np.dtype[np.float64]] = self._scale_s(component) * self._rng.weibull(
            component.shape, units
        )
        return times

    def _scale_s(self, component: Component) -> float:
        """Of the Weibull distribution whose mean is 1 / rate: mean / Gamma(1 + 1 / shape)."""
        return 1 / unit_rate_per_s(self._failures, component) / math.gamma(1 + 1 / component.shape)

    def _extra_rate(self) -> float:
        """What lemons add to the steady components."""
        lemons = self._failures.lemons
        return len(self._lemons) * lemons.factor * self._lemon_rate if lemons is not None else 0.0

    def _total_rate(self) -> float:
        """Lemons are not among the ordinary nodes."""
        return float(self._cumulative[-1]) - len(self._lemons) * self._lemon_rate + self._extra_rate()

    def _after(self, now_s: float) -> float:
        rate = self._total_rate()
        return now_s + self._rng.standard_exponential() / rate if rate > 0 else math.inf

    def _next_s(self) -> float:
        return (
            min(self._steady_s, *(float(times.min()) for times in self._ages.values()))
            if self._ages
            else (self._steady_s)
        )

    def take(self) -> Failure:
        """The failure at `next_s`; the one after it is drawn."""
        now_s = self.next_s
        name = next((name for name, times in self._ages.items() if times.min() == now_s), None)
        if name is None:
            name = self._steady_component()
            self._steady_s = self._after(now_s)
        else:
            times, part = self._ages[name], self._failures.components[name]
            times[times.argmin()] = now_s + self._scale_s(part) * self._rng.weibull(part.shape)
        self.next_s = self._next_s()
        self.counts[name] += 1
        return self._failure(name)

    def _steady_component(self) -> str:
        extra, total = self._extra_rate(), self._total_rate()
        draw = self._rng.random() * total
        if draw < extra:
            return self._lemon_fails(draw / extra)
        draw = (draw - extra) / (total - extra) * float(self._cumulative[-1])
        return self._names[min(int(np.searchsorted(self._cumulative, draw, side="right")), len(self._names) - 1)]

    def _lemon_fails(self, draw: float) -> str:
        """One lemon, and one of the components of nodes; after so many failures it is replaced by a good node."""
        lemons = self._failures.lemons
        assert lemons is not None
        which = min(int(draw * len(self._lemons)), len(self._lemons) - 1)
        self._lemons[which] += 1
        if lemons.evict_after is not None and self._lemons[which] >= lemons.evict_after:
            del self._lemons[which]
            self.evicted_lemons += 1
        parts = self._failures.components
        of_nodes = [name for name in self._names if parts[name].scope == "node"]
        rates = np.cumsum([unit_rate_per_s(self._failures, parts[name]) for name in of_nodes])
        return of_nodes[min(int(np.searchsorted(rates, self._rng.random() * rates[-1])), len(of_nodes) - 1)]

    def _failure(self, name: str) -> Failure:
        part = self._failures.components[name]
        how, stays = self._rng.random(), self._rng.random()
        hit = 0 if part.scope == "job" else min(part.nodes, self._num_nodes)
        return Failure(
            name,
            nodes=0 if stays < part.transient_frac else hit,
            hit=hit,
            is_hang=how < part.hang_frac,
            is_silent=part.hang_frac <= how < part.hang_frac + part.silent_frac,
            repair_s=part.repair_s if part.repair_s is not None else self._failures.repair_s,
        )
