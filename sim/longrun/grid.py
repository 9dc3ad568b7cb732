"""Goodput over the size of the cluster and the checkpoint interval, by the exact renewal form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sim.longrun.hazards import rate_per_s
from sim.longrun.plan import PhasePlan, Plan, saving_times
from sim.longrun.renewal import ettr, exact_interval_s
from sim.longrun.run import replicate
from sim.longrun.summary import Estimate, estimate

Floats = np.ndarray[tuple[int, int], np.dtype[np.float64]]


@dataclass(frozen=True)
class Grid:
    """ETTR, (sizes, intervals), and for each size the best interval, s, and the ETTR there."""

    gpus: tuple[int, ...]
    intervals_s: tuple[float, ...]
    ettr: Floats
    best_s: tuple[float, ...]
    best_ettr: tuple[float, ...]


def grid(plan: Plan, restart_s: float, sizes: Sequence[int], intervals_s: Sequence[float]) -> Grid:
    """The plan's failures, and a model's checkpoint of one size, on clusters of `sizes` GPUs.

    A failure while a checkpoint is written costs its time once more; the interval is no shorter than the write.
    """
    rows, best_s, best_ettr = [], [], []
    file = plan.file
    for gpus in sizes:
        nodes = max(1, gpus // file.gpus_per_node)
        mtbf_s = 1 / rate_per_s(file.failures, nodes)
        block_s, persist_s = _clocks(plan, nodes)
        restart = restart_s + persist_s
        rows.append([ettr(max(tau_s, persist_s), mtbf_s, block_s, restart) for tau_s in intervals_s])
        best_s.append(max(exact_interval_s(mtbf_s, block_s), persist_s))
        best_ettr.append(ettr(best_s[-1], mtbf_s, block_s, restart))
    return Grid(tuple(sizes), tuple(intervals_s), np.array(rows), tuple(best_s), tuple(best_ettr))


def _clocks(plan: Plan, num_nodes: int) -> tuple[float, float]:
    """Blocking and writing a checkpoint of the same size from so many nodes: shards shrink, storage stays."""
    saving, checkpoint = plan.saving, plan.file.checkpoint
    if saving.nbytes is None:
        return saving.block_s, saving.persist_s
    block_s = saving.block_s
    if checkpoint.mode != "sync" and checkpoint.snapshot_s is None:
        block_s *= plan.num_nodes / num_nodes
    timed = checkpoint.model_copy(update={"size_bytes": saving.nbytes, "snapshot_s": block_s})
    there = saving_times(timed, num_nodes, plan.file.gpus_per_node, None)
    return there.block_s, there.persist_s


def around(plan: Plan, points: int = 25) -> tuple[list[int], list[float]]:
    """Sizes from an eighth to eight times the plan's, and intervals from a sixtieth to sixty times its best one."""
    nodes = plan.num_nodes * np.geomspace(1 / 8, 8, 13)
    sizes = sorted({max(1, round(float(each))) * plan.file.gpus_per_node for each in nodes})
    best_s = max(exact_interval_s(plan.mtbf_s, plan.saving.block_s), plan.phases[-1].step_s)
    return sizes, [float(each) for each in best_s * np.geomspace(1 / 60, 60, points)]


@dataclass(frozen=True)
class Trial:
    """An interval that was simulated, s of training and steps, and its ETTR."""

    steps: int
    interval_s: float
    ettr: Estimate


def best_interval(plan: Plan, replicas: int, factors: Sequence[float], workers: int | None = None) -> list[Trial]:
    """ETTR by simulation with the interval of the longest phase times each factor, all from the same seeds.

    With the same seeds the same failures strike, so that the differences are those of the interval.
    """
    found = []
    for factor in factors:
        phases = tuple(_with_interval(plan, phase, factor) for phase in plan.phases)
        changed = replace(plan, phases=phases, interval_s=plan.interval_s * factor)
        outcomes = replicate(changed, replicas, workers)
        main = max(phases, key=lambda phase: phase.steps * phase.step_s)
        every = main.tiers[0].every_steps
        found.append(Trial(every, every * main.step_s, estimate([run.ettr for run in outcomes])))
    return found


def _with_interval(plan: Plan, phase: PhasePlan, factor: float) -> PhasePlan:
    storage, *others = phase.tiers
    least = max(1, math.ceil(plan.saving.persist_s / phase.step_s))
    every = max(least, round(storage.every_steps * factor))
    return replace(phase, tiers=(replace(storage, every_steps=every), *others))
