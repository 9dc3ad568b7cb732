"""The shared network: flows that run, their rates, and what they have moved.

A flow that shares no link with another stream's traffic never comes here: its time is fixed. The others pay their
latency first and then move at the rate of a max-min fair share, which is settled once per instant, and only for the
flows that are joined, link by link, to one that started or ended.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import numpy as np
import simpy
from simpy.events import EventPriority

from sim.engine.events import triggered
from sim.engine.sharing import fair_rates
from sim.program.flows import Flows
from sim.spec.topology import Floats, Ints

SETTLE = EventPriority(2)
"""SimPy priority after all ordinary events of an instant."""

SAME_INSTANT = 1e-12
"""Flows that end within this relative time of each other end together."""


def lone_rates(flows: Flows) -> Floats:
    """Progress/s of each flow when nothing else runs."""
    rate = flows.limit_per_s.copy()
    np.minimum.at(rate, flows.row_flow, flows.link_bytes_per_s[flows.row_link] / flows.row_load)
    return rate


def rivals(flows: Flows) -> list[tuple[int, ...]]:
    """For each flow, the flows that it may meet on a link: they share one, and no stream of a rank orders them."""
    names = {kind.stream: index for index, kind in reversed(list(enumerate(flows.types)))}
    stream = np.array([names[kind.stream] for kind in flows.types], dtype=np.int64)
    owner = np.full(len(flows), np.iinfo(np.int64).max)
    senders = flows.member_role == 0
    np.minimum.at(owner, flows.member_flow[senders], flows.member_rank[senders])
    channel = np.unique(np.stack([stream[flows.type], owner], axis=1), axis=0, return_inverse=True)[1].ravel()
    pairs = np.unique(np.stack([flows.row_link, channel[flows.row_flow]], axis=1), axis=0)
    channels_on_link = np.bincount(pairs[:, 0], minlength=len(flows.link_bytes_per_s))
    contended = channels_on_link[flows.row_link] > 1
    on_link: dict[int, list[int]] = {}
    for link, flow in zip(flows.row_link[contended].tolist(), flows.row_flow[contended].tolist(), strict=True):
        on_link.setdefault(link, []).append(flow)
    met: list[set[int]] = [set() for _ in range(len(flows))]
    for together in on_link.values():
        for flow in together:
            met[flow].update(other for other in together if channel[other] != channel[flow])
    return [tuple(sorted(others)) for others in met]


class SharedNetwork:
    """Links under the flows that run on them at the moment."""

    def __init__(self, env: simpy.Environment, flows: Flows, rivals_of: list[tuple[int, ...]]) -> None:
        self.env = env
        self.flows = flows
        self.rivals_of = [frozenset(others) for others in rivals_of]
        self.ordered_rivals = rivals_of
        self.lone = lone_rates(flows).tolist()
        self.rows_of = _rows_by_flow(flows)
        self.running: set[int] = set()
        self.remaining = [0.0] * len(flows)
        self.rate = [0.0] * len(flows)
        self.since = [0.0] * len(flows)
        self.node = [-1] * len(flows)
        self.version = [0] * len(flows)
        self.on_end: Callable[[int], None] = lambda _: None
        self._moved = [0.0] * len(flows)
        self.settlements = 0
        self._dirty: list[int] = []
        self._known: dict[tuple[int, ...], list[float]] = {}

    @property
    def moved(self) -> Floats:
        """Progress of each flow so far, integrated over its rates."""
        return np.array(self._moved)

    def start(self, flow: int, work: float, node: int) -> None:
        """A flow has paid its latency and starts to move `work` units of progress; `on_end(node)` follows."""
        self.remaining[flow] = work
        self.since[flow] = self.env.now
        self.node[flow] = node
        self.version[flow] += 1
        is_alone = self.running.isdisjoint(self.rivals_of[flow])
        self.running.add(flow)
        if is_alone:
            self.rate[flow] = self.lone[flow]
            self._schedule_end(flow)
        else:
            self.rate[flow] = 0.0
            self._disturb(flow)

    def _disturb(self, flow: int) -> None:
        """What is joined to `flow` must be settled at the end of this instant."""
        if not self._dirty:
            event = triggered(self.env)
            event.callbacks = [self._settle]
            self.env.schedule(event, priority=SETTLE)
        self._dirty.append(flow)

    def _advance(self, flow: int) -> None:
        now = self.env.now
        moved = min(self.rate[flow] * (now - self.since[flow]), self.remaining[flow])
        self.remaining[flow] -= moved
        self._moved[flow] += moved
        self.since[flow] = now

    def _schedule_end(self, flow: int) -> None:
        event = triggered(self.env, (flow, self.version[flow]))
        event.callbacks = [self._end]
        self.env.schedule(event, delay=self.remaining[flow] / self.rate[flow])

    def _end(self, event: simpy.Event) -> None:
        flow, version = cast("tuple[int, int]", event.value)
        if self.version[flow] != version or flow not in self.running:
            return
        ended = [flow]
        now = self.env.now
        for other in self.ordered_rivals[flow]:
            if other in self.running and self.rate[other] > 0:
                end = self.since[other] + self.remaining[other] / self.rate[other]
                if end <= now * (1 + SAME_INSTANT):
                    ended.append(other)
        for each in ended:
            self._moved[each] += self.remaining[each]
            self.remaining[each] = 0.0
            self.running.remove(each)
        for each in ended:
            if not self.running.isdisjoint(self.rivals_of[each]):
                self._disturb(each)
        for each in ended:
            self.on_end(self.node[each])

    def _joined(self) -> list[int]:
        """Running flows that are joined to a disturbed one through shared links."""
        found: list[int] = []
        seen: set[int] = set()
        stack = list(reversed(self._dirty))
        while stack:
            flow = stack.pop()
            if flow in seen:
                continue
            seen.add(flow)
            if flow in self.running:
                found.append(flow)
            stack += [other for other in self.ordered_rivals[flow] if other in self.running and other not in seen]
        return sorted(found)

    def _settle(self, _: simpy.Event) -> None:
        joined = self._joined()
        self._dirty.clear()
        if not joined:
            return
        self.settlements += 1
        for flow in joined:
            self._advance(flow)
        for flow, rate in zip(joined, self._fair(joined), strict=True):
            if rate != self.rate[flow]:
                self.rate[flow] = rate
                self.version[flow] += 1
                self._schedule_end(flow)

    def _fair(self, joined: list[int]) -> list[float]:
        """Rates of flows that run together. The same flows meet again with every micro-batch, so rates are kept."""
        key = tuple(joined)
        if key not in self._known:
            self._known[key] = self._filled(joined)
        return self._known[key]

    def _filled(self, joined: list[int]) -> list[float]:
        links = np.concatenate([self.rows_of[flow][0] for flow in joined])
        loads = np.concatenate([self.rows_of[flow][1] for flow in joined])
        index = np.repeat(np.arange(len(joined)), [len(self.rows_of[flow][0]) for flow in joined])
        names, link = np.unique(links, return_inverse=True)
        capacity = self.flows.link_bytes_per_s[names]
        rates = fair_rates(index, link, loads, capacity, self.flows.limit_per_s[joined])
        used = np.bincount(link, weights=loads * rates[index], minlength=len(names))
        assert (used <= capacity * (1 + 1e-9)).all(), "a link carries more than its capacity"
        result: list[float] = rates.tolist()
        return result


def _rows_by_flow(flows: Flows) -> list[tuple[Ints, Floats]]:
    order = np.argsort(flows.row_flow, kind="stable")
    cuts = np.searchsorted(flows.row_flow[order], np.arange(1, len(flows)))
    return list(zip(np.split(flows.row_link[order], cuts), np.split(flows.row_load[order], cuts), strict=True))
