"""Program -> Timeline, on SimPy.

An operation starts when everything that it comes after is done, order on streams being part of that, and when its host
has issued it. In the hot path there is one heap event for a whole collective and one for the operations that compute in
lockstep.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import simpy
from simpy.events import NORMAL

from sim.cost.host import HostCosts
from sim.cost.pace import paced_s, straggling
from sim.engine.events import triggered
from sim.engine.expand import expanded
from sim.engine.fuse import Alone, fuse, unfused
from sim.engine.host import releases
from sim.engine.network import SharedNetwork, rivals
from sim.engine.plan import Plan, costs_of, fixed_progress, plan_of, slows_by
from sim.engine.slowdown import ComputeStreams
from sim.engine.timeline import Timeline
from sim.errors import SimError
from sim.program.operations import Compute
from sim.program.program import Program
from sim.spec.gpu import Gpu
from sim.spec.pace import ALONE, Pace


def play(
    program: Program,
    gpu: Gpu,
    *,
    pace: Pace = ALONE,
    num_gpus: int = 1,
    slows_compute: bool = True,
    host: HostCosts | None = None,
    shares_links: bool = True,
) -> Timeline:
    """Play the step.

    pace, num_gpus: how kernels run in it, and how many GPUs wait for the slowest.
    slows_compute: whether kernels slow down while communication runs beside them.  host: what issuing work costs; None
    where it is free.  shares_links: whether flows share links; else each moves as if it were alone, which no operation
    can beat.

    Raises SimError, with who waits for whom, when operations wait for each other in a circle.
    """
    late = straggling(pace, num_gpus)
    kernel_s = tuple(
        tuple(late * paced_s(kernel, gpu, pace) for kernel in payload.kernels) if isinstance(payload, Compute) else ()
        for payload in program.payloads
    )
    slows = np.array([slows_by(payload, gpu) if slows_compute else 1.0 for payload in program.payloads])
    rivals_of: list[tuple[int, ...]] = rivals(program.flows) if shares_links else [()] * len(program.flows)
    costs = costs_of(program, np.array([sum(times) for times in kernel_s]), rivals_of)
    release_s = releases(program, kernel_s, costs.alone_s, host)
    if program.fidelity == "fused" and not program.is_irregular:
        runs = fuse(program, Alone(costs.alone_s, ~costs.is_shared, release_s > 0, slows))
    else:
        runs = unfused(program, costs.alone_s)
    plan = plan_of(program, costs, runs, slows, release_s)
    env = simpy.Environment()
    network = SharedNetwork(env, program.flows, rivals_of)
    loop = _Loop(env, network, plan)
    loop.run()
    if loop.num_done < len(plan.slot):
        raise SimError(_deadlock(program, plan))
    start_s, end_s = expanded(program, plan, loop.starts, loop.ends, loop.compute)
    moved = network.moved + fixed_progress(program, costs)
    step_s, played = float(end_s.max()), len(plan.slot)
    return Timeline(program, start_s, end_s, release_s, kernel_s, moved, step_s, played, network.settlements)


@contextmanager
def _collector_rests() -> Iterator[None]:
    """The loop makes no garbage in cycles; the collector would walk all that it keeps, again and again, for nothing."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class _Loop:
    """Starts what is ready, and when it ends counts it off what waits for it."""

    def __init__(self, env: simpy.Environment, network: SharedNetwork, plan: Plan) -> None:
        self.starts, self.ends = [0.0] * len(plan.slot), [0.0] * len(plan.slot)
        self.num_done = 0
        self._env = env
        self._network = network
        self._plan = plan
        self._slows = plan.beside.ranks
        # One operation at a time runs on a stream, so each stream of each rank has one event, used again and again.
        self._events = [triggered(env) for _ in range(max(plan.lane) + 1)]
        self._on_end: list[Callable[[Any], None]] = [self._end]
        self._on_latency: list[Callable[[Any], None]] = [self._move]
        self._num_issues = 0
        self._next_issue = triggered(env)
        self._on_issue: list[Callable[[Any], None]] = [self._issue]
        self.compute = ComputeStreams(env, plan.beside, plan.runs, plan.rank, plan.duration_s, self._finish_all)
        network.on_end = self._finish

    def run(self) -> None:
        """Play until nothing is left that can start."""
        self._start([number for number, count in enumerate(self._plan.pending) if not count])
        self._await_host()
        with _collector_rests():
            self._env.run()

    def _start(self, numbers: list[int]) -> None:
        """All of `numbers` start now."""
        computes, now = self._plan.computes, self._env.now
        for number in numbers:
            self.starts[number] = now
            if not computes[number]:
                self._communicate(number)
        if ready := [number for number in numbers if computes[number]]:
            self.compute.start(ready)

    def _await_host(self) -> None:
        """Have `_issue` called when hosts issue the next operations that they may hold up."""
        issues = self._plan.issues
        if self._num_issues < len(issues):
            self._next_issue.callbacks = self._on_issue
            # Moments that differ in the last digit only may be past by rounding.
            self._env.schedule(self._next_issue, NORMAL, max(issues[self._num_issues][0] - self._env.now, 0.0))

    def _issue(self, _: simpy.Event) -> None:
        pending = self._plan.pending
        numbers = self._plan.issues[self._num_issues][1]
        self._num_issues += 1
        for number in numbers:
            pending[number] -= 1
        self._start([number for number in numbers if not pending[number]])
        self._await_host()

    def _finish_all(self, numbers: Sequence[int]) -> None:
        plan, now, starts, ends = self._plan, self._env.now, self.starts, self.ends
        targets, cuts, pending, computes = plan.targets, plan.cuts, plan.pending, plan.computes
        ready: list[int] = []
        for number in numbers:
            ends[number] = now
            for target in targets[cuts[number] : cuts[number + 1]]:
                left = pending[target] = pending[target] - 1
                if not left:
                    starts[target] = now
                    if computes[target]:
                        ready.append(target)
                    else:
                        self._communicate(target)
        self.num_done += len(numbers)
        if ready:
            self.compute.start(ready)

    def _communicate(self, number: int) -> None:
        plan = self._plan
        if number in self._slows:
            self.compute.communication(number, 1)
        event = self._events[plan.lane[number]]
        event._value = number  # noqa: SLF001 - as in `triggered`
        event.callbacks = self._on_latency if plan.moves[number] else self._on_end
        self._env.schedule(event, NORMAL, plan.duration_s[number])

    def _finish(self, number: int) -> None:
        if number in self._slows:
            self.compute.communication(number, -1)
        self._finish_all((number,))

    def _end(self, event: simpy.Event) -> None:
        self._finish(event._value)  # noqa: SLF001 - as in `triggered`

    def _move(self, event: simpy.Event) -> None:
        number: int = event._value  # noqa: SLF001 - as in `triggered`
        self._network.start(self._plan.flow[number], self._plan.work[number], number)


def _deadlock(program: Program, plan: Plan) -> str:
    """A circle of operations that wait for each other."""
    waits = {number for number, count in enumerate(plan.pending) if count}
    cuts = plan.cuts
    before = {target: source for source in sorted(waits) for target in plan.targets[cuts[source] : cuts[source + 1]]}
    path: list[int] = [min(waits)]
    while path[-1] not in path[:-1]:
        path.append(before[path[-1]])
    circle = path[path.index(path[-1]) :]
    lines = [f"  {program.label(int(plan.slot[number]))}" for number in circle]
    return f"deadlock: {len(waits)} operations wait for each other\n" + ", which waits for\n".join(lines)
