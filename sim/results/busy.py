"""What the compute stream was busy with, and what communication ran beside it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sim.engine.timeline import Timeline
from sim.program.operations import COMPUTE, Compute, Send
from sim.program.ranks import STREAM_INDEX
from sim.results.idle import SAME_INSTANT, Window, compute_slots
from sim.spec.topology import Floats, Ints

COMPUTE_SLOWDOWN = "compute_slowdown"


def busy_s(timeline: Timeline, rank: int) -> dict[str, float]:
    """Seconds of each kind of kernel on a simulated rank, and by how much longer they took because communication ran
    beside them; kernels that run again in the backward pass are `recompute`."""
    program = timeline.program
    slots = compute_slots(timeline, rank)
    payload, pace = program.payload[slots], program.pace[slots]
    weights = np.bincount(payload, weights=pace, minlength=len(program.payloads)).tolist()
    total: dict[str, float] = {}
    for weight, each, times in zip(weights, program.payloads, timeline.kernel_s, strict=True):
        if weight and isinstance(each, Compute):
            for kernel, time in zip(each.kernels, times, strict=True):
                cause = "recompute" if each.is_recompute else kernel.cause
                total[cause] = total.get(cause, 0.0) + weight * time
    longer_s = float((timeline.end_s[slots] - timeline.start_s[slots]).sum()) - sum(total.values())
    assert longer_s >= -SAME_INSTANT * timeline.step_s * len(slots), "kernels are faster than alone"
    if longer_s > SAME_INSTANT * timeline.step_s * len(slots):
        total[COMPUTE_SLOWDOWN] = longer_s
    return total


@dataclass(frozen=True)
class Communication:
    """Time in which communication of a kind runs on a rank, and the part in which compute runs too, s."""

    running_s: float
    overlapped_s: float


def _union(start_s: Floats, end_s: Floats) -> tuple[Floats, Floats]:
    """Merged intervals."""
    order = np.argsort(start_s, kind="stable")
    start_s, end_s = start_s[order], np.maximum.accumulate(end_s[order])
    is_new = np.concatenate([[True], start_s[1:] > end_s[:-1]])
    last = np.concatenate([np.flatnonzero(is_new)[1:] - 1, [len(start_s) - 1]])
    return start_s[is_new], end_s[last]


def communication(timeline: Timeline, rank: int, within: Window | None = None) -> dict[str, Communication]:
    """By kind, and `all` for the union of all kinds, within a part of the played step. A hop of the pipeline runs on
    sender and receiver."""
    slots = compute_slots(timeline, rank)
    edges = np.stack([timeline.start_s[slots], timeline.end_s[slots]], axis=1).ravel()
    lengths = np.concatenate([[0.0], np.diff(edges)])
    lengths[2::2] = 0.0
    done = np.cumsum(lengths)
    rows = _rows(timeline, rank)
    found: dict[str, Communication] = {}
    for kind in (*sorted(set(rows)), "all"):
        chosen = (
            np.concatenate(list(rows.values())) if kind == "all" and rows else rows.get(kind, np.zeros(0, np.int64))
        )
        moving = chosen[timeline.end_s[chosen] > timeline.start_s[chosen]]
        if not len(moving):
            found[kind] = Communication(0.0, 0.0)
            continue
        start_s, end_s = _union(timeline.start_s[moving], timeline.end_s[moving])
        if within is not None:
            start_s, end_s = (np.clip(edge_s, within.start_s, within.end_s) for edge_s in (start_s, end_s))
        overlapped = np.interp(end_s, edges, done) - np.interp(start_s, edges, done)
        found[kind] = Communication(float((end_s - start_s).sum()), float(overlapped.sum()))
    return found


def _rows(timeline: Timeline, rank: int) -> dict[str, Ints]:
    """Slots of communication in which the rank takes part, by kind."""
    program = timeline.program
    bounds = program.ranks[rank]
    own = np.arange(bounds.first, bounds.end)
    received = program.hops[program.receiver[program.hops] == rank]
    slots = np.concatenate([own[program.stream[own] != STREAM_INDEX[COMPUTE]], received])
    kinds = ["pp" if isinstance(payload, Send) else getattr(payload, "kind", "") for payload in program.payloads]
    names = sorted(set(kinds) - {""})
    number = np.array([names.index(kind) if kind else -1 for kind in kinds], dtype=np.int64)[program.payload[slots]]
    rows = {name: slots[number == index] for index, name in enumerate(names)}
    return {name: chosen for name, chosen in rows.items() if len(chosen)}
