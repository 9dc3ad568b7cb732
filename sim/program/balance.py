"""Layers of each virtual stage such that the slowest stage is as fast as possible."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from sim.cost.network_time import lone_call
from sim.cost.pace import paced_s
from sim.program.flows import CONTROL_BYTES
from sim.program.operations import Block, Collective, Compute, Payload
from sim.program.replication import replication
from sim.program.shapes import shapes
from sim.program.stage import Hop, Unit, backward_block, forward_block, units_of_layers
from sim.spec.conditions import built_fabric
from sim.spec.layout import groups, num_stages
from sim.spec.scenario import Scenario
from sim.spec.stack import pace_of
from sim.spec.topology import Fabric, Floats, Ints

RESOLUTION = 1e-6
"""Of the slowest stage's time: differences below it are none when stages are made even."""


@dataclass(frozen=True)
class StageTimes:
    """Time of one micro-batch, forward and backward, when nothing else runs, s.

    layers_s: (layers + 1, layers + 1) of layers i .. j - 1 on one stage, inf for j < i.  first_s, last_s: what the
    first and the last stage do besides: embedding; multi-token prediction, head and loss.
    """

    layers_s: Floats
    first_s: float
    last_s: float


def resolved(scenario: Scenario) -> Scenario:
    """The scenario with `layout.stage_layers: balanced` as the list that it stands for; others as they are."""
    layout = scenario.layout
    if layout.stage_layers != "balanced":
        return scenario
    counts = balanced(stage_times(scenario, built_fabric(scenario)), num_stages(layout))
    return scenario.model_copy(update={"layout": layout.model_copy(update={"stage_layers": counts})})


def balanced(times: StageTimes, stages: int) -> tuple[int, ...]:
    """Layers of each stage: of all ways to cut the layers into `stages` runs, one whose slowest stage takes least.

    Only the first and the last stage may have no layers. Exact, by dynamic programming over stages and cuts. Of several
    ways, the one with the least sum of squares of the stages' times; of those, the one with fewer layers on later
    stages last, as early stages hold more micro-batches.

    >>> even = np.subtract.outer(np.arange(8), np.arange(8)).T.astype(float)
    >>> balanced(StageTimes(np.where(even < 0, np.inf, even), 0.0, 1.5), 4)
    (2, 2, 2, 1)
    """
    costs = [_cost(times, stage, stages) for stage in range(stages)]
    slowest = _cheapest(costs, np.maximum)[0]
    unit = RESOLUTION * slowest if slowest > 0 else 1.0
    squares = []
    for cost in costs:
        is_allowed = cost <= slowest * (1 + 1e-12)
        whole = np.where(is_allowed, np.round(np.where(is_allowed, cost, 0.0) / unit), np.inf)
        squares.append(whole**2)
    return _cheapest(squares, np.add)[1]


def _cost(times: StageTimes, stage: int, stages: int) -> Floats:
    """Time of a stage that holds layers i .. j - 1, (i, j); inf where it may not."""
    cost = times.layers_s.copy()
    is_first, is_last = stage == 0, stage == stages - 1
    if not (is_first or is_last):
        np.fill_diagonal(cost, np.inf)
    return cost + (times.first_s if is_first else 0.0) + (times.last_s if is_last else 0.0)


def _cheapest(costs: list[Floats], join: Callable[[Floats, Floats], Floats]) -> tuple[float, tuple[int, ...]]:
    """Of all cuts 0 = c_0 <= c_1 <= ... <= c_n = layers, the least of costs[k][c_k, c_k+1] joined over the stages, and
    the layers between its cuts."""
    size = len(costs[0])
    best = np.where(np.arange(size) == 0, 0.0, np.inf)
    chosen: list[Ints] = []
    for cost in costs:
        joined = join(best[:, None], cost)
        chosen.append(joined.argmin(axis=0))
        best = joined.min(axis=0)
    counts: list[int] = []
    end = size - 1
    for came_from in reversed(chosen):
        start = int(came_from[end])
        counts.append(end - start)
        end = start
    return float(best[-1]), tuple(reversed(counts))


