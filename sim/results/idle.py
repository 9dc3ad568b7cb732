"""Why a compute stream was idle: every interval walked back from what released the operation after it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from sim.engine.timeline import Timeline
from sim.program.operations import COMPUTE, Collective, Compute, Send
from sim.program.ranks import STREAM_INDEX
from sim.spec.topology import Floats, Ints

HOST_LAUNCH = "host_launch"
BUBBLE = "bubble"
WAIT_PEER = "wait_peer"
STEP_END = "step_end"
ACROSS_PIPELINE = ("grad_norm", "embedding")
"""Collectives that join pipeline ranks: who waits in them, waits for the rest of the pipeline."""


SAME_INSTANT = 1e-12
"""Differences below this share of the step are rounding: a run's inner times are sums in another order."""


@dataclass(frozen=True)
class Idle:
    """Idle intervals of one rank's compute stream: columns of equal length; `cause` is an index into `causes`."""

    causes: tuple[str, ...]
    cause: Ints
    start_s: Floats
    end_s: Floats

    def seconds(self) -> dict[str, float]:
        """Time of each cause."""
        total = np.bincount(self.cause, weights=self.end_s - self.start_s, minlength=len(self.causes))
        return dict(zip(self.causes, total.tolist(), strict=True))

    def cut(self, start_s: float, end_s: float) -> Idle:
        """What lies between two moments."""
        return replace(self, start_s=np.clip(self.start_s, start_s, end_s), end_s=np.clip(self.end_s, start_s, end_s))

    def within(self, cause: str, start_s: float, end_s: float) -> float:
        """Time of a cause between two moments."""
        if cause not in self.causes:
            return 0.0
        mine = self.cause == self.causes.index(cause)
        inside = np.minimum(self.end_s[mine], end_s) - np.maximum(self.start_s[mine], start_s)
        return float(np.maximum(inside, 0.0).sum())


@dataclass(frozen=True)
class Window:
    """The pipeline's window: from the first forward to the last backward."""

    start_s: float
    end_s: float


class Releases:
    """Looks up what an operation waited for."""

    def __init__(self, timeline: Timeline) -> None:
        program = timeline.program
        self.timeline = timeline
        order = program.by_target
        self._source, target = program.source[order], program.target[order]
        counts = np.bincount(target, minlength=len(program.node))
        self._cuts = np.concatenate([[0], np.cumsum(counts)])
        self.latest_of = self._latest_of_all(target)
        self.same_s = SAME_INSTANT * timeline.step_s
        self.has_held = bool(timeline.release_s.any())
        # When each node could have started, had its host issued it in time.
        ready_s = np.where(self.latest_of >= 0, timeline.end_s[self.latest_of], 0.0)
        self.free_s = np.where(timeline.release_s > ready_s + self.same_s, ready_s, timeline.start_s)
        flows = program.flows
        self._members: dict[int, set[int]] = {}
        for flow, rank in zip(flows.member_flow.tolist(), flows.member_rank.tolist(), strict=True):
            self._members.setdefault(flow, set()).add(rank)

    def _latest_of_all(self, target: Ints) -> Ints:
        """What each node waited for longest (the first of equals); -1 for those that wait for nothing."""
        latest = np.full(len(self._cuts) - 1, -1, dtype=np.int64)
        if len(target):
            nodes = np.flatnonzero(np.diff(self._cuts))
            firsts = self._cuts[nodes]
            end_s = self.timeline.end_s[self._source]
            ready_s = np.maximum.reduceat(end_s, firsts)
            is_latest = end_s == np.repeat(ready_s, np.diff(np.append(firsts, len(target))))
            numbers = np.where(is_latest, self._source, np.iinfo(np.int64).max)
            latest[nodes] = np.minimum.reduceat(numbers, firsts)
        return latest

    def before(self, node: int) -> Ints:
        """Nodes that `node` comes after."""
        result: Ints = self._source[self._cuts[node] : self._cuts[node + 1]]
        return result

    def _takes_part(self, node: int, rank: int) -> bool:
        program = self.timeline.program
        flow = int(program.flow[node])
        if isinstance(program.payloads[program.payload[node]], Collective):
            return rank in self._members[flow]
        return int(program.rank[node]) == rank

    def latest(self, node: int, rank: int | None = None) -> int | None:
        """What `node` waited for longest, among what `rank` takes part in (or all)."""
        before = self.before(node).tolist()
        if rank is not None:
            before = [other for other in before if self._takes_part(other, rank)]
        end_s = self.timeline.end_s
        return max(before, key=lambda other: (end_s[other], -other), default=None)

    def causes(
        self, node: int, rank: int, start_s: float, end_s: float, window: Window
    ) -> Iterator[tuple[str, float, float]]:
        """Causes of an idle interval of `rank` that ended when `node` did, the latest first."""
        program, timeline = self.timeline.program, self.timeline
        hi = end_s
        current: int | None = node
        while hi > start_s + self.same_s:
            assert current is not None, "idle time that nothing explains"
            payload = program.payloads[program.payload[current]]
            if isinstance(payload, Compute):
                # Another rank computes what this one needs: upstream (or downstream) work is not done.
                yield BUBBLE, start_s, hi
                return
            began = max(float(timeline.start_s[current]), start_s)
            if began < hi:
                yield f"exposed_{payload.kind}", began, hi
                hi = began
            free_s = max(float(self.free_s[current]), start_s)
            if free_s < hi:
                yield HOST_LAUNCH, free_s, hi
                hi = free_s
            if isinstance(payload, Send):
                current = self.latest(current)
                is_queued = current is not None and isinstance(program.payloads[program.payload[current]], Send)
                if not is_queued and hi > start_s:
                    yield BUBBLE, start_s, hi
                    return
                continue
            current = self.latest(current, rank)
            arrived = start_s if current is None else max(float(timeline.end_s[current]), start_s)
            if arrived < hi:
                yield from _waiting(payload.kind, arrived, hi, window)
                hi = arrived


