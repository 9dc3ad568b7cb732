"""The best layout of a model on a cluster, proven over all legal ones: few are played, the others are ruled out.

Every legal layout gets a lower bound (`sim.study.bound.Bounds`), which costs milliseconds. Best first: the layout with
the least bound is looked at closer, whether it fits in memory and how long its step would be without contention
(`lone_step_s`), and when it comes to the front again, it is played. When the best step that was played is no longer
than the least bound that is left, nothing that is left can be better.

Layouts are looked at in rounds of a fixed size, whose members do not know of each other, so that the outcome does not
depend on how many processes work on it.
"""

from __future__ import annotations

import heapq
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import Any, Literal, TypeAlias

from sim.errors import SimError
from sim.program.lower import lower
from sim.program.memory import memory
from sim.registry import unknown
from sim.results.steady import period_s
from sim.simulation import played
from sim.spec.check import num_gpus
from sim.spec.conditions import built_fabric
from sim.spec.scenario import Scenario
from sim.spec.topology import Fabric
from sim.study.bound import Bounds, lone_step_s
from sim.study.space import AXES_OF_A_SEARCH, Choice, candidates, legal, played_as

OBJECTIVES = ("step_time", "cost", "tokens_per_s_per_gpu")
Objective: TypeAlias = Literal["step_time", "cost", "tokens_per_s_per_gpu"]

ROUND = 4
"""Layouts that are looked at without knowing of each other."""

CHUNK = 64
"""Layouts that a process bounds at once."""

SAME = 1 + 1e-9
"""Steps that differ by less are equally long: bounds add the same times in another order."""

_CONSTRAINT = re.compile(r"\s*(\w+)\s*(<=|>=|<|>|=)\s*([\w.+-]+)\s*", re.ASCII)
_NUMERIC = ("memory", "step_time", "cost", "tokens_per_s_per_gpu")
_HOLDS: dict[str, Callable[[Any, Any], bool]] = {
    "<=": lambda value, limit: bool(value <= limit),
    ">=": lambda value, limit: bool(value >= limit),
    "<": lambda value, limit: bool(value < limit),
    ">": lambda value, limit: bool(value > limit),
    "=": lambda value, limit: bool(value == limit),
}


@dataclass(frozen=True)
class Constraint:
    """What a layout must meet: `memory<0.9` (peak over capacity), `tp<=8`, `schedule=1f1b`, `step_time<30` (s)."""

    name: str
    sign: str
    limit: float | str

    def holds(self, value: float | str) -> bool:
        """Whether a value meets it."""
        return _HOLDS[self.sign](value, self.limit)


def constraint(text: str) -> Constraint:
    """A constraint as the command line has it.

    Raises SimError for a name that does not exist, and for an order of words.

    >>> constraint("memory<0.9")
    Constraint(name='memory', sign='<', limit=0.9)
    """
    match = _CONSTRAINT.fullmatch(text)
    if match is None:
        raise SimError(f"--constraint: no constraint (got {text!r}, allowed such as memory<0.9, tp<=8, zero=1)")
    name, sign, limit = match.groups()
    if name not in (*_NUMERIC, *AXES_OF_A_SEARCH):
        raise SimError(f"--constraint: {unknown('quantity', name, [*_NUMERIC, *AXES_OF_A_SEARCH])}")
    if name in ("recompute", "schedule", "order"):
        if sign != "=":
            raise SimError(f"--constraint: {name} is a word (got {text!r}, allowed {name}=WORD)")
        return Constraint(name, sign, limit)
    try:
        return Constraint(name, sign, float(limit))
    except ValueError:
        raise SimError(f"--constraint: {name} is a number (got {limit!r}, allowed such as {name}{sign}1)") from None


