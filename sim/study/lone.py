"""What layers and calls of a layout take when they have their GPUs and the network to themselves.

Each depends on few axes of a layout, so that those of many layouts are kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable
from dataclasses import dataclass, replace
from operator import add
from typing import final

import numpy as np

from sim.cost.collectives import Pattern
from sim.cost.kernels import Kernel
from sim.cost.lines import launch_of_sends_s, lone_line
from sim.cost.network_time import choose, lone_time_s
from sim.cost.pace import paced_s, straggling
from sim.program.flows import CONTROL_BYTES, hops, members_of
from sim.program.operations import COMPUTE, PP_BACKWARD, PP_FORWARD, Block, Collective, Compute, Payload, Send
from sim.program.replication import Replication
from sim.program.shapes import Shapes
from sim.program.stage import (
    Hop,
    Unit,
    backward_block,
    forward_block,
    input_gradient_block,
    weight_gradient_block,
)
from sim.spec.conditions import speeds
from sim.spec.layout import Layout, num_ranks
from sim.spec.scenario import Scenario
from sim.spec.stack import pace_of
from sim.spec.topology import Fabric
from sim.spec.training import Training

GROUPS_OF_A_LAYER = ("tp", "cp", "ep", "etp")


@dataclass(frozen=True)
class LonePass:
    """A pass of a unit, s.

    path_s: with the communication that its kernels wait for, which is exposed_s of it.  compute_s: kernels alone.
    moving_s: communication of each of `GROUPS_OF_A_LAYER`, hidden or not.
    """

    path_s: float
    exposed_s: float
    compute_s: float
    moving_s: tuple[float, ...]

    def __add__(self, other: LonePass) -> LonePass:
        moving_s = tuple(map(add, self.moving_s, other.moving_s))
        return LonePass(
            self.path_s + other.path_s, self.exposed_s + other.exposed_s, self.compute_s + other.compute_s, moving_s
        )

    def __mul__(self, number: int) -> LonePass:
        moving_s = tuple(number * each for each in self.moving_s)
        return LonePass(number * self.path_s, number * self.exposed_s, number * self.compute_s, moving_s)


NO_TIME = LonePass(0.0, 0.0, 0.0, (0.0,) * len(GROUPS_OF_A_LAYER))


@dataclass(frozen=True)
class UnitTimes:
    """Passes of one micro-batch in a unit."""

    forward: LonePass
    backward: LonePass
    input_gradient: LonePass
    weight_gradient: LonePass


@final
class LoneTimes:
    """Times on one fabric, of scenarios that differ in layout and training alone; what was asked once is kept."""

    def __init__(self, scenario: Scenario, fabric: Fabric) -> None:
        self._scenario, self._fabric = scenario, fabric
        # A chain may run over any ranks: kernels are those of the fastest.
        self._of_stack = pace_of(scenario.stack, scenario.gpu)
        late = straggling(self._of_stack, num_ranks(scenario.layout))
        self._pace = late * float(1.0 / speeds(scenario.conditions, num_ranks(scenario.layout), scenario.seed).max())
        self._layout: Layout = scenario.layout
        self._places: dict[str, bytes] = {}
        self._kernels: dict[Kernel, float] = {}
        self._calls: dict[Hashable, float] = {}
        self._units: dict[Hashable, UnitTimes] = {}

    def kernels_s(self, payload: Compute) -> float:
        """Kernels one after the other, on the fastest GPU."""
        total_s = 0.0
        for kernel in payload.kernels:
            if kernel not in self._kernels:
                self._kernels[kernel] = paced_s(kernel, self._scenario.gpu, self._of_stack)
            total_s += self._kernels[kernel]
        return total_s * self._pace

    def payload_s(self, payload: Payload, layout: Layout) -> float:
        """Of an operation; of communication, in the fastest of its groups."""
        if isinstance(payload, Compute):
            return self.kernels_s(payload)
        group = payload.group if isinstance(payload, Collective) else payload.stream
        key = (payload, self._place(layout, group))
        if key not in self._calls:
            match payload:
                case Collective():
                    self._calls[key] = self._call_s(payload, layout)
                case Send():
                    self._calls[key] = self._send_s(payload, layout)
        return self._calls[key]

    def _place(self, layout: Layout, group: str) -> bytes:
        """What tells the groups of an axis, or the hops of a stream, from others: kept for the layout at hand."""
        if layout is not self._layout:
            self._layout, self._places = layout, {}
        if group not in self._places:
            ranks = np.stack(hops(layout, group)) if group in (PP_FORWARD, PP_BACKWARD) else members_of(layout, group)
            self._places[group] = repr(ranks.shape).encode() + _digest(ranks.tobytes())
        return self._places[group]

    def _call_s(self, call: Collective, layout: Layout) -> float:
        members = members_of(layout, call.group)
        nbytes = call.nbytes if call.nbytes > CONTROL_BYTES else 0.0
        way = choose(call.op, nbytes, members, self._fabric, self._scenario.network, spread=call.spread)
        latency_s, s_per_byte = lone_line(way, call.op, members, self._fabric)
        return float((latency_s + nbytes * s_per_byte).min())

    def _send_s(self, send: Send, layout: Layout) -> float:
        source, target = hops(layout, send.stream)
        routes = self._fabric.routes(source, target)
        latency_s = routes.latency_s + launch_of_sends_s(source, target, self._fabric)
        pattern = Pattern(routes.pair, routes.link, routes.share, latency_s)
        return float(lone_time_s(pattern, send.nbytes, self._fabric).min())

    def unit(self, unit: Unit, rep: Replication, s: Shapes, scenario: Scenario, *, again: bool) -> UnitTimes:
        """Passes of a unit without what replicas exchange; `again`: where its whole forward pass runs again."""
        layout, training = scenario.layout, scenario.training
        if training.recompute == "full":
            training = training.model_copy(update={"recompute_layers": None} if again else {"recompute": "none"})
        sizes = [axis for axis in GROUPS_OF_A_LAYER if getattr(layout, axis) > 1]
        places = tuple(self._place(layout, axis) for axis in sizes)
        key = (unit.pieces, unit.is_layer, unit.is_mtp, s, rep.zero == 3, training.recompute, again, places)
        if key not in self._units:
            alone = replace(rep, dense=rep.dense.alone, expert=rep.expert.alone)
            self._units[key] = self._unit(unit, alone, s, training, layout)
        return self._units[key]

    def _unit(self, unit: Unit, rep: Replication, s: Shapes, training: Training, layout: Layout) -> UnitTimes:
        hop, units = Hop(), (unit,)
        blocks = (
            forward_block(units, rep, s, is_first=False, hop=hop),
            backward_block(units, rep, s, training, is_last=False, hop=hop),
            input_gradient_block(units, rep, s, training, hop=hop),
            weight_gradient_block(units, rep, is_last=False),
        )
        return UnitTimes(*(self._pass(block, layout) for block in blocks))

    def _pass(self, block: Block, layout: Layout) -> LonePass:
        """From the start of a block to the end of its last kernel and of what the next block waits for."""
        times = [self.payload_s(each.payload, layout) for each in block.operations]
        streams = [each.payload.stream for each in block.operations]
        ends: list[float] = []
        exposed: list[float] = []
        free: dict[str, int] = {}
        for number, (operation, stream) in enumerate(zip(block.operations, streams, strict=True)):
            before = [*operation.after, *([free[stream]] if stream in free else [])]
            latest = max(before, key=lambda each: (ends[each], -exposed[each]), default=None)
            ends.append(times[number] + (0.0 if latest is None else ends[latest]))
            exposed.append((0.0 if latest is None else exposed[latest]) + times[number] * (stream != COMPUTE))
            free[stream] = number
        awaited = [number for number, stream in enumerate(streams) if stream == COMPUTE] + list(block.tail)
        if not awaited:
            return NO_TIME
        last = max(awaited, key=lambda each: (ends[each], -exposed[each]))
        moving_s = tuple(
            sum(t for t, stream in zip(times, streams, strict=True) if stream == kind) for kind in GROUPS_OF_A_LAYER
        )
        compute_s = sum(t for t, stream in zip(times, streams, strict=True) if stream == COMPUTE)
        return LonePass(ends[last], exposed[last], compute_s, moving_s)

    def ends_s(self, block: Block, layout: Layout) -> list[float]:
        """End of each operation of a block, where each starts as soon as its stream is free and what it comes after is
        done."""
        ends: list[float] = []
        free: dict[str, float] = {}
        for operation in block.operations:
            stream = operation.payload.stream
            start = max([free.get(stream, 0.0), *(ends[before] for before in operation.after)])
            ends.append(start + self.payload_s(operation.payload, layout))
            free[stream] = ends[-1]
        return ends


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()