def stage_times(scenario: Scenario, fabric: Fabric) -> StageTimes:
    """Times by the cost model, of kernels and of the communication inside layers, each alone on its network.

    Left out, as it does not depend on where layers lie or nearly so: sends, data-parallel traffic, the host, and what
    communication slows. Layers of which only some run again (`training.recompute_layers`) count that for the first ones
    of the stage.
    """
    first, layers, last = units_of_layers(scenario)
    unit_s = _UnitTimes(scenario, fabric)
    whole_s = np.array([unit_s.of(unit, recompute=None) for unit in layers])
    again_s = np.zeros(len(layers))
    num_again = scenario.training.recompute_layers
    if num_again is not None:
        plain_s = np.array([unit_s.of(unit, recompute="none") for unit in layers])
        whole_s, again_s = plain_s, whole_s - plain_s
    upto = np.arange(len(layers) + 1)
    layers_s = _between(whole_s)[upto[:, None], upto[None, :]]
    if num_again is not None:
        ends = np.minimum(upto[:, None] + num_again, upto[None, :])
        layers_s += np.where(ends >= upto[:, None], _between(again_s)[upto[:, None], np.maximum(ends, 0)], 0.0)
    layers_s[upto[:, None] > upto[None, :]] = np.inf
    first_s = sum(unit_s.of(unit, recompute=None) for unit in first)
    last_s = sum(unit_s.of(unit, recompute=None) for unit in last)
    return StageTimes(layers_s, first_s, last_s)


def _between(each: Floats) -> Floats:
    """Sums of `each` from i to j - 1: (n + 1, n + 1)."""
    sums = np.concatenate([[0.0], np.cumsum(each)])
    difference: Floats = sums[None, :] - sums[:, None]
    return difference


class _UnitTimes:
    """Times of units; those that are one object are timed once."""

    def __init__(self, scenario: Scenario, fabric: Fabric) -> None:
        self._scenario, self._fabric = scenario, fabric
        self._shapes = shapes(scenario)
        rep = replication(scenario)
        self._rep = replace(rep, dense=rep.dense.alone, expert=rep.expert.alone)
        self._payload_s: dict[Payload, float] = {}
        self._unit_s: dict[tuple[int, str | None], float] = {}

    def of(self, unit: Unit, *, recompute: str | None) -> float:
        """Forward and backward pass of a unit, s; with `recompute` in place of the scenario's."""
        key = (id(unit), recompute)
        if key not in self._unit_s:
            training = self._scenario.training
            changes = {"recompute_layers": None} | ({} if recompute is None else {"recompute": recompute})
            training = training.model_copy(update=changes)
            forward = forward_block((unit,), self._rep, self._shapes, is_first=False, hop=Hop())
            backward = backward_block((unit,), self._rep, self._shapes, training, is_last=False, hop=Hop())
            self._unit_s[key] = self._lone_s(forward) + self._lone_s(backward)
        return self._unit_s[key]

    def _lone_s(self, block: Block) -> float:
        """When the last operation of a block ends, where each starts as soon as its stream is free and what it comes
        after is done."""
        ends: list[float] = []
        free: dict[str, float] = {}
        for operation in block.operations:
            stream = operation.payload.stream
            start = max([free.get(stream, 0.0), *(ends[before] for before in operation.after)])
            ends.append(start + self._payload(operation.payload))
            free[stream] = ends[-1]
        return max(ends, default=0.0)

    def _payload(self, payload: Payload) -> float:
        if payload not in self._payload_s:
            self._payload_s[payload] = self._alone_s(payload)
        return self._payload_s[payload]

    def _alone_s(self, payload: Payload) -> float:
        match payload:
            case Compute():
                pace = pace_of(self._scenario.stack, self._scenario.gpu)
                return sum(paced_s(kernel, self._scenario.gpu, pace) for kernel in payload.kernels)
            case Collective():
                members = groups(self._scenario.layout, payload.group)
                nbytes = payload.nbytes if payload.nbytes > CONTROL_BYTES else 0.0
                call = lone_call(payload.op, nbytes, members, self._fabric, self._scenario.network)
                return float(call.time_s.max())
            case _:
                raise AssertionError("a unit alone sends nothing")
