"""The points of a sweep, played where they were not played before; what cannot be played is told beside what can."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, final

from sim.program.lower import Fidelity
from sim.spec.load import Point
from sim.spec.scenario import Scenario
from sim.study.executors import Executor
from sim.study.executors.here import Here
from sim.study.key import Canon
from sim.study.play import Outcome, Task, pack, play, reason, task, unpacked
from sim.study.store import Store

MAX_TIMED = 8
"""Points whose time an estimate is made from."""


@dataclass(frozen=True)
class Row:
    """A point that was tried. index: its place in the sweep.  values: what the sweep set, by dotted path.

    status: `impossible` for one that cannot be loaded, else that of its outcome; with anything but `done`, `error` says
    why there is no result.  packed: the result.  is_stored: whether it was played before.
    """

    index: int
    values: dict[str, Any]
    scenario: Scenario | None
    status: str
    error: str
    packed: bytes | None = None
    is_stored: bool = False

    @property
    def result(self) -> dict[str, Any] | None:
        """What `Result.to_dict` gives, without its scenario; None where `error` says why not."""
        return None if self.packed is None else unpacked(self.packed)


@final
@dataclass(frozen=True)
class Plan:
    """What a sweep has to do. Points whose scenarios are the same are played once.

    impossible: rows that need no playing.  wanted: indices of points by the key of their scenario.
    """

    points: Sequence[Point]
    fidelity: Fidelity
    impossible: list[Row] = field(default_factory=list)
    wanted: dict[str, list[int]] = field(default_factory=dict)
    canon: Canon = field(default_factory=Canon)

    def scenario(self, key: str) -> Scenario:
        """The scenario of a key that is wanted."""
        found = self.points[self.wanted[key][0]].scenario
        assert found is not None, "only possible points are wanted"
        return found

    def task(self, key: str) -> Task:
        """What is sent to be played."""
        return task(key, self.scenario(key), self.fidelity)

    def rows(self, outcome: Outcome, *, is_stored: bool) -> Iterator[Row]:
        """A row for each point of an outcome's scenario."""
        for index in self.wanted[outcome.key]:
            point = self.points[index]
            yield Row(
                index, point.values, point.scenario, outcome.status, outcome.error, outcome.result, is_stored=is_stored
            )


def plan(points: Sequence[Point], fidelity: Fidelity = "fused") -> Plan:
    """What is to be played of the points. Raises SimError where a schedule's file cannot be read."""
    found = Plan(points, fidelity)
    for index, point in enumerate(points):
        if point.scenario is None:
            assert point.error is not None, "a point without a scenario says why"
            found.impossible.append(Row(index, point.values, None, "impossible", reason(point.error)))
        else:
            found.wanted.setdefault(found.canon.key(point.scenario), []).append(index)
    return found


def sweep(planned: Plan, store: Store | None = None, executor: Executor | None = None) -> Iterator[Row]:
    """A row for each point: the impossible ones, what is stored, then each one that is played, as it comes.

    What is played is in the store before its row is given. A crash is not kept: the next sweep tries it again.
    """
    yield from planned.impossible
    left: list[str] = []
    for key in planned.wanted:
        known = _known(store, key, planned)
        if known is None:
            left.append(key)
        else:
            yield from planned.rows(known, is_stored=True)
    meanwhile: list[str] = []
    for outcome in (executor or Here()).play(_tasks(left, planned, store, meanwhile)):
        if store is not None and outcome.status != "crashed":
            scenario = planned.scenario(outcome.key)
            store.add(outcome, planned.fidelity, scenario.title, pack(planned.canon.text(scenario)))
        yield from planned.rows(outcome, is_stored=False)
    for key in meanwhile:
        known = _known(store, key, planned)
        if known is None:
            known = next(iter(Here().play(iter([planned.task(key)]))))
        yield from planned.rows(known, is_stored=True)


def _known(store: Store | None, key: str, planned: Plan) -> Outcome | None:
    stored = None if store is None else store.find(key, planned.fidelity)
    if stored is None:
        return None
    return Outcome(key, "failed" if stored.error else "done", stored.error, stored.seconds, stored.result, "")


def _tasks(keys: list[str], planned: Plan, store: Store | None, meanwhile: list[str]) -> Iterator[Task]:
    """A task for each key, made when there is room for it; those that another process has played by then go to
    `meanwhile`."""
    for key in keys:
        if store is not None and store.has(key, planned.fidelity):
            meanwhile.append(key)
        else:
            yield planned.task(key)


def value_text(value: Any) -> str:
    """A swept value as a scenario file has it, on one line.

    >>> value_text((16, 16)), value_text({"tp": 2}), value_text(None), value_text("full")
    ('[16, 16]', '{"tp": 2}', 'null', 'full')
    """
    return value if isinstance(value, str) else json.dumps(value)


@dataclass(frozen=True)
class State:
    """What a sweep would do with a point. key: of its scenario.  kind: `impossible`, `stored` or `to play`."""

    kind: str
    text: str
    key: str = ""


def state_of_points(planned: Plan, store: Store | None) -> list[State]:
    """The state of each point, in their order; nothing is played."""
    found: dict[int, State] = {row.index: State("impossible", f"impossible: {row.error}") for row in planned.impossible}
    for key, indices in planned.wanted.items():
        is_known = store is not None and store.has(key, planned.fidelity)
        state = State("stored", "stored", key) if is_known else State("to play", "to play", key)
        found |= dict.fromkeys(indices, state)
    return [found[index] for index in range(len(planned.points))]


def estimate(planned: Plan, keys: Sequence[str], limit_s: float = 10.0) -> tuple[float, int]:
    """Mean time of playing one of the scenarios, s, and how many were timed: some spread evenly, for `limit_s`."""
    step = max(1, len(keys) // MAX_TIMED)
    sample = [planned.task(key) for key in keys[step // 2 :: step]][:MAX_TIMED]
    # The first one also pays for imports and for tables that a process makes once.
    play(sample[0])
    taken: list[float] = []
    for each in sample:
        taken.append(play(each).seconds)
        if sum(taken) > limit_s:
            break
    return sum(taken) / len(taken), len(taken)
