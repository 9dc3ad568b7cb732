"""How fast the simulator is, beside yardsticks that are measured in the same run.

Rates are compared with a bare heapq loop that calls a function for every entry, the least that a discrete-event
simulation in Python can cost, and with a bare loop of SimPy timeouts.
"""

from __future__ import annotations

import heapq
import re
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import simpy

from sim.program.lower import Fidelity, lower
from sim.results.summarise import summarise
from sim.simulation import Simulation, load, own_version, played, run
from sim.spec.conditions import built_fabric
from sim.spec.scenario import Scenario

CLASSIC = "llama2-70b_128xh100_tp8-pp2-dp8"
LARGE = "llama3.1-405b_16384xh100_tp8-pp16-dp128"
LADDER = (128, 1_024, 16_384, 131_072)
STRAGGLER: dict[str, object] = {"conditions.gpus": {5: 0.8}}
"""One GPU at four fifths of its speed."""
PENDING = 256
"""Entries in the bare loops' heaps: two streams for each of 128 ranks."""


@dataclass(frozen=True)
class Parts:
    """Where the time of one simulation goes, s. lower_s includes building the cluster's tables."""

    lower_s: float
    play_s: float
    summarise_s: float

    @property
    def total_s(self) -> float:
        """All of it."""
        return self.lower_s + self.play_s + self.summarise_s


@dataclass(frozen=True)
class Timing:
    """One row: what ran, its median time, and what it is compared with.

    operations: heap entries, or operations on the streams of all ranks that were played (start and end of each stand in
    the timeline).  parts: of a simulation, those of the run with the median time.  ratio, play_ratio: operations/s of
    the whole and of playing alone over the bare heapq loop's.  base: name of the row that its time is compared with.
    slower: its time over that row's.  peak_bytes: of the process, where it ran in one of its own and the system tells.
    """

    name: str
    seconds: float
    operations: int
    parts: Parts | None = None
    ratio: float | None = None
    play_ratio: float | None = None
    base: str | None = None
    slower: float | None = None
    peak_bytes: int | None = None

    @property
    def operations_per_s(self) -> float:
        """Operations over seconds."""
        return self.operations / self.seconds


@dataclass(frozen=True)
class Point:
    """One simulation of a curve: the value on the axis, and where its time went."""

    value: int
    operations: int
    parts: Parts


@dataclass(frozen=True)
class Axis:
    """What grows along a curve while the rest of the scenario stays.

    held: what is simulated.  changes: the overrides that a value stands for.
    """

    name: str
    held: str
    scenario: str
    values: tuple[int, ...]
    changes: Callable[[int], dict[str, object]]


@dataclass(frozen=True)
class Curve:
    """Cost of a simulation along one axis."""

    axis: str
    held: str
    points: tuple[Point, ...]


