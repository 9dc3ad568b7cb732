"""Runs of a plan: one, or many in parallel from one seed."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import simpy

from sim.longrun.job import Band, Job
from sim.longrun.ledger import OF_SPARES
from sim.longrun.plan import Plan

CHUNKS_PER_WORKER = 8


@dataclass(frozen=True)
class Outcome:
    """One run. Seconds are of the job, node-seconds of all nodes, spares too, and each sums up to its total.

    kept, lost, replayed: steps that stand in the end, that were rolled back, and that were done once more.
    """

    wall_s: float
    is_finished: bool
    steps: int
    executed: int
    lost: int
    replayed: int
    tokens: float
    skipped_tokens: float
    seconds: dict[str, float]
    node_seconds: dict[str, float]
    failures: dict[str, int]
    restarts: int
    evictions: int
    evicted_lemons: int
    silent_found: int
    spikes: int
    healed: int
    false_alarms: int
    remedies: dict[str, int]
    violations: tuple[str, ...]
    bands: tuple[Band, ...] = ()

    @property
    def ettr(self) -> float:
        """Share of the job's time in steps that stand."""
        return self.seconds["progress"] / self.wall_s


def play(plan: Plan, seed: np.random.SeedSequence, *, with_bands: bool = False) -> Outcome:
    """One run; with its course as (start, end, cause), if wanted."""
    env = simpy.Environment()
    job = Job(env, plan, seed, with_bands=with_bands)
    env.run(until=env.process(job.run()))
    shop, ledger = job.shop, job.ledger
    shop.settle()
    wall_s = float(env.now)
    spares = dict(zip(OF_SPARES, (shop.idle_node_s, shop.away_node_s), strict=True))
    fleet_node_s = (plan.num_nodes + plan.file.spares.nodes) * wall_s
    spikes = job.spikes
    tokens_per_step = plan.phases[0].tokens_per_step
    return Outcome(
        wall_s=wall_s,
        is_finished=ledger.committed == plan.total_steps,
        steps=ledger.committed,
        executed=ledger.executed,
        lost=ledger.lost,
        replayed=ledger.replayed,
        tokens=plan.tokens_at(ledger.committed),
        skipped_tokens=spikes.skipped_batches * tokens_per_step,
        seconds=dict(ledger.seconds),
        node_seconds=ledger.node_seconds | spares,
        failures=dict(sorted(job.hazards.counts.items())),
        restarts=job.restarts,
        evictions=job.evictions,
        evicted_lemons=job.hazards.evicted_lemons,
        silent_found=job.silent_found,
        spikes=spikes.spikes,
        healed=spikes.healed,
        false_alarms=spikes.false_alarms,
        remedies=dict(sorted(spikes.remedies.items())),
        violations=tuple(ledger.violations(wall_s, fleet_node_s, sum(spares.values()))),
        bands=tuple(job.bands),
    )


def replicate(plan: Plan, replicas: int, workers: int | None = None) -> list[Outcome]:
    """`replicas` runs, each with its own seed of the file's; the same whatever the number of `workers`."""
    seeds = np.random.SeedSequence(plan.file.seed).spawn(replicas)
    workers = min(workers or os.cpu_count() or 1, replicas)
    one = partial(play, plan)
    if workers == 1:
        return list(map(one, seeds))
    chunk = max(1, replicas // (workers * CHUNKS_PER_WORKER))
    with ProcessPoolExecutor(workers) as pool:
        return list(pool.map(one, seeds, chunksize=chunk))
