"""What the loop reads: costs of every operation, and runs and operations by number, with who waits for whom."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.cost.slowdown import slowdown_factor
from sim.engine.fuse import Runs
from sim.engine.network import lone_rates
from sim.engine.runs import Run
from sim.engine.slowdown import KIND_BITS, Beside
from sim.program.operations import COMPUTE, STREAMS, Collective, Compute, Payload, Send
from sim.program.program import Program
from sim.program.ranks import STREAM_INDEX
from sim.spec.gpu import Gpu
from sim.spec.topology import Floats, Ints


@dataclass(frozen=True)
class Plan:
    """What the loop reads: a run of operations by its number, as python lists.

    slot: first slot of each run.  duration_s: of the run; of a flow on the shared network, its latency alone.
    targets, cuts: number n is waited for by targets[cuts[n]:cuts[n + 1]], once for each edge.  pending: edges that it
    waits for.  moves: whether it is a flow on the shared network.  work: progress that it needs there.  flow: its
    number.  lane: the stream of a rank, one number for each.  computes: whether it is on a compute stream.  rank: its
    simulated rank.  runs: the run that it is, None for an operation.  beside: what it slows.
    issues: (moment, numbers that hosts issue then), in the order of time: one more thing that those wait for.
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
    issues: list[tuple[float, list[int]]]


@dataclass(frozen=True)
class Costs:
    """Time of every slot alone, s, and for flows: their latency, their work, whether they share the network."""

    alone_s: Floats
    latency_s: Floats
    work: Floats
    is_shared: NDArray[np.bool_]


def slows_by(payload: Payload, gpu: Gpu) -> float:
    """Factor on the time of kernels while the payload moves."""
    match payload:
        case Compute():
            return 1.0
        case Collective():
            return slowdown_factor(payload.op, gpu)
        case Send():
            return slowdown_factor("send", gpu)


def costs_of(program: Program, compute_s: Floats, rivals_of: list[tuple[int, ...]]) -> Costs:
    """Costs of every slot. A rank calls a payload in one flow, so that few of them differ.

    compute_s: (payloads,) time of kernels.  rivals_of: see `sim.engine.network.rivals`.
    """
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
    return Costs(alone_s[cell] * pace, latency_s[cell], work[cell], is_shared[cell])


def plan_of(program: Program, costs: Costs, runs: Runs, slows: Floats, release_s: Floats) -> Plan:
    """Number the runs and the operations outside of them. slows: (payloads,), see `slows_by`.  release_s: (slots,), see
    `sim.engine.host.releases`."""
    leader = runs.leader[program.node]
    slot = np.flatnonzero(leader == np.arange(len(leader)))
    number = np.empty(len(leader), dtype=np.int64)
    number[slot] = np.arange(len(slot))
    source, target = number[leader[program.source]], number[leader[program.target]]
    between = source != target
    source, target = source[between], target[between]
    shared = costs.is_shared[slot]
    targets, cuts = _grouped(source, target, len(slot))
    is_held = release_s[slot] > 0
    return Plan(
        slot=slot,
        duration_s=np.where(shared, costs.latency_s[slot], runs.duration_s[slot]).tolist(),
        targets=targets,
        cuts=cuts,
        pending=(np.bincount(target, minlength=len(slot)) + is_held).tolist(),
        moves=shared.tolist(),
        work=costs.work[slot].tolist(),
        flow=program.flow[slot].tolist(),
        lane=(program.rank[slot] * len(STREAMS) + program.stream[slot]).tolist(),
        computes=(program.stream[slot] == STREAM_INDEX[COMPUTE]).tolist(),
        rank=program.rank[slot].tolist(),
        runs=[runs.of.get(each) for each in slot.tolist()] if runs.of else [None] * len(slot),
        beside=_beside(program, runs, slows, number),
        issues=_issues(np.flatnonzero(is_held), release_s[slot[is_held]]),
    )


def _issues(number: Ints, release_s: Floats) -> list[tuple[float, list[int]]]:
    """Numbers by the moment at which they are issued."""
    moments, place = np.unique(release_s, return_inverse=True)
    issued, cuts = _grouped(place, number, len(moments))
    return [(when, list(issued[lo:hi])) for when, lo, hi in zip(moments.tolist(), cuts, cuts[1:], strict=False)]


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
    # Transfers of one kind count once, so that each kind with a factor of its own has its place in the ranks' codes.
    pairs = [
        None if isinstance(payload, Compute) else (payload.kind, factor)
        for payload, factor in zip(program.payloads, slows.tolist(), strict=True)
    ]
    kinds = sorted({pair for pair in pairs if pair is not None})
    unit_of_payload = [0 if pair is None else 1 << (KIND_BITS * kinds.index(pair)) for pair in pairs]
    moved = program.payload[np.concatenate([slots, hops])[first]].tolist()
    unit = {each: unit_of_payload[payload] for each, payload in zip(of.tolist(), moved, strict=True)}
    return Beside(ranks_of, unit, [factor for _, factor in kinds])


def _grouped(key: Ints, value: Ints, size: int) -> tuple[tuple[int, ...], list[int]]:
    """Values in the order of their keys, and where those of each key below `size` begin, with the end of the last."""
    order = np.argsort(key, kind="stable")
    cuts: list[int] = np.searchsorted(key[order], np.arange(size + 1)).tolist()
    return tuple(value[order].tolist()), cuts


def fixed_progress(program: Program, costs: Costs) -> Floats:
    """Progress of the flows that the shared network never saw: rate x time without the latency."""
    fixed = program.nodes()
    fixed = fixed[(program.flow[fixed] >= 0) & ~costs.is_shared[fixed] & (costs.work[fixed] > 0)]
    flow = program.flow[fixed]
    moved_s = costs.alone_s[fixed] - costs.latency_s[fixed]
    moved = np.bincount(flow, weights=lone_rates(program.flows)[flow] * moved_s, minlength=len(program.flows))
    return moved.astype(np.float64)
