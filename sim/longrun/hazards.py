"""When the next failure strikes, and what it breaks."""

from __future__ import annotations

import bisect
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TypeAlias

import numpy as np

from sim.spec.reliability import Component, Failures

DAY_S = 86400.0
DRAWN_AT_ONCE = 256

Floats: TypeAlias = np.ndarray[tuple[int], np.dtype[np.float64]]


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


class Draws:
    """Random numbers of one generator, drawn many at a time, which is what makes them cheap."""

    def __init__(self, draw: Callable[[int], Floats]) -> None:
        self._draw = draw
        self._left: list[float] = []

    def __call__(self) -> float:
        """The next number."""
        if not self._left:
            self._left = self._draw(DRAWN_AT_ONCE).tolist()
        return self._left.pop()


class Ageing:
    """Units of one Weibull component, each with an age that starts at 0 with each of its failures.

    The cluster has run for long when the run starts: what is left of a life is a uniform part of one that is chosen by
    its length, whose (life / scale)^shape is gamma with 1 + 1 / shape. So as many fail in every day (D. R. Cox, Renewal
    Theory, 1962, chapter 5).
    """

    def __init__(self, failures: Failures, component: Component, num_nodes: int, rng: np.random.Generator) -> None:
        self._rng, self._shape = rng, component.shape
        mean_s = 1 / unit_rate_per_s(failures, component)
        # The mean of a Weibull distribution is its scale times Gamma(1 + 1 / shape).
        self._scale_s = mean_s / math.gamma(1 + 1 / component.shape)
        units = max(1, num_nodes // component.nodes)
        lives_s = self._scale_s * rng.gamma(1 + 1 / self._shape, size=units) ** (1 / self._shape)
        self._times_s = rng.random(units) * lives_s
        self.next_s = float(self._times_s.min())

    def take(self) -> None:
        """The unit that fails next starts a new life."""
        unit = int(self._times_s.argmin())
        self._times_s[unit] = self.next_s + self._scale_s * float(self._rng.weibull(self._shape))
        self.next_s = float(self._times_s.min())


class Lemon:
    """Nodes that fail more often, how often each of them has, and how many were taken out."""

    def __init__(self, failures: Failures, num_nodes: int) -> None:
        spec = failures.lemons
        self._evict_after = spec.evict_after if spec is not None else None
        self._failed = [0] * round(spec.frac * num_nodes) if spec is not None else []
        parts = {name: part for name, part in failures.components.items() if part.scope == "node" and part.shape == 1}
        self._names = list(parts)
        self._cumulative = list(accumulate(unit_rate_per_s(failures, part) for part in parts.values()))
        self.ordinary_rate = len(self._failed) * self._cumulative[-1] if parts else 0.0
        self.rate = self.ordinary_rate * spec.factor if spec is not None else 0.0
        self.evicted = 0

    def fail(self, node: float, component: float) -> str:
        """One of them, drawn by `node` in 0 .. 1, fails in a component drawn by `component`: its name."""
        which = min(int(node * len(self._failed)), len(self._failed) - 1)
        self._failed[which] += 1
        if self._evict_after is not None and self._failed[which] >= self._evict_after:
            left = (len(self._failed) - 1) / len(self._failed)
            self.rate *= left
            self.ordinary_rate *= left
            del self._failed[which]
            self.evicted += 1
        return chosen(self._names, self._cumulative, component)


def chosen(names: Sequence[str], cumulative: Sequence[float], draw: float) -> str:
    """The name in whose part of the cumulative weights `draw`, in 0 .. 1, falls.

    >>> chosen(["a", "b"], [1.0, 4.0], 0.3)
    'b'
    """
    return names[min(bisect.bisect_right(cumulative, draw * cumulative[-1]), len(names) - 1)]


class Hazards:
    """Failures of one job in the order of their time.

    Exponential components are one superposed Poisson process, Weibull components age unit by unit. Time runs on while
    the job is down. A lemon comes back from repair as one, until it is taken out and a good node has its place.
    """

    def __init__(self, failures: Failures, num_nodes: int, rng: np.random.Generator) -> None:
        self._failures, self._num_nodes = failures, num_nodes
        steady = {name: part for name, part in failures.components.items() if part.shape == 1}
        self._names = list(steady)
        rates = (component_rate_per_s(failures, part, num_nodes) for part in steady.values())
        self._cumulative = list(accumulate(rates)) or [0.0]
        self._lemons = Lemon(failures, num_nodes)
        ageing = ((name, part) for name, part in failures.components.items() if part.shape != 1)
        self._ageing = {name: Ageing(failures, part, num_nodes, rng) for name, part in ageing}
        self._uniform, self._exponential = Draws(rng.random), Draws(rng.standard_exponential)
        self._steady_s = self._after(0.0)
        self.next_s = self._next_s()
        self.counts: Counter[str] = Counter()

    @property
    def evicted_lemons(self) -> int:
        """Lemons that were taken out so far."""
        return self._lemons.evicted

    def _rate(self) -> float:
        """Of all steady components; lemons are not among the ordinary nodes."""
        return self._cumulative[-1] - self._lemons.ordinary_rate + self._lemons.rate

    def _after(self, now_s: float) -> float:
        rate = self._rate()
        return now_s + self._exponential() / rate if rate > 0 else math.inf

    def _next_s(self) -> float:
        return min((self._steady_s, *(each.next_s for each in self._ageing.values())))

    def take(self) -> Failure:
        """The failure at `next_s`; the one after it is drawn."""
        now_s = self.next_s
        if now_s == self._steady_s:
            name = self._steady_component()
            self._steady_s = self._after(now_s)
        else:
            name = next(name for name, each in self._ageing.items() if each.next_s == now_s)
            self._ageing[name].take()
        self.next_s = self._next_s()
        self.counts[name] += 1
        return self._failure(name)

    def _steady_component(self) -> str:
        if self._uniform() * self._rate() < self._lemons.rate:
            return self._lemons.fail(self._uniform(), self._uniform())
        return chosen(self._names, self._cumulative, self._uniform())

    def _failure(self, name: str) -> Failure:
        part = self._failures.components[name]
        how = self._uniform()
        hit = 0 if part.scope == "job" else min(part.nodes, self._num_nodes)
        return Failure(
            name,
            nodes=0 if self._uniform() < part.transient_frac else hit,
            hit=hit,
            is_hang=how < part.hang_frac,
            is_silent=part.hang_frac <= how < part.hang_frac + part.silent_frac,
            repair_s=part.repair_s if part.repair_s is not None else self._failures.repair_s,
        )