@dataclass(frozen=True)
class Goal:
    """What is asked of a step. price: of a GPU-hour, in any currency; None where nobody asked for cost."""

    objective: Objective
    gpus: int
    tokens: int
    price: float | None = None

    def value(self, step_s: float) -> float:
        """The objective of a step that takes so long: s, currency, or tokens/s of a GPU."""
        match self.objective:
            case "step_time":
                return step_s
            case "cost":
                return self.cost(step_s)
            case "tokens_per_s_per_gpu":
                return self.rate(step_s)

    def cost(self, step_s: float) -> float:
        """GPUs x hours x price of a GPU-hour."""
        assert self.price is not None
        return self.gpus * step_s / 3600 * self.price

    def rate(self, step_s: float) -> float:
        """Tokens/s of a GPU."""
        return self.tokens / step_s / self.gpus


@dataclass(frozen=True)
class Played:
    """A layout that was played. memory_frac: of the fullest GPU's memory.  bound_s: what its step was known to take at
    least before."""

    choice: Choice
    step_s: float
    memory_frac: float
    bound_s: float


@dataclass(frozen=True)
class Found:
    """What a search came to.

    legal: layouts that pass every check, no two of which are played alike; duplicates of them were left out, and those
    that a constraint on their axes excludes.  excluded_by_memory: of those that were asked, with too full a GPU.
    pruned_by_bound: never looked at, for their bound.  pruned_alone: for their time without contention.
    unplayable: refused when they were lowered, with the reason.  ranking: what was played and meets the constraints,
    the best first.  excluded_by_result: what was played and does not.  left_s: least bound of what nobody looked at
    because the search was stopped; None where the optimum is proven.  beaten_s: least bound of what was never played.
    """

    goal: Goal
    candidates: int
    legal: int
    duplicates: int
    excluded_by_axes: int
    excluded_by_memory: int
    excluded_by_result: int
    pruned_by_bound: int
    pruned_alone: int
    unplayable: tuple[tuple[Choice, str], ...]
    ranking: tuple[Played, ...]
    num_played: int
    left_s: float | None
    beaten_s: float

    @property
    def is_proven(self) -> bool:
        """Whether no legal layout that meets the constraints is better than the best."""
        return self.left_s is None and bool(self.ranking)

    @property
    def gap(self) -> float | None:
        """By how much the best step could be longer than the optimum, as a share of it; 0 where that is proven."""
        if not self.ranking:
            return None
        return 0.0 if self.left_s is None else max(self.ranking[0].step_s / self.left_s - 1.0, 0.0)

    @property
    def num_proven(self) -> int:
        """Places of the ranking that are proven: no layout that was not played is faster."""
        least_s = self.beaten_s if self.left_s is None else min(self.beaten_s, self.left_s)
        return sum(each.step_s <= least_s * SAME for each in self.ranking)


@dataclass(frozen=True)
class _Task:
    """One layout to look at: `closer`, whether it fits and what it takes alone, or `play` it."""

    choice: Choice
    what: Literal["closer", "play"]
    memory: tuple[Constraint, ...]


@dataclass(frozen=True)
class _Answer:
    """memory_frac: peak over capacity.  fits: as the constraints have it.  step_s: alone, or as played."""

    memory_frac: float
    fits: bool
    step_s: float = 0.0
    problem: str | None = None