def _waiting(kind: str, start_s: float, end_s: float, window: Window) -> Iterator[tuple[str, float, float]]:
    """Waiting for the members of a collective; within the pipeline's window, for the pipeline."""
    edge = min(max(window.end_s, start_s), end_s) if kind in ACROSS_PIPELINE else start_s
    if edge < end_s:
        yield WAIT_PEER, edge, end_s
    if start_s < edge:
        yield BUBBLE, start_s, edge


def compute_slots(timeline: Timeline, rank: int) -> Ints:
    """Compute operations of a simulated rank, in order."""
    bounds = timeline.program.ranks[rank]
    slots = np.arange(bounds.first, bounds.end)
    result: Ints = slots[timeline.program.stream[slots] == STREAM_INDEX[COMPUTE]]
    return result


def pipeline_window(timeline: Timeline, rank: int | None = None) -> Window:
    """From the first forward to the last backward over all ranks, or the own span of one."""
    program = timeline.program
    starts, ends = [], []
    for index in range(len(program.ranks)) if rank is None else [rank]:
        slots = compute_slots(timeline, index)
        actions = program.ranks[index].actions
        is_action = np.array([action is not None for action in actions], dtype=bool)
        inside = slots[is_action[program.block[slots]]]
        starts.append(float(timeline.start_s[inside[0]]))
        ends.append(float(timeline.end_s[inside[-1]]))
    return Window(min(starts), max(ends))


def idle(timeline: Timeline, releases: Releases, rank: int, window: Window) -> Idle:
    """Every idle interval of a simulated rank between 0 and the end of the step."""
    program = timeline.program
    slots = compute_slots(timeline, rank)
    start_s, end_s = timeline.start_s[slots], timeline.end_s[slots]
    before = np.concatenate([[0.0], end_s[:-1]])
    late = np.flatnonzero(start_s > before + releases.same_s)
    start_s, before = start_s[late], before[late]
    # The host comes last: what is left before it is explained by what the operation comes after.
    free_s = np.minimum(releases.free_s[slots[late]], start_s)
    waits = free_s > before + releases.same_s
    free_s = np.where(waits, free_s, before)
    released_by = releases.latest_of[slots[late]]
    assert (released_by[waits] >= 0).all(), "an operation that waits for nothing starts late"
    # Nearly always one transfer ran through the whole interval; the others are walked one by one.
    kinds = [None if isinstance(item, Compute) else f"exposed_{item.kind}" for item in program.payloads]
    host = (HOST_LAUNCH,) if releases.has_held else ()
    causes = (*sorted({kind for kind in kinds if kind is not None}), *host, BUBBLE, WAIT_PEER, STEP_END)
    number = np.array([-1 if kind is None else causes.index(kind) for kind in kinds], dtype=np.int64)
    code = number[program.payload[released_by]]
    is_plain = waits & (code >= 0) & (timeline.start_s[released_by] <= before + releases.same_s)
    walked: list[tuple[str, float, float]] = []
    for index in np.flatnonzero(waits & ~is_plain).tolist():
        walked += releases.causes(int(released_by[index]), rank, float(before[index]), float(free_s[index]), window)
    held = np.flatnonzero(free_s < start_s)
    walked += [(HOST_LAUNCH, *interval) for interval in zip(free_s[held].tolist(), start_s[held].tolist(), strict=True)]
    walked += _tail(timeline, releases, rank, float(end_s[-1]), window)
    return Idle(
        causes=causes,
        cause=np.concatenate([code[is_plain], np.array([causes.index(c) for c, _, _ in walked], dtype=np.int64)]),
        start_s=np.concatenate([before[is_plain], [start for _, start, _ in walked]]),
        end_s=np.concatenate([free_s[is_plain], [end for _, _, end in walked]]),
    )


def _tail(
    timeline: Timeline, releases: Releases, rank: int, start_s: float, window: Window
) -> list[tuple[str, float, float]]:
    """From the last kernel of a rank to the end of the step: its last communication, then waiting for the others."""
    program, bounds = timeline.program, timeline.program.ranks[rank]
    own = np.arange(bounds.first, bounds.end)
    last = int(program.node[own[np.argmax(timeline.end_s[own])]])
    done_s = max(float(timeline.end_s[last]), start_s)
    found: list[tuple[str, float, float]] = []
    if done_s > start_s:
        found += releases.causes(last, rank, start_s, done_s, window)
    edge = min(max(window.end_s, done_s), timeline.step_s)
    if edge > done_s:
        found.append((BUBBLE, done_s, edge))
    if timeline.step_s > edge:
        found.append((STEP_END, edge, timeline.step_s))
    return found
