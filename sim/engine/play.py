"""Program -> Timeline, on SimPy.

An operation starts when everything that it comes after is done; order on streams is part of that. In the hot path
there is one heap event for an operation and one for a whole collective, on events that are used again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import simpy
from numpy.typing import NDArray
from simpy.events import NORMAL

from sim.cost.kernels import duration_s
from sim.cost.slowdown import slowdown_factor
from sim.engine.events import triggered
from sim.engine.fuse import Alone, Runs, fuse, unfused
from sim.engine.network import SharedNetwork, lone_rates, rivals
from sim.engine.runs import Part, Run
from sim.engine.slowdown import KIND_BITS, Beside, ComputeStreams
from sim.engine.timeline import Timeline
from sim.errors import SimError
from sim.program.operations import COMPUTE, STREAMS, Collective, Compute, Payload, Send
from sim.program.program import Program
from sim.program.ranks import STREAM_INDEX
from sim.spec.gpu import Gpu
from sim.spec.topology import Floats, Ints


@dataclass(frozen=True)
class _Plan:
    """What the loop reads: a run of operations by its number, as python lists.

    slot: first slot of each run.  duration_s: of the run; of a flow on the shared network, its latency alone.
    targets, cuts: number n is waited for by targets[cuts[n]:cuts[n + 1]], once for each edge.  pending: edges that it
    waits for.  moves: whether it is a flow on
    the shared network.  work: progress that it needs there.  flow: its number.  lane: the stream of a rank, one number
    for each.  computes: whether it is on a compute stream.  rank: its simulated rank.
    """

    slot: Ints
    duration_s: list[float]
    targets: tuple[int, ...]
    cuts: list[int]
    pending: list[int]
    moves: list[bool]
    work: list[float]
    flow: list[int]
    lane: list[int]
    computes: list[bool]
    rank: list[int]
    runs: list[Run | None]
    beside: Beside


@dataclass(frozen=True)
class _Costs:
    """Time of every slot alone, s, and for flows: their latency, their work, whether they share the network."""

    alone_s: Floats
    latency_s: Floats
    work: Floats
    is_shared: NDArray[np.bool_]


def play(program: Program, gpu: Gpu, *, slows_compute: bool = True) -> Timeline:
    """Play the step.

    slows_compute: whether kernels slow down while communication runs beside them.

    Raises SimError, with who waits for whom, when operations wait for each other in a circle.
    """
    kernel_s = tuple(
        tuple(duration_s(kernel, gpu) for kernel in payload.kernels) if isinstance(payload, Compute) else ()
        for payload in program.payloads
    )
    slows = np.array([_slows(payload, gpu) if slows_compute else 1.0 for payload in program.payloads])
    rivals_of = rivals(program.flows)
    costs = _costs(program, np.array([sum(times) for times in kernel_s]), rivals_of)
    if program.fidelity == "fused" and not program.is_irregular:
        runs = fuse(program, Alone(costs.alone_s, ~costs.is_shared, slows))
    else:
        runs = unfused(program, costs.alone_s)
    plan = _plan(program, costs, runs, slows)
    env = simpy.Environment()
    network = SharedNetwork(env, program.flows, rivals_of)
    loop = _Loop(env, network, plan)
    loop.run()
    if loop.num_done < len(plan.slot):
        raise SimError(_deadlock(program, plan))
    start_s, end_s = _expanded(program, plan, runs, loop)
    moved = network.moved + _fixed_progress(program, costs)
    return Timeline(program, start_s, end_s, kernel_s, moved, float(end_s.max()), len(plan.slot), network.settlements)


def _slows(payload: Payload, gpu: Gpu) -> float:
    """Factor on the time of kernels while the payload moves."""
    match payload:
        case Compute():
            return 1.0
        case Collective():
            return slowdown_factor(payload.op, gpu)
        case Send():
            return slowdown_factor("send", gpu)


def _costs(program: Program, compute_s: Floats, rivals_of: list[tuple[int, ...]]) -> _Costs:
    # A rank calls a payload in one flow, so that there are few different costs.
    flows, size = program.flows, len(program.payloads)
    cell = program.rank * size + program.payload
    flow = np.full(len(program.ranks) * size, -1, dtype=np.int64)
    flow[cell] = program.flow
    payload = np.tile(np.arange(size), len(program.ranks))
    moves = flow >= 0
    nbytes = np.array([getattr(each, "nbytes", 0.0) for each in program.payloads])
    work, latency_s = np.zeros(len(flow)), np.zeros(len(flow))
    alone_s = compute_s[payload]
    work[moves] = nbytes[payload[moves]] * flows.work_per_byte[flow[moves]]
    latency_s[moves] = flows.latency_s[flow[moves]]
    alone_s[moves] = latency_s[moves] + work[moves] / lone_rates(flows)[flow[moves]]
    is_shared = np.zeros(len(flow), dtype=bool)
    is_shared[moves] = np.array([bool(others) for others in rivals_of], dtype=bool)[flow[moves]]
    pace = np.where(program.flow < 0, program.pace, 1.0)
    return _Costs(alone_s[cell] * pace, latency_s[cell], work[cell], is_shared[cell])


def _plan(program: Program, costs: _Costs, runs: Runs, slows: Floats) -> _Plan:
    leader = runs.leader[program.node]
    slot = np.flatnonzero(leader == np.arange(len(leader)))
    number = np.empty(len(leader), dtype=np.int64)
    number[slot] = np.arange(len(slot))
    source, target = number[leader[program.source]], number[leader[program.target]]
    between = source != target
    source, target = source[between], target[between]
    shared = costs.is_shared[slot]
    targets, cuts = _grouped(source, target, len(slot))
    return _Plan(
        slot=slot,
        duration_s=np.where(shared, costs.latency_s[slot], runs.duration_s[slot]).tolist(),
        targets=targets,
        cuts=cuts,
        pending=np.bincount(target, minlength=len(slot)).tolist(),
        moves=shared.tolist(),
        work=costs.work[slot].tolist(),
        flow=program.flow[slot].tolist(),
        lane=(program.rank[slot] * len(STREAMS) + program.stream[slot]).tolist(),
        computes=(program.stream[slot] == STREAM_INDEX[COMPUTE]).tolist(),
        rank=program.rank[slot].tolist(),
        runs=[runs.of.get(each) for each in slot.tolist()] if runs.of else [None] * len(slot),
        beside=_beside(program, runs, slows, number),
    )


def _beside(program: Program, runs: Runs, slows: Floats, number: Ints) -> Beside:
    """Communication outside of runs that may run beside compute of its ranks, and of the receiver of a hop."""
    in_run = np.zeros(len(program.node), dtype=bool)
    in_run[runs.leader != program.node] = True
    in_run[list(runs.of)] = True
    moves = program.is_beside & (slows[program.payload] > 1.0) & ~in_run
    slots = np.flatnonzero(moves)
    hops = slots[program.receiver[slots] >= 0]
    joined = np.concatenate([number[program.node[slots]], number[program.node[hops]]])
    ranks = np.concatenate([program.rank[slots], program.receiver[hops]])
    of, first, members = np.unique(joined, return_index=True, return_inverse=True)
    slowed, cuts = _grouped(members, ranks, len(of))
    ranks_of = {each: slowed[lo:hi] for each, lo, hi in zip(of.tolist(), cuts, cuts[1:], strict=False)}
    kinds = sorted({payload.kind for payload in program.payloads if not isinstance(payload, Compute)})
    factors = [1.0] * len(kinds)
    unit_of_payload = []
    for payload, factor in zip(program.payloads, slows.tolist(), strict=True):
        kind = -1 if isinstance(payload, Compute) else kinds.index(payload.kind)
        unit_of_payload.append(1 << (KIND_BITS * kind) if kind >= 0 else 0)
        if kind >= 0:
            factors[kind] = factor
    moved = program.payload[np.concatenate([slots, hops])[first]].tolist()
    unit = {each: unit_of_payload[payload] for each, payload in zip(of.tolist(), moved, strict=True)}
    return Beside(ranks_of, unit, factors)


def _grouped(key: Ints, value: Ints, size: int) -> tuple[tuple[int, ...], list[int]]:
    """Values in the order of their keys, and where those of each key below `size` begin, with the end of the last."""
    order = np.argsort(key, kind="stable")
    cuts: list[int] = np.searchsorted(key[order], np.arange(size + 1)).tolist()
    return tuple(value[order].tolist()), cuts


class _Loop:
    """Starts what is ready, and when it ends counts it off what waits for it."""

    def __init__(self, env: simpy.Environment, network: SharedNetwork, plan: _Plan) -> None:
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
        self.compute = ComputeStreams(env, plan.beside, plan.runs, plan.rank, plan.duration_s, self._finish_all)
        network.on_end = self._finish

    def run(self) -> None:
        """Play until nothing is left that can start."""
        plan = self._plan
        first = [number for number, count in enumerate(plan.pending) if not count]
        for number in first:
            if not plan.computes[number]:
                self._communicate(number)
        if ready := [number for number in first if plan.computes[number]]:
            self.compute.start(ready)
        self._env.run()

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


def _expanded(program: Program, plan: _Plan, runs: Runs, loop: _Loop) -> tuple[Floats, Floats]:
    """Start and end of every slot, s, from those of the runs."""
    start_s, end_s = np.zeros(len(program.node)), np.zeros(len(program.node))
    start_s[plan.slot], end_s[plan.slot] = loop.starts, loop.ends
    if runs.of:
        expansion = _Expansion()
        for number, (slot, run) in enumerate(zip(plan.slot.tolist(), plan.runs, strict=True)):
            if run is None:
                continue
            if number in loop.compute.changed:
                for part in loop.compute.changed[number].parts():
                    expansion.add(slot, run, part)
            else:
                rate = loop.compute.slow_from_start.get(number, 1.0)
                expansion.add(slot, run, Part(0, len(run.phases), loop.starts[number], rate))
        expansion.write(start_s, end_s)
    return start_s[program.node], end_s[program.node]


class _Expansion:
    """Parts of runs. Steady ones are rows of a table: where their operations stand in the run's own times, how many,
    their run's first slot, a shift; of the others every operation is kept."""

    def __init__(self) -> None:
        self._tables: dict[tuple[Run, float], int] = {}
        self._size = 0
        self._rows: list[tuple[int, int, int]] = []
        self._shift_s: list[float] = []
        self._slots: list[int] = []
        self._start_s: list[float] = []
        self._end_s: list[float] = []

    def add(self, slot: int, run: Run, part: Part) -> None:
        """A part of the run that begins at `slot`."""
        phase, until, began_s, rate, played = part
        lo, hi = run.first[phase], run.first[until]
        if played is None:
            first = self._tables.get((run, rate))
            if first is None:
                first = self._tables[run, rate] = self._size
                self._size += len(run.inside)
            self._rows.append((first + lo, hi - lo, slot))
            self._shift_s.append(began_s - run.begin(phase, rate))
        else:
            self._slots += [slot + place for place in run.places[lo:hi]]
            self._start_s += [began_s + start for start in played[0]]
            self._end_s += [began_s + end for end in played[1]]

    def write(self, start_s: Floats, end_s: Floats) -> None:
        """Put the times of every operation at its slot."""
        start_s[self._slots], end_s[self._slots] = self._start_s, self._end_s
        if not self._rows:
            return
        inside = np.concatenate([run.inside for run, _ in self._tables])
        starts, ends = zip(*(run.offsets(rate) for run, rate in self._tables), strict=True)
        first, size, slot = np.array(self._rows, dtype=np.int64).T
        at = np.repeat(first - (np.cumsum(size) - size), size) + np.arange(size.sum())
        slots, shift_s = np.repeat(slot, size) + inside[at], np.repeat(self._shift_s, size)
        start_s[slots] = np.concatenate(starts)[at] + shift_s
        end_s[slots] = np.concatenate(ends)[at] + shift_s


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
    cuts = plan.cuts
    before = {target: source for source in sorted(waits) for target in plan.targets[cuts[source] : cuts[source + 1]]}
    path: list[int] = [min(waits)]
    while path[-1] not in path[:-1]:
        path.append(before[path[-1]])
    circle = path[path.index(path[-1]) :]
    lines = [f"  {program.label(int(plan.slot[number]))}" for number in circle]
    return f"deadlock: {len(waits)} operations wait for each other\n" + ", which waits for\n".join(lines)
