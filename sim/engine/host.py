"""When the host of each rank has issued an operation, where the GPU may have to wait for that.

The host never waits, so that its moments are sums over the operations of its rank, in their order, and known before the
step is played. Most operations cannot start before theirs anyway: the kernels before them on the stream take longer
than their launches. Only the others are held.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sim.cost.host import HostCosts, issue_s, lead_s
from sim.program.operations import COMPUTE, Compute, Payload
from sim.program.program import Program
from sim.program.ranks import STREAM_INDEX
from sim.spec.topology import Floats

KernelTimes = tuple[tuple[float, ...], ...]
"""Of each payload, the times of its kernels, s."""

ROUNDS = 4
"""Calls of communication that follow each other with no kernel between: so far a bound on their start is carried."""


def releases(program: Program, kernel_s: KernelTimes, alone_s: Floats, host: HostCosts | None) -> Floats:
    """Moment before which a node may not start, s: (slots,), 0 where it could not anyway.

    alone_s: (slots,) time of each when nothing else runs, which no operation can beat.
    A node is issued when the last of its members' hosts has issued it. Exact where nothing slows kernels down: see
    `sim.cost.host.lead_s`.
    """
    if host is None:
        return np.zeros(len(program.node))
    issued_s = _issued_s(program, kernel_s, host)
    computes = program.stream == STREAM_INDEX[COMPUTE]
    earliest_s, started_s = np.zeros(len(issued_s)), issued_s.copy()
    for rank in program.ranks:
        slots = rank.first + np.flatnonzero(computes[rank.first : rank.end])
        work_s = alone_s[slots]
        before_s = np.cumsum(work_s) - work_s
        latest_s = np.maximum.accumulate(np.append(0.0, issued_s[slots] - before_s))
        earliest_s[slots] = before_s + latest_s[:-1]
        started_s[slots] = before_s + latest_s[1:]
    _carry_to_communication(program, computes, alone_s, earliest_s, started_s)
    issued_s[(issued_s <= earliest_s) | (program.node != np.arange(len(issued_s)))] = 0.0
    return issued_s


def _carry_to_communication(
    program: Program, computes: NDArray[np.bool_], alone_s: Floats, earliest_s: Floats, started_s: Floats
) -> None:
    """Write when communication could start at the earliest: after what it comes after.

    computes: (slots,) whether on the compute stream.  earliest_s: (slots,) bound on the start of each node, leaving out
    when it is issued itself.  started_s: the same with that. Both are known for compute; for communication they come in
    as 0 and the moment at which it is issued.
    """
    edges = np.flatnonzero(~computes[program.target])
    source, target = program.source[edges], program.target[edges]
    after_kernel = computes[source]
    ended_s = started_s + alone_s
    np.maximum.at(earliest_s, target[after_kernel], ended_s[source[after_kernel]])
    np.maximum(started_s, earliest_s, out=started_s)
    source, target = source[~after_kernel], target[~after_kernel]
    for _ in range(ROUNDS):
        np.maximum.at(earliest_s, target, started_s[source] + alone_s[source])
        started_s[target] = np.maximum(started_s[target], earliest_s[target])


def _issued_s(program: Program, kernel_s: KernelTimes, host: HostCosts) -> Floats:
    """When each node is issued, so that none of its kernels waits for its launch: (slots,); of all its members."""
    cost_s = np.array([_cost_s(payload, host) for payload in program.payloads])[program.payload]
    issued_s: Floats = _lead_s(program, kernel_s, host) - cost_s
    for rank in program.ranks:
        issued_s[rank.first : rank.end] += np.cumsum(cost_s[rank.first : rank.end])
    joined = np.flatnonzero(program.node != np.arange(len(program.node)))
    np.maximum.at(issued_s, program.node[joined], issued_s[joined])
    return issued_s


def _cost_s(payload: Payload, host: HostCosts) -> float:
    return issue_s(payload.kernels, host) if isinstance(payload, Compute) else host.collective_s


def _lead_s(program: Program, kernel_s: KernelTimes, host: HostCosts) -> Floats:
    """How long after the host begins to issue it an operation may start: (slots,)."""
    even = np.ones(1)
    lead = np.array(
        [float(_of_payload(*each, even, host)[0]) for each in zip(program.payloads, kernel_s, strict=True)]
    )[program.payload]
    uneven = np.flatnonzero(program.pace != 1.0)
    if not len(uneven):
        return lead
    uneven = uneven[np.argsort(program.payload[uneven], kind="stable")]
    numbers, first = np.unique(program.payload[uneven], return_index=True)
    for number, slots in zip(numbers.tolist(), np.split(uneven, first[1:]), strict=True):
        lead[slots] = _of_payload(program.payloads[number], kernel_s[number], program.pace[slots], host)
    return lead


def _of_payload(payload: Payload, times_s: tuple[float, ...], pace: Floats, host: HostCosts) -> Floats:
    if isinstance(payload, Compute):
        return lead_s(payload.kernels, times_s, pace, host)
    return np.full(len(pace), host.collective_s)
