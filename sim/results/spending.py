"""What a step and a whole run take: energy, carbon and money."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sim import units
from sim.cost.power import communication_w, compute_w, idle_w, kernel_j, node_w
from sim.engine.timeline import Timeline
from sim.program.operations import Compute
from sim.results.busy import COMPUTE_SLOWDOWN, Communication
from sim.results.idle import compute_slots
from sim.spec.expenses import electricity_of, price_of
from sim.spec.scenario import Scenario

COMMUNICATION = "communication"
WAITING = "waiting"
J_BY_KWH = 3.6e6
HOUR_S = units.parse("1 h", "s")


@dataclass(frozen=True)
class RunSpending:
    """A whole run of steps that follow each other without a break: no failure, no checkpoint, no evaluation."""

    tokens: float
    steps: float
    time_s: float
    gpu_hours: float
    energy_j: float
    carbon_kg: float
    usd: float | None


@dataclass(frozen=True)
class Spending:
    """What a step takes on all GPUs. Energies in J, powers in W, carbon in kg of CO2 equivalents, money in US dollars.

    gpu_w: mean power of a GPU.  gpu_j_by_cause: energy of all GPUs by kind of kernel, while they only communicate, and
    while they wait; it adds up to `gpu_j`.  gpu_w_by_cause: mean power of a GPU while it is busy so.  node_j: of the
    nodes without their GPUs.  energy_j: (gpu_j + node_j) x pue.  usd: GPU-hours x price; None where nobody gave one.
    """

    gpu_w: float
    gpu_w_by_cause: dict[str, float]
    gpu_j_by_cause: dict[str, float]
    gpu_j: float
    node_j: float
    pue: float
    energy_j: float
    carbon_kg_per_kwh: float
    electricity_source: str
    carbon_kg: float
    gpu_hours: float
    price: str | None
    usd_per_gpu_hour: float | None
    price_date: str | None
    price_source: str | None
    usd: float | None
    run: RunSpending | None


@dataclass(frozen=True)
class Draw:
    """Of one simulated rank by cause: for how long, s, and how much energy, J."""

    seconds: dict[str, float]
    joules: dict[str, float]


def draw(timeline: Timeline, scenario: Scenario, index: int, busy: Communication, step_s: float) -> Draw:
    """A simulated rank during a step of `step_s`. busy: of communication of any kind (`sim.results.busy`)."""
    program, gpu = timeline.program, scenario.gpu
    slots = compute_slots(timeline, index)
    size = len(program.payloads)
    counts = np.bincount(program.payload[slots], minlength=size).tolist()
    paces = np.bincount(program.payload[slots], weights=program.pace[slots], minlength=size).tolist()
    seconds: dict[str, float] = {}
    joules: dict[str, float] = {}
    for count, pace, payload, times in zip(counts, paces, program.payloads, timeline.kernel_s, strict=True):
        if not (count and isinstance(payload, Compute)):
            continue
        for kernel, alone_s in zip(payload.kernels, times, strict=True):
            cause = "recompute" if payload.is_recompute else kernel.cause
            seconds[cause] = seconds.get(cause, 0.0) + pace * alone_s
            joules[cause] = joules.get(cause, 0.0) + count * kernel_j(kernel, gpu, alone_s * pace / count)
    took_s = float((timeline.end_s[slots] - timeline.start_s[slots]).sum())
    alone_s = busy.running_s - busy.overlapped_s
    rest_s = {
        COMPUTE_SLOWDOWN: (max(took_s - sum(seconds.values()), 0.0), compute_w(gpu)),
        COMMUNICATION: (alone_s, communication_w(gpu)),
        WAITING: (max(step_s - took_s - alone_s, 0.0), idle_w(gpu)),
    }
    for cause, (time_s, power_w) in rest_s.items():
        seconds[cause], joules[cause] = time_s, time_s * power_w
    return Draw(seconds, joules)


def spending(draws: list[tuple[int, Draw]], scenario: Scenario, step_s: float, tokens: float) -> Spending:
    """All ranks together. draws: how many real ranks each stands for, and what it draws.  tokens: of a step."""
    gpus = sum(count for count, _ in draws)
    causes = sorted({cause for _, each in draws for cause in each.joules})
    joules = {cause: sum(count * each.joules.get(cause, 0.0) for count, each in draws) for cause in causes}
    seconds = {cause: sum(count * each.seconds.get(cause, 0.0) for count, each in draws) for cause in causes}
    gpu_j = sum(joules.values())
    node_j = gpus * node_w(scenario.gpu) * step_s
    electricity = electricity_of(scenario.cost)
    energy_j = (gpu_j + node_j) * electricity.pue
    carbon_kg = energy_j / J_BY_KWH * electricity.carbon_kg_per_kwh
    gpu_hours = gpus * step_s / HOUR_S
    name, price = price_of(scenario.cost, scenario.gpu.name) or (None, None)
    usd = None if price is None else gpu_hours * price.usd_per_gpu_hour
    run = None
    if scenario.cost.tokens is not None:
        steps = scenario.cost.tokens / tokens
        run = RunSpending(
            tokens=scenario.cost.tokens,
            steps=steps,
            time_s=steps * step_s,
            gpu_hours=steps * gpu_hours,
            energy_j=steps * energy_j,
            carbon_kg=steps * carbon_kg,
            usd=None if usd is None else steps * usd,
        )
    return Spending(
        gpu_w=gpu_j / (gpus * step_s),
        gpu_w_by_cause={cause: joules[cause] / seconds[cause] for cause in causes if seconds[cause] > 0},
        gpu_j_by_cause={cause: joules[cause] for cause in causes if seconds[cause] > 0},
        gpu_j=gpu_j,
        node_j=node_j,
        pue=electricity.pue,
        energy_j=energy_j,
        carbon_kg_per_kwh=electricity.carbon_kg_per_kwh,
        electricity_source=electricity.source,
        carbon_kg=carbon_kg,
        gpu_hours=gpu_hours,
        price=name,
        usd_per_gpu_hour=price.usd_per_gpu_hour if price else None,
        price_date=price.date if price else None,
        price_source=price.source if price else None,
        usd=usd,
        run=run,
    )
