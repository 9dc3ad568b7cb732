"""Spare nodes and the repair of broken ones."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy as np
import simpy


class Shop:
    """Nodes outside the job: idle spares, and those in repair or waiting for a crew.

    idle_node_s, away_node_s: node-seconds of both so far, after `settle`.  waits_s: from a failure to the start of its
    repair.
    """

    def __init__(self, env: simpy.Environment, rng: np.random.Generator, spares: int, crews: int | None) -> None:
        self._env, self._rng = env, rng
        self._crews = simpy.Resource(env, crews) if crews is not None else None
        self._arrival: simpy.Event | None = None
        self._settled_s = 0.0
        self.idle = spares
        self.away = 0
        self.idle_node_s = 0.0
        self.away_node_s = 0.0
        self.num_repairs = 0
        self.wait_s = 0.0

    def settle(self) -> None:
        """Count node-seconds up to now."""
        passed_s = self._env.now - self._settled_s
        self.idle_node_s += passed_s * self.idle
        self.away_node_s += passed_s * self.away
        self._settled_s = self._env.now

    def take(self, wanted: int) -> int:
        """Up to `wanted` idle spares for the job: how many it gets."""
        self.settle()
        taken = min(wanted, self.idle)
        self.idle -= taken
        return taken

    def repair(self, mean_s: float) -> None:
        """A broken node comes in, and is a spare once it is repaired."""
        self.settle()
        self.away += 1
        self._env.process(self._repaired(mean_s))

    def arrival(self) -> simpy.Event:
        """Fires when the next node is repaired."""
        if self._arrival is None:
            self._arrival = self._env.event()
        return self._arrival

    def _repaired(self, mean_s: float) -> Generator[simpy.Event, Any, None]:
        came_s = self._env.now
        time_s = mean_s * self._rng.standard_exponential()
        if self._crews is None:
            yield self._env.timeout(time_s)
        else:
            with self._crews.request() as crew:
                yield crew
                self.wait_s += self._env.now - came_s
                yield self._env.timeout(time_s)
        self.num_repairs += 1
        self.settle()
        self.away -= 1
        self.idle += 1
        if self._arrival is not None:
            arrival, self._arrival = self._arrival, None
            arrival.succeed()
