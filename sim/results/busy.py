"""What the compute stream was busy with, and what communication ran beside it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sim.engine.timeline import Timeline
from sim.program.operations import COMPUTE, Compute, Send
from sim.program.ranks import STREAM_INDEX
from sim.results.idle import compute_slots
from sim.spec.topology import Floats, Ints


def busy_s(timeline: Timeline, rank: int) -> dict[str, float]:
    """Seconds of each kind of kernel on a simulated rank; kernels that run again in the backward pass are
    `recompute`."""
    program = timeline.program
    counts = np.bincount(program.payload[compute_slots(timeline, rank)], minlength=len(program.payloads)).tolist()
    total: dict[str, float] = {}
    for count, payload, times in zip(counts, program.payloads, timeline.kernel_s, strict=True):
        if count and isinstance(payload, Compute):
            for kernel, time in zip(payload.kernels, times, strict=True):
                cause = "recompute" if payload.is_recompute else kernel.cause
                total[cause] = total.get(cause, 0.0) + count * time
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


def communication(timeline: Timeline, rank: int) -> dict[str, Communication]:
    """By kind, and `all` for the union of all kinds. A hop of the pipeline runs on sender and receiver."""
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
        overlapped = np.interp(end_s, edges, done) - np.interp(start_s, edges, done)
        found[kind] = Communication(float((end_s - start_s).sum()), float(overlapped.sum()))
    return found


def _rows(timeline: Timeline, rank: int) -> dict[str, Ints]:
    """Slots of communication in which the rank takes part, by kind."""
    program = timeline.program
    bounds = program.ranks[rank]
    own = np.arange(bounds.first, bounds.end)
    received = np.flatnonzero(program.receiver == rank)
    slots = np.concatenate([own[program.stream[own] != STREAM_INDEX[COMPUTE]], received])
    kinds: dict[str, list[Ints]] = {}
    for number in np.unique(program.payload[slots]).tolist():
        payload = program.payloads[number]
        assert not isinstance(payload, Compute)
        kind = "pp" if isinstance(payload, Send) else payload.kind
        kinds.setdefault(kind, []).append(slots[program.payload[slots] == number])
    return {kind: np.concatenate(parts) for kind, parts in kinds.items()}
