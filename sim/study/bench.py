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
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import simpy

from sim.program.lower import Fidelity
from sim.simulation import load, run

CLASSIC = "llama2-70b_128xh100_tp8-pp2-dp8"
LARGE = "llama3.1-405b_16384xh100_tp8-pp16-dp128"
LADDER = (128, 1_024, 16_384, 131_072)
PENDING = 256
"""Entries in the bare loops' heaps: two streams for each of 128 ranks."""


@dataclass(frozen=True)
class Timing:
    """One row: what ran, its median time, and what it is compared with.

    operations: heap entries, or operations on the streams of all ranks that were played (start and end of each stand in
    the timeline).  ratio: its operations/s over the bare heapq loop's.  peak_bytes: of the process, where it ran in
    one of its own and the system tells.
    """

    name: str
    seconds: float
    operations: int
    ratio: float | None = None
    peak_bytes: int | None = None

    @property
    def operations_per_s(self) -> float:
        """Operations over seconds."""
        return self.operations / self.seconds


def yardstick_heapq(num_events: int) -> None:
    """Pop entries in the order of time and call a function for each, which pushes the next one."""
    left = num_events - PENDING

    def callback(now: float, lane: int) -> None:
        nonlocal left
        if left > 0:
            left -= 1
            heapq.heappush(heap, (now + 1.0, lane, callback))

    heap: list[tuple[float, int, Callable[[float, int], None]]] = [(0.0, lane, callback) for lane in range(PENDING)]
    while heap:
        now, lane, call = heapq.heappop(heap)
        call(now, lane)


def yardstick_simpy(num_events: int) -> None:
    """Processes that wait for timeouts."""
    env = simpy.Environment()

    def waiting() -> simpy.events.ProcessGenerator:
        for _ in range(num_events // PENDING):
            yield env.timeout(1.0)

    for _ in range(PENDING):
        env.process(waiting())
    env.run()


def _median_s(call: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def yardsticks(num_events: int, repeats: int) -> tuple[Timing, Timing]:
    """The bare loops."""
    heap = Timing("bare heapq loop", _median_s(lambda: yardstick_heapq(num_events), repeats), num_events, 1.0)
    simpy_s = _median_s(lambda: yardstick_simpy(num_events), repeats)
    return heap, Timing("bare SimPy loop", simpy_s, num_events, heap.seconds / simpy_s)


def steps(heap: Timing, repeats: int, microbatches: int) -> Iterator[Timing]:
    """The classic 70B layout on 128 GPUs: a whole simulation (lower, play, summarise) at each fidelity.

    microbatches: of the full fidelity, which plays 128 ranks; the others have 128.
    """
    cases: tuple[tuple[Fidelity, int], ...] = (("fused", 128), ("folded", 128), ("full", microbatches))
    for fidelity, number in cases:
        scenario = load(CLASSIC, {"training.global_batch": number * 8})
        operations = len(run(scenario, fidelity).timeline.start_s)
        seconds = _median_s(partial(run, scenario, fidelity), repeats)
        name = f"70B, 128 GPUs, {number} micro-batches, {fidelity}"
        yield Timing(name, seconds, operations, operations / seconds / heap.operations_per_s)


def _rung(num_gpus: int) -> tuple[float, int, int | None]:
    """Time of one simulation that includes building the cluster, operations played, and the process's memory."""
    dp = num_gpus // 128
    changes = {"topology.nodes": num_gpus // 8, "layout.dp": dp, "training.global_batch": 16 * dp}
    scenario = load(LARGE, changes)
    run(load(CLASSIC, {"training.global_batch": 16}))
    start = time.perf_counter()
    operations = len(run(scenario).timeline.start_s)
    return time.perf_counter() - start, operations, _peak_bytes()


def _peak_bytes() -> int | None:
    """Greatest resident set of this process, as Linux tells it (getrusage counts the parent's in)."""
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return None if found is None else int(found[1]) * 1024


def ladder(sizes: tuple[int, ...] = LADDER) -> Iterator[Timing]:
    """The 405B at one pipeline of 128 GPUs and more and more replicas of it, each in a process of its own."""
    for num_gpus in sizes:
        with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
            seconds, operations, peak_bytes = pool.submit(_rung, num_gpus).result()
        yield Timing(f"405B, {num_gpus:,} GPUs", seconds, operations, peak_bytes=peak_bytes)
