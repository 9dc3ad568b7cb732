"""Accounts of a run: every second of every node to one cause, every step kept or lost once."""

from __future__ import annotations

import math
from dataclasses import dataclass

GOOGLE = {
    "progress": "PRODUCTIVE",
    "straggler": "OTHER",
    "degraded": "OTHER",
    "lost": "WASTED_PROGRESS_FROM_DISRUPTION",
    "checkpoint": "UNPRODUCTIVE_CHECKPOINT_SAVE_TIME",
    "detect": "INFRASTRUCTURE_RECOVERY_FROM_DISRUPTION",
    "diagnose": "INFRASTRUCTURE_RECOVERY_FROM_DISRUPTION",
    "reschedule": "INFRASTRUCTURE_RECOVERY_FROM_DISRUPTION",
    "wait_spare": "INFRASTRUCTURE_RECOVERY_FROM_DISRUPTION",
    "reconfigure": "INFRASTRUCTURE_RECOVERY_FROM_DISRUPTION",
    "init": "TPU_INITIALIZATION",
    "load": "UNPRODUCTIVE_CHECKPOINT_RESTORE_TIME",
    "catch_up": "PROGRAM_STARTUP",
    "alarm": "CUSTOM_BADPUT_EVENTS",
}
"""Causes of the job's time, and the class that each is in https://github.com/AI-Hypercomputer/ml-goodput-measurement,
so that measured logs can be laid beside them."""

CAUSES = tuple(GOOGLE)
OF_SPARES = ("spare_idle", "repair")
"""Causes of time of nodes that the job has not."""

TOLERANCE = 1e-9


@dataclass
class _Run:
    """Steps that stand, one after the other, each with the same times: ideal, and lost to stragglers and elasticity."""

    first: int
    steps: int
    step_s: float
    straggler_s: float
    degraded_s: float
    nodes: int


class Ledger:
    """What happened so far. Seconds are of the job, node-seconds of the nodes that it held."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(CAUSES, 0.0)
        self.node_seconds = dict.fromkeys(CAUSES, 0.0)
        self.executed = 0
        self.replayed = 0
        self.lost = 0
        self.reached = 0
        self._runs: list[_Run] = []

    def spend(self, cause: str, time_s: float, nodes: int) -> None:
        """Time of the job while it holds `nodes`."""
        self.seconds[cause] += time_s
        self.node_seconds[cause] += time_s * nodes

    def execute(self, run: tuple[int, int], step_s: float, straggler_s: float, degraded_s: float, nodes: int) -> None:
        """`run` = (first, steps) are done, each in `step_s` and what stragglers and missing replicas add."""
        first, steps = run
        if not steps:
            return
        assert first == self.committed, "steps are done in order"
        self._book(steps, (step_s, straggler_s, degraded_s), nodes)
        self.executed += steps
        self.replayed += max(0, min(first + steps, self.reached) - first)
        self.reached = max(self.reached, first + steps)
        self._runs.append(_Run(first, steps, step_s, straggler_s, degraded_s, nodes))

    def roll_back(self, step: int) -> None:
        """Steps after `step` are lost, with all the time that they took."""
        while self._runs and self._runs[-1].first + self._runs[-1].steps > step:
            run = self._runs[-1]
            gone = min(run.steps, run.first + run.steps - step)
            times = (run.step_s, run.straggler_s, run.degraded_s)
            self._book(-gone, times, run.nodes)
            self.spend("lost", gone * sum(times), run.nodes)
            self.lost += gone
            run.steps -= gone
            if not run.steps:
                self._runs.pop()

    def _book(self, steps: int, times: tuple[float, float, float], nodes: int) -> None:
        for cause, time_s in zip(("progress", "straggler", "degraded"), times, strict=True):
            if time_s:
                self.spend(cause, steps * time_s, nodes)

    @property
    def committed(self) -> int:
        """Steps that stand."""
        return self._runs[-1].first + self._runs[-1].steps if self._runs else 0

    def violations(self, wall_s: float, fleet_node_s: float, spares_node_s: float) -> list[str]:
        """What does not add up: an empty list."""
        found = []
        if not math.isclose(sum(self.seconds.values()), wall_s, rel_tol=TOLERANCE, abs_tol=1e-6):
            found.append(f"causes take {sum(self.seconds.values())!r} s of {wall_s!r}")
        nodes_s = sum(self.node_seconds.values()) + spares_node_s
        if not math.isclose(nodes_s, fleet_node_s, rel_tol=TOLERANCE, abs_tol=1e-6):
            found.append(f"nodes take {nodes_s!r} node-seconds of {fleet_node_s!r}")
        if self.executed != self.committed + self.lost:
            found.append(f"{self.executed} steps done, but {self.committed} kept and {self.lost} lost")
        if self.executed != self.reached + self.replayed:
            found.append(f"{self.executed} steps done, but {self.reached} once and {self.replayed} again")
        ends = [run.first + run.steps for run in self._runs]
        if [run.first for run in self._runs] != [0, *ends[:-1]][: len(ends)]:
            found.append("steps that stand are not in one row")
        least = min((*self.seconds.values(), *self.node_seconds.values()))
        if least < -1e-6 * max(1.0, fleet_node_s):
            found.append(f"a cause has {least!r} s")
        return found
