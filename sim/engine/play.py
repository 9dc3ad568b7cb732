"""Program -> Timeline, on SimPy.

An operation starts when everything that it comes after is done; order on streams is part of that. In the hot path
there is one heap event for an operation and one for a whole collective, on events that are used again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import simpy

from sim.cost.kernels import duration_s
from sim.engine.network import SharedNetwork, heavy_flows, lone_rates, rivals
from sim.engine.timeline import Timeline
from sim.errors import SimError
from sim.program.operations import STREAMS, Compute
from sim.program.program import Program
from sim.spec.gpu import Gpu
from sim.spec.topology import Floats, Ints

NORMAL = 1
MOVING = -1.0


@dataclass(frozen=True)
class _Plan:
    """What the loop reads: python lists by node. duration_s is negative for flows on the shared network."""

    duration_s: list[float]
    after: list[list[int]]
    pending: list[int]
    latency_s: list[float]
    work: list[float]
    is_shared: list[bool]


def play(program: Program, gpu: Gpu) -> Timeline:
    """Play the step.

    Raises SimError, with who waits for whom, when operations wait for each other in a circle.
    """
    kernel_s = tuple(
        tuple(duration_s(kernel, gpu) for kernel in payload.kernels) if isinstance(payload, Compute) else ()
        for payload in program.payloads
    )
    rivals_of = rivals(program.flows, heavy_flows(program))
    plan = _plan(program, np.array([sum(times) for times in kernel_s]), rivals_of)
    env = simpy.Environment()
    network = SharedNetwork(env, program.flows, rivals_of)
    starts, ends, num_done = _run(env, network, program, plan)
    nodes = program.nodes()
    if num_done < len(nodes):
        raise SimError(_deadlock(program, plan.pending, nodes))
    node = program.node
    start_s, end_s = np.array(starts)[node], np.array(ends)[node]
    moved = network.moved + _fixed_progress(program, plan, nodes)
    step_s = float(end_s.max())
    return Timeline(program, start_s, end_s, kernel_s, moved, step_s, network.settlements)


def _plan(program: Program, compute_s: Floats, rivals_of: list[tuple[int, ...]]) -> _Plan:
    flows, flow = program.flows, program.flow
    moves = flow >= 0
    nbytes = np.array([getattr(payload, "nbytes", 0.0) for payload in program.payloads])
    work = np.zeros(len(flow))
    latency = np.zeros(len(flow))
    duration = compute_s[program.payload]
    work[moves] = nbytes[program.payload[moves]] * flows.work_per_byte[flow[moves]]
    latency[moves] = flows.latency_s[flow[moves]]
    duration[moves] = latency[moves] + work[moves] / lone_rates(flows)[flow[moves]]
    is_shared = np.zeros(len(flow), dtype=bool)
    meets = np.array([bool(others) for others in rivals_of], dtype=bool)
    is_shared[moves] = meets[flow[moves]]
    order = np.argsort(program.source, kind="stable")
    targets = program.target[order].tolist()
    cuts = np.searchsorted(program.source[order], np.arange(len(flow) + 1)).tolist()
    return _Plan(
        duration_s=np.where(is_shared, MOVING, duration).tolist(),
        after=[targets[cuts[i] : cuts[i + 1]] for i in range(len(flow))],
        pending=np.bincount(program.target, minlength=len(flow)).tolist(),
        latency_s=latency.tolist(),
        work=work.tolist(),
        is_shared=is_shared.tolist(),
    )


def _run(
    env: simpy.Environment, network: SharedNetwork, program: Program, plan: _Plan
) -> tuple[list[float], list[float], int]:
    """The loop: start what is ready, and when it ends count it off what waits for it."""
    size = len(plan.duration_s)
    starts, ends = [0.0] * size, [0.0] * size
    after, pending, duration_s = plan.after, plan.pending, plan.duration_s
    flow_of = program.flow.tolist()
    # One operation at a time runs on a stream, so each stream of each rank has one event, used again and again.
    lane = (program.rank * len(STREAMS) + program.stream).tolist()
    events = [_triggered(env) for _ in range(len(program.ranks) * len(STREAMS))]
    schedule = env.schedule
    num_done = 0

    def start(node: int) -> None:
        starts[node] = env.now
        duration = duration_s[node]
        if duration >= 0:
            event = events[lane[node]]
            event._value = node  # noqa: SLF001 - a triggered event that is used again
            event.callbacks = on_end
            schedule(event, NORMAL, duration)
        else:
            event = _triggered(env)
            event.callbacks.append(lambda _: network.start(flow_of[node], plan.work[node], lambda: finish(node)))
            schedule(event, NORMAL, plan.latency_s[node])

    def finish(node: int) -> None:
        nonlocal num_done
        num_done += 1
        ends[node] = env.now
        for target in after[node]:
            left = pending[target] - 1
            pending[target] = left
            if not left:
                start(target)

    def end(event: simpy.Event) -> None:
        finish(event._value)  # noqa: SLF001 - as above

    on_end = [end]
    for node in program.nodes()[np.array(pending)[program.nodes()] == 0].tolist():
        start(node)
    env.run()
    return starts, ends, num_done


def _triggered(env: simpy.Environment) -> simpy.Event:
    event = simpy.Event(env)
    event._ok, event._value = True, None  # noqa: SLF001 - SimPy has no public way to make a triggered, unscheduled event
    return event


def _fixed_progress(program: Program, plan: _Plan, nodes: Ints) -> Floats:
    """Progress of the flows that the shared network never saw: rate x time without the latency."""
    moved = np.zeros(len(program.flows))
    rate = lone_rates(program.flows)
    fixed = nodes[(program.flow[nodes] >= 0) & ~np.array(plan.is_shared)[nodes]]
    flow = program.flow[fixed]
    time = np.array(plan.duration_s)[fixed] - np.array(plan.latency_s)[fixed]
    np.add.at(moved, flow, rate[flow] * time)
    return moved


def _deadlock(program: Program, pending: list[int], nodes: Ints) -> str:
    """A circle of operations that wait for each other."""
    waits = {node for node in nodes.tolist() if pending[node] > 0}
    before: dict[int, list[int]] = {}
    for source, target in zip(program.source.tolist(), program.target.tolist(), strict=True):
        if target in waits and source in waits:
            before.setdefault(target, []).append(source)
    path: list[int] = [min(waits)]
    while before.get(path[-1]):
        path.append(before[path[-1]][0])
        if path[-1] in path[:-1]:
            break
    circle = path[path.index(path[-1]) :]
    lines = [f"  {program.label(node)}  waits for" for node in circle]
    return f"deadlock: {len(waits)} operations wait for each other\n" + "\n".join(lines)
