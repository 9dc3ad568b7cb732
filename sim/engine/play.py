"""Program -> Timeline, on SimPy.

An operation starts when everything that it comes after is done; order on streams is part of that. In the hot path
there is one heap event for an operation and one for a whole collective, on events that are used again.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import simpy
from numpy.typing import NDArray
from simpy.events import NORMAL

from sim.cost.kernels import duration_s
from sim.engine.events import triggered
from sim.engine.fuse import Runs, fuse, unfused
from sim.engine.network import SharedNetwork, lone_rates, rivals
from sim.engine.timeline import Timeline
from sim.errors import SimError
from sim.program.operations import STREAMS, Compute
from sim.program.program import Program
from sim.spec.gpu import Gpu
from sim.spec.topology import Floats, Ints


@dataclass(frozen=True)
class _Plan:
    """What the loop reads: a run of operations by its number, as python lists.

    slot: first slot of each run.  duration_s: of the run; of a flow on the shared network, its latency alone.
    after: runs that wait for it, once for each edge.  pending: edges that it waits for.  moves: whether it is a flow on
    the shared network.  work: progress that it needs there.  flow: its number.  lane: the stream of a rank, one number
    for each.
    """

    slot: Ints
    duration_s: list[float]
    after: list[tuple[int, ...]]
    pending: list[int]
    moves: list[bool]
    work: list[float]
    flow: list[int]
    lane: list[int]


@dataclass(frozen=True)
class _Costs:
    """Time of every slot alone, s, and for flows: their latency, their work, whether they share the network."""

    alone_s: Floats
    latency_s: Floats
    work: Floats
    is_shared: NDArray[np.bool_]


def play(program: Program, gpu: Gpu) -> Timeline:
    """Play the step.

    Raises SimError, with who waits for whom, when operations wait for each other in a circle.
    """
    kernel_s = tuple(
        tuple(duration_s(kernel, gpu) for kernel in payload.kernels) if isinstance(payload, Compute) else ()
        for payload in program.payloads
    )
    rivals_of = rivals(program.flows)
    costs = _costs(program, np.array([sum(times) for times in kernel_s]), rivals_of)
    is_fused = program.fidelity == "fused"
    runs = fuse(program, costs.alone_s, ~costs.is_shared) if is_fused else unfused(program, costs.alone_s)
    plan = _plan(program, costs, runs)
    env = simpy.Environment()
    network = SharedNetwork(env, program.flows, rivals_of)
    starts, ends, num_done = _run(env, network, plan)
    if num_done < len(plan.slot):
        raise SimError(_deadlock(program, plan))
    run_start_s, run_end_s = np.zeros(len(program.node)), np.zeros(len(program.node))
    run_start_s[plan.slot], run_end_s[plan.slot] = starts, ends
    node = program.node
    start_s = run_start_s[runs.leader[node]] + runs.offset_s[node]
    end_s = np.where(costs.is_shared, run_end_s[node], start_s + costs.alone_s)
    moved = network.moved + _fixed_progress(program, costs)
    return Timeline(program, start_s, end_s, kernel_s, moved, float(end_s.max()), len(plan.slot), network.settlements)


def _costs(program: Program, compute_s: Floats, rivals_of: list[tuple[int, ...]]) -> _Costs:
    flows, flow = program.flows, program.flow
    moves = flow >= 0
    nbytes = np.array([getattr(payload, "nbytes", 0.0) for payload in program.payloads])
    work = np.zeros(len(flow))
    latency_s = np.zeros(len(flow))
    alone_s = compute_s[program.payload]
    work[moves] = nbytes[program.payload[moves]] * flows.work_per_byte[flow[moves]]
    latency_s[moves] = flows.latency_s[flow[moves]]
    alone_s[moves] = latency_s[moves] + work[moves] / lone_rates(flows)[flow[moves]]
    is_shared = np.zeros(len(flow), dtype=bool)
    is_shared[moves] = np.array([bool(others) for others in rivals_of], dtype=bool)[flow[moves]]
    return _Costs(alone_s, latency_s, work, is_shared)


def _plan(program: Program, costs: _Costs, runs: Runs) -> _Plan:
    leader = runs.leader[program.node]
    slot = np.flatnonzero(leader == np.arange(len(leader)))
    number = np.empty(len(leader), dtype=np.int64)
    number[slot] = np.arange(len(slot))
    source, target = number[leader[program.source]], number[leader[program.target]]
    between = source != target
    source, target = source[between], target[between]
    order = np.argsort(source, kind="stable")
    targets = tuple(target[order].tolist())  # whose slices the garbage collector need not watch
    cuts = np.searchsorted(source[order], np.arange(len(slot) + 1)).tolist()
    shared = costs.is_shared[slot]
    return _Plan(
        slot=slot,
        duration_s=np.where(shared, costs.latency_s[slot], runs.duration_s[slot]).tolist(),
        after=[targets[lo:hi] for lo, hi in itertools.pairwise(cuts)],
        pending=np.bincount(target, minlength=len(slot)).tolist(),
        moves=shared.tolist(),
        work=costs.work[slot].tolist(),
        flow=program.flow[slot].tolist(),
        lane=(program.rank[slot] * len(STREAMS) + program.stream[slot]).tolist(),
    )


def _run(env: simpy.Environment, network: SharedNetwork, plan: _Plan) -> tuple[list[float], list[float], int]:
    """The loop: start what is ready, and when it ends count it off what waits for it. Starts, ends, how many ended."""
    starts, ends = [0.0] * len(plan.slot), [0.0] * len(plan.slot)
    after, pending, duration_s, work, lane = plan.after, plan.pending, plan.duration_s, plan.work, plan.lane
    # One operation at a time runs on a stream, so each stream of each rank has one event, used again and again.
    events = [triggered(env) for _ in range(max(lane) + 1)]
    schedule = env.schedule
    num_done = 0

    def finish(number: int) -> None:
        nonlocal num_done
        num_done += 1
        ends[number] = now = env.now
        for target in after[number]:
            left = pending[target] = pending[target] - 1
            if not left:
                starts[target] = now
                event = events[lane[target]]
                event._value, event.callbacks = target, calls[target]  # noqa: SLF001 - as in `triggered`
                schedule(event, NORMAL, duration_s[target])

    def end(event: simpy.Event) -> None:
        finish(event._value)  # noqa: SLF001 - as in `triggered`

    def move(event: simpy.Event) -> None:
        number: int = event._value  # noqa: SLF001 - as in `triggered`
        network.start(plan.flow[number], work[number], number)

    on_end: list[Callable[[Any], None]] = [end]
    on_latency: list[Callable[[Any], None]] = [move]
    calls = [on_latency if moves else on_end for moves in plan.moves]
    network.on_end = finish
    for number in [number for number, count in enumerate(pending) if not count]:
        event = events[lane[number]]
        event._value, event.callbacks = number, calls[number]  # noqa: SLF001 - as in `triggered`
        schedule(event, NORMAL, duration_s[number])
    env.run()
    return starts, ends, num_done


def _fixed_progress(program: Program, costs: _Costs) -> Floats:
    """Progress of the flows that the shared network never saw: rate x time without the latency."""
    fixed = program.nodes()
    fixed = fixed[(program.flow[fixed] >= 0) & ~costs.is_shared[fixed] & (costs.work[fixed] > 0)]
    flow = program.flow[fixed]
    moved_s = costs.alone_s[fixed] - costs.latency_s[fixed]
    moved = np.bincount(flow, weights=lone_rates(program.flows)[flow] * moved_s, minlength=len(program.flows))
    return moved.astype(np.float64)


def _deadlock(program: Program, plan: _Plan) -> str:
    """A circle of operations that wait for each other."""
    waits = {number for number, count in enumerate(plan.pending) if count}
    before = {target: source for source in sorted(waits) for target in plan.after[source]}
    path: list[int] = [min(waits)]
    while path[-1] not in path[:-1]:
        path.append(before[path[-1]])
    circle = path[path.index(path[-1]) :]
    lines = [f"  {program.label(int(plan.slot[number]))}" for number in circle]
    return f"deadlock: {len(waits)} operations wait for each other\n" + ", which waits for\n".join(lines)