class _Worker:
    """What a process keeps between its tasks: the scenario, its fabric, and times of units."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._fabric: Fabric = built_fabric(scenario)
        self._bounds = Bounds(scenario, self._fabric)

    def bounded(self, choices: Sequence[Choice]) -> list[tuple[float, tuple[Any, ...]] | None]:
        """Bound of each choice and what decides its step; None where it is not legal."""
        found: list[tuple[float, tuple[Any, ...]] | None] = []
        for choice in choices:
            made = legal(self._scenario, choice)
            if isinstance(made, str):
                found.append(None)
                continue
            try:
                found.append((self._bounds.of(made).step_s, played_as(made, choice)))
            except SimError:
                # What cannot be costed is told when the layout's turn comes, which is at once.
                found.append((0.0, played_as(made, choice)))
        return found

    def answered(self, task: _Task) -> _Answer:
        """A layout that is legal, looked at closer."""
        made = legal(self._scenario, task.choice)
        assert not isinstance(made, str), "only legal layouts are looked at"
        try:
            stages = memory(made)
            frac = max(stage.peak_bytes / stage.capacity_bytes for stage in stages)
            fits = all(stage.fits for stage in stages) and all(each.holds(frac) for each in task.memory)
            if not fits:
                return _Answer(frac, fits=False)
            if task.what == "closer":
                return _Answer(frac, fits=True, step_s=lone_step_s(made, self._fabric))
            timeline = played(lower(made, self._fabric, "fused"), made)
            return _Answer(frac, fits=True, step_s=period_s(timeline))
        except SimError as error:
            return _Answer(0.0, fits=True, problem="; ".join(map(str, error.problems)))


_worker: list[_Worker] = []
"""The one of this process."""


def _begin(scenario: Scenario) -> None:
    _worker[:] = [_Worker(scenario)]


def _bounded(choices: Sequence[Choice]) -> list[tuple[float, tuple[Any, ...]] | None]:
    return _worker[0].bounded(choices)


def _answered(task: _Task) -> _Answer:
    return _worker[0].answered(task)


Map: TypeAlias = Callable[..., Iterator[Any]]
"""Applies a function to each item of a sequence; results in the order of the items."""


@contextmanager
def _processes(scenario: Scenario, workers: int) -> Iterator[Map]:
    """A map over `workers` processes; in this one where that is 1."""
    if workers == 1:
        here = _Worker(scenario)
        functions: dict[Callable[[Any], Any], Callable[[Any], Any]] = {
            _bounded: here.bounded,
            _answered: here.answered,
        }
        yield lambda function, items: (functions[function](item) for item in items)
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), _begin, (scenario,)) as pool:
        yield pool.map


@dataclass
class _State:
    """A search on its way. heap: (least step that is known, how much is known of it, layout)."""

    goal: Goal
    constraints: Sequence[Constraint]
    heap: list[tuple[float, int, Choice]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    ranking: list[Played] = field(default_factory=list)
    unplayable: list[tuple[Choice, str]] = field(default_factory=list)
    bound_s: dict[Choice, float] = field(default_factory=dict)

    @property
    def best_s(self) -> float:
        """Of what was played and meets the constraints."""
        return min((each.step_s for each in self.ranking), default=math.inf)

    def is_done(self) -> bool:
        """Whether nothing that is left can be better."""
        return not self.heap or self.best_s <= self.heap[0][0] * SAME

    def round(self, max_plays: float) -> list[tuple[float, int, Choice]]:
        """The next layouts to look at; none when nothing that is left can be better, or all plays are used up."""
        taken: list[tuple[float, int, Choice]] = []
        left = max_plays - self.counts["played"]
        while len(taken) < ROUND and not self.is_done():
            if self.heap[0][1] and sum(known for _, known, _ in taken) >= left:
                break
            taken.append(heapq.heappop(self.heap))
        return taken

    def take(self, entry: tuple[float, int, Choice], answer: _Answer) -> None:
        """What became of a layout."""
        bound_s, known, choice = entry
        if answer.problem is not None:
            self.unplayable.append((choice, answer.problem))
        elif not answer.fits:
            self.counts["memory"] += 1
        elif not known:
            heapq.heappush(self.heap, (max(bound_s, answer.step_s), 1, choice))
        else:
            self.counts["played"] += 1
            found = Played(choice, answer.step_s, answer.memory_frac, bound_s)
            if all(each.holds(_quantity(each.name, self.goal, answer.step_s)) for each in self.constraints):
                self.ranking.append(found)
            else:
                self.counts["result"] += 1


def _quantity(name: str, goal: Goal, step_s: float) -> float:
    match name:
        case "cost":
            return goal.cost(step_s)
        case "tokens_per_s_per_gpu":
            return goal.rate(step_s)
        case _:
            return step_s


def search(
    scenario: Scenario,
    goal: Goal,
    axes: Mapping[str, tuple[Any, ...] | None],
    *,
    constraints: Sequence[Constraint] = (),
    workers: int = 1,
    max_plays: int | None = None,
    on_progress: Callable[[str], None] = lambda _: None,
) -> Found:
    """Search the layouts of `scenario` over `axes` (see `sim.study.space.candidates`).

    scenario: one that passes its own checks; `stage_layers: balanced` is resolved for each layout.  workers: processes.
    max_plays: stop after so many layouts, with the gap that is left.

    Raises SimError where cost is asked for without a price, and where no layout is legal.
    """
    if goal.price is None and (goal.objective == "cost" or any(each.name == "cost" for each in constraints)):
        raise SimError("cost needs the price of a GPU-hour (allowed --price 2.50)")
    by_axis = [each for each in constraints if each.name in AXES_OF_A_SEARCH]
    by_memory = tuple(each for each in constraints if each.name == "memory")
    by_result = [each for each in constraints if each not in by_axis and each not in by_memory]
    everything = list(candidates(scenario, axes))
    wanted = [each for each in everything if all(one.holds(getattr(each, one.name)) for one in by_axis)]
    state = _State(goal, by_result)
    with _processes(scenario, workers) as apply:
        _bound_all(state, wanted, apply, on_progress)
        num_legal = len(state.heap)
        if not num_legal:
            raise SimError(f"no legal layout among {len(everything)} of the axes {', '.join(axes)}")
        while taken := state.round(math.inf if max_plays is None else max_plays):
            tasks = [_Task(choice, "play" if known else "closer", by_memory) for _, known, choice in taken]
            for entry, answer in zip(taken, apply(_answered, tasks), strict=True):
                state.take(entry, answer)
            on_progress(_told(state, num_legal))
    ranking = tuple(sorted(state.ranking, key=lambda each: (each.step_s, each.choice)))
    is_done = state.is_done()
    return Found(
        goal=goal,
        candidates=len(everything),
        legal=num_legal,
        duplicates=state.counts["duplicates"],
        excluded_by_axes=len(everything) - len(wanted),
        excluded_by_memory=state.counts["memory"],
        excluded_by_result=state.counts["result"],
        pruned_by_bound=sum(not known for _, known, _ in state.heap),
        pruned_alone=sum(known for _, known, _ in state.heap),
        unplayable=tuple(state.unplayable),
        ranking=ranking,
        num_played=state.counts["played"],
        left_s=None if is_done else state.heap[0][0],
        beaten_s=state.heap[0][0] if state.heap else math.inf,
    )


def goal_of(scenario: Scenario, objective: Objective, price: float | None = None) -> Goal:
    """What is asked of the scenario's step."""
    tokens = scenario.training.global_batch * scenario.training.seq_len
    return Goal(objective, num_gpus(scenario.topology), tokens, price)


def _bound_all(state: _State, choices: Sequence[Choice], apply: Map, on_progress: Callable[[str], None]) -> None:
    """Put every legal layout that no other one stands for into the heap."""
    chunks = [choices[start : start + CHUNK] for start in range(0, len(choices), CHUNK)]
    seen: set[tuple[Any, ...]] = set()
    done = 0
    for chunk, answers in zip(chunks, apply(_bounded, chunks), strict=True):
        for choice, answer in zip(chunk, answers, strict=True):
            if answer is None:
                continue
            bound_s, key = answer
            if key in seen:
                state.counts["duplicates"] += 1
                continue
            seen.add(key)
            state.heap.append((bound_s, 0, choice))
        done += len(chunk)
        on_progress(f"{done} of {len(choices)} layouts bounded")
    heapq.heapify(state.heap)


def _told(state: _State, num_legal: int) -> str:
    best = "none yet" if not state.ranking else f"{state.best_s:.4g} s"
    least = f"{state.heap[0][0]:.4g} s" if state.heap else "none left"
    return f"{state.counts['played']} of {num_legal} layouts played, best {best}, least bound left {least}"