def of_replicas(num_gpus: int) -> dict[str, object]:
    """Overrides of the 405B: replicas of one pipeline of 128 GPUs, 16 micro-batches each."""
    dp = num_gpus // 128
    return {"topology.nodes": num_gpus // 8, "layout.dp": dp, "training.global_batch": 16 * dp}


AXES = (
    Axis(
        "GPUs",
        "Llama 405B, TP8 x PP16, 16 micro-batches, more replicas",
        LARGE,
        (128, 512, 2_048, 8_192, 32_768, 131_072),
        of_replicas,
    ),
    Axis(
        "micro-batches",
        "Llama 70B, TP8 x PP2 x DP8",
        CLASSIC,
        (4, 8, 16, 32, 64, 128, 256, 512, 1_024),
        lambda number: {"training.global_batch": 8 * number},
    ),
    Axis(
        "stages",
        "Llama 70B, TP8 x DP8, 128 micro-batches, 64 GPUs a stage",
        CLASSIC,
        (1, 2, 4, 8, 16, 40, 80),
        lambda pp: {"layout.pp": pp, "topology.nodes": 8 * pp},
    ),
    Axis(
        "layers",
        "Llama 70B made deeper, TP8 x PP2 x DP8, 128 micro-batches",
        CLASSIC,
        (8, 16, 32, 64, 128, 256, 512),
        lambda layers: {"model.num_layers": layers},
    ),
)
"""The axes that a simulation's cost is drawn against; values grow."""


def yardstick_heapq(num_events: int) -> float:
    """Pop entries in the order of time and call a function for each, which pushes the next one.

    Returns the time of the last one; every entry waits 1 s for the one before, and the first are at 0.
    """
    left = num_events - PENDING
    now = 0.0

    def callback(now: float, lane: int) -> None:
        nonlocal left
        if left > 0:
            left -= 1
            heapq.heappush(heap, (now + 1.0, lane, callback))

    heap: list[tuple[float, int, Callable[[float, int], None]]] = [(0.0, lane, callback) for lane in range(PENDING)]
    while heap:
        now, lane, call = heapq.heappop(heap)
        call(now, lane)
    return now


def yardstick_simpy(num_events: int) -> float:
    """Processes that wait for timeouts of 1 s. Returns the time of the last one; the first are at 1."""
    env = simpy.Environment()
    rounds, remainder = divmod(num_events, PENDING)

    def waiting(number: int) -> simpy.events.ProcessGenerator:
        for _ in range(number):
            yield env.timeout(1.0)

    for lane in range(PENDING):
        env.process(waiting(rounds + (lane < remainder)))
    env.run()
    return float(env.now)


def _median_s(call: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def yardsticks(num_events: int, repeats: int) -> tuple[Timing, Timing]:
    """The bare loops. num_events: at least PENDING."""
    assert num_events >= PENDING
    heap_s = _median_s(lambda: yardstick_heapq(num_events), repeats)
    simpy_s = _median_s(lambda: yardstick_simpy(num_events), repeats)
    heap = Timing("bare heapq loop", heap_s, num_events, ratio=1.0)
    return heap, Timing("bare SimPy loop", simpy_s, num_events, ratio=heap_s / simpy_s)


def timed(scenario: Scenario, fidelity: Fidelity = "fused") -> tuple[Simulation, Parts]:
    """`sim.simulation.run` with a look at the clock between its words."""
    start = time.perf_counter()
    fabric = built_fabric(scenario)
    program = lower(scenario, fabric, fidelity)
    lowered = time.perf_counter()
    timeline = played(program, scenario)
    done = time.perf_counter()
    result = summarise(timeline, scenario, own_version())
    end = time.perf_counter()
    return Simulation(scenario, fabric, timeline, result), Parts(lowered - start, done - lowered, end - done)


def _median(scenario: Scenario, repeats: int, fidelity: Fidelity = "fused") -> tuple[int, Parts]:
    """Operations, and parts of the run with the median time (of an even number of runs, the slower one)."""
    runs = [_counted(scenario, fidelity) for _ in range(repeats)]
    return sorted(runs, key=lambda counted: counted[1].total_s)[repeats // 2]


def _counted(scenario: Scenario, fidelity: Fidelity) -> tuple[int, Parts]:
    simulation, parts = timed(scenario, fidelity)
    return len(simulation.timeline.start_s), parts


def _warm_up() -> None:
    """The first simulation of a process also pays for caches and lazy imports."""
    run(load(CLASSIC, {"training.global_batch": 16}))


def steps(heap: Timing, repeats: int, microbatches: int) -> Iterator[Timing]:
    """The classic 70B layout on 128 GPUs: a whole simulation (lower, play, summarise) at each fidelity.

    microbatches: of the full fidelity, which plays 128 ranks, once; the others have 128.
    """
    cases: tuple[tuple[Fidelity, int], ...] = (("fused", 128), ("folded", 128), ("full", microbatches))
    _warm_up()
    for fidelity, number in cases:
        scenario = load(CLASSIC, {"training.global_batch": number * 8})
        operations, parts = _median(scenario, 1 if fidelity == "full" else repeats, fidelity)
        yield Timing(
            f"Llama 70B, 128 GPUs, {number} micro-batches, {fidelity}",
            parts.total_s,
            operations,
            parts,
            ratio=operations / parts.total_s / heap.operations_per_s,
            play_ratio=operations / parts.play_s / heap.operations_per_s,
        )


def straggler(num_gpus: int, repeats: int) -> tuple[Timing, Timing]:
    """The 405B with all GPUs alike, and with one that is slower, which splits what it touches from the rest."""
    _warm_up()
    changes = of_replicas(num_gpus)
    operations, parts = _median(load(LARGE, changes), repeats)
    alike = Timing(f"Llama 405B, {num_gpus:,} GPUs, all alike", parts.total_s, operations, parts)
    operations, parts = _median(load(LARGE, changes | STRAGGLER), repeats)
    name = f"Llama 405B, {num_gpus:,} GPUs, one straggler"
    return alike, _against(alike, Timing(name, parts.total_s, operations, parts))


def _against(base: Timing, timing: Timing) -> Timing:
    return replace(timing, base=base.name, slower=timing.seconds / base.seconds)


def _rung(num_gpus: int, repeats: int) -> Timing:
    """Simulations that include building the cluster, and the process's memory."""
    _warm_up()
    operations, parts = _median(load(LARGE, of_replicas(num_gpus)), repeats)
    return Timing(f"Llama 405B, {num_gpus:,} GPUs", parts.total_s, operations, parts, peak_bytes=_peak_bytes())


def _peak_bytes() -> int | None:
    """Greatest resident set of this process, as Linux tells it (getrusage counts the parent's in)."""
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return None if found is None else int(found[1]) * 1024


def ladder(sizes: tuple[int, ...], repeats: int) -> Iterator[Timing]:
    """The 405B at one pipeline of 128 GPUs and more and more replicas of it, each in a process of its own."""
    first: Timing | None = None
    for num_gpus in sizes:
        with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
            timing = pool.submit(_rung, num_gpus, repeats).result()
        yield timing if first is None else _against(first, timing)
        first = first or timing


def curve(axis: Axis, repeats: int, num_values: int) -> Curve:
    """Cost along the first `num_values` values of `axis`."""
    _warm_up()
    points = []
    for value in axis.values[:num_values]:
        operations, parts = _median(load(axis.scenario, axis.changes(value)), repeats)
        points.append(Point(value, operations, parts))
    return Curve(axis.name, axis.held, tuple(points))
