"""Many cases played on all cores: each scenario once, and never again while neither it nor the simulator changes."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import sim
from sim.errors import SimError
from sim.program.memory import StageMemory
from sim.simulation import simulate
from sim.spec.flops import model_flop
from sim.spec.load import dump
from sim.spec.scenario import Scenario
from sim.validation.case import Case, Maker
from sim.validation.published import PublishedRun

MODEL_PACKAGES = ("spec", "cost", "program", "engine", "results")
"""Packages whose code decides what a scenario takes; the catalogue's data is in the resolved scenario itself."""

T = TypeVar("T")
R = TypeVar("R")
Told = Callable[[str], None]


@dataclass(frozen=True)
class Played:
    """What is kept of a simulated step: seconds, bytes of the fullest GPU in three counts, and where the time went.

    error: why it could not be played, else empty.  wall_s: what the simulation took, which is no result.
    """

    step_time_s: float = 0.0
    breakdown_s: dict[str, float] = field(default_factory=dict)
    exposed_s: dict[str, float] = field(default_factory=dict)
    peak_bytes: float = 0.0
    reserved_bytes: float = 0.0
    allocated_bytes: float = 0.0
    fits: bool = True
    model_flop: float = 0.0
    peak_flop_per_s: float = 0.0
    error: str = ""
    wall_s: float = 0.0


@lru_cache(maxsize=1)
def code_version() -> str:
    """Fingerprint of the code that a simulated time depends on."""
    root = Path(sim.__file__).resolve().parent
    digest = hashlib.sha256()
    for path in sorted(path for package in MODEL_PACKAGES for path in (root / package).rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def key_of(scenario: Scenario) -> str:
    """What two scenarios share that take the same time: all but what they are called and what was measured."""
    values = dump(scenario)
    for name in ("name", "variant", "measured"):
        values.pop(name)
    values["model"].pop("name")
    text = json.dumps([code_version(), values], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


class Cache:
    """A file of JSON lines, one a played scenario, written as they come, so that a run that stops can go on."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.known: dict[str, Played] = {}
        if path is not None and path.is_file():
            self.known = dict(_entries(path))

    def add(self, key: str, played: Played) -> None:
        """Keep one more."""
        self.known[key] = played
        if self.path is None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"key": key, **asdict(played)}) + "\n")
        except OSError as error:
            raise SimError(f"cannot write {self.path}: {error.strerror or error}") from error


def _entries(path: Path) -> Iterator[tuple[str, Played]]:
    """Entries of a cache; a line that a stop cut off, or of another version, is passed over."""
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
            yield entry.pop("key"), Played(**entry)
        except (ValueError, TypeError, KeyError, AttributeError):
            continue


def default_cache() -> Path:
    """Where played scenarios are kept: the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "pretraining-simulator" / "runs.jsonl"


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def play_all(
    runs: Sequence[PublishedRun],
    *,
    cache: Cache,
    jobs: int | None = None,
    told: Told = lambda _: None,
    is_paced: bool = True,
) -> list[tuple[Case, Played | None]]:
    """Every row with its played step; None where it has no scenario or was refused. In the order of the rows.

    jobs: processes, all cores by default.  told: is called with a line for each scenario that is played.  is_paced:
    whether kernels run at the pace of their stack, else as in microbenchmarks.
    """
    workers = jobs or num_cores()
    cases = list(_mapped(_make, runs, workers))
    if not is_paced:
        cases = [_without_pace(case) for case in cases]
    keys = {index: key_of(case.scenario) for index, case in enumerate(cases) if case.scenario is not None}
    owner: dict[str, int] = {}
    for index, key in keys.items():
        if key not in cache.known:
            owner.setdefault(key, index)
    shortest_first = sorted(owner.items(), key=lambda item: _effort(cases[item[1]].scenario))
    todo = [(key, cases[index].scenario) for key, index in shortest_first]
    for (key, _), played in _finished(_play, todo, workers):
        cache.add(key, played)
        told(f"{cases[owner[key]].run.case_id}: {played.error or f'{played.step_time_s:.3f} s'}")
    return [(case, cache.known[keys[index]] if index in keys else None) for index, case in enumerate(cases)]


def _without_pace(case: Case) -> Case:
    if case.scenario is None:
        return case
    stack = case.scenario.stack.model_copy(update={"pace": {}})
    return replace(case, scenario=case.scenario.model_copy(update={"stack": stack}))


def _effort(scenario: Scenario | None) -> int:
    """Grows with what a step takes to play: layers that pipeline ranks pass micro-batches through."""
    assert scenario is not None
    layout, training = scenario.layout, scenario.training
    assert layout.dp is not None
    num_microbatches = training.global_batch // (layout.dp * training.micro_batch)
    return layout.pp * layout.vpp * num_microbatches * scenario.model.num_layers


_MAKER: list[Maker] = []


def _make(run: PublishedRun) -> Case:
    """The case of a row, by this process's own maker."""
    if not _MAKER:
        _MAKER.append(Maker())
    return _MAKER[0].case(run)


def _play(item: tuple[str, Scenario | None]) -> Played:
    scenario = item[1]
    assert scenario is not None
    start = time.perf_counter()
    try:
        result = simulate(scenario)
    except SimError as error:
        return Played(error="; ".join(str(problem) for problem in error.problems))
    training = scenario.training

    def fullest(count: Callable[[StageMemory], float]) -> float:
        return max(map(count, result.memory))

    return Played(
        step_time_s=result.step_time_s,
        breakdown_s=result.breakdown_s,
        exposed_s=result.exposed_s_by_kind,
        peak_bytes=result.peak_bytes,
        reserved_bytes=fullest(lambda stage: stage.reserved_bytes),
        allocated_bytes=fullest(lambda stage: stage.allocated_bytes),
        fits=result.fits,
        model_flop=training.global_batch * model_flop(scenario.model, training.seq_len, causal=False),
        peak_flop_per_s=result.num_gpus * scenario.gpu.peak_flop_per_s[training.precision],
        wall_s=round(time.perf_counter() - start, 3),
    )


def _pool(workers: int) -> ProcessPoolExecutor:
    # A fork of a process that has threads may hang.
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))


def _mapped(function: Callable[[T], R], items: Sequence[T], workers: int) -> Iterator[R]:
    """`function` of every item, in order; in this process where there is little to do."""
    if workers == 1 or len(items) < 4 * workers:
        yield from map(function, items)
        return
    with _pool(workers) as pool:
        yield from pool.map(function, items, chunksize=8)


def _finished(function: Callable[[T], R], items: Sequence[T], workers: int) -> Iterable[tuple[T, R]]:
    """(item, result) as they come."""
    if workers == 1 or len(items) <= workers:
        for item in items:
            yield item, function(item)
        return
    with _pool(workers) as pool:
        futures: dict[Any, T] = {pool.submit(function, item): item for item in items}
        for future in as_completed(futures):
            yield futures[future], future.result()
