"""What to change next: a step replayed with one thing changed at a time, the most useful change first."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from sim.errors import SimError
from sim.program.balance import resolved
from sim.program.lower import lower
from sim.program.memory import memory
from sim.results.critical_path import CriticalPath, critical_path
from sim.results.steady import period_s
from sim.simulation import played
from sim.spec.conditions import built_fabric
from sim.spec.rescaled import NVLINK, rescaled
from sim.spec.scenario import Scenario
from sim.spec.topology import Fabric
from sim.study.space import MAX_MICRO_BATCH, MAX_VPP, Choice, fitting_schedules, legal, own_choice

SPEED_OF_A_STRAGGLER = 0.9


@dataclass(frozen=True)
class Change:
    """One thing that is changed, in words. factor: on a rate or a time, for the elasticity; None for a choice."""

    words: str
    scenario: Scenario
    fabric: Fabric
    factor: float | None = None


@dataclass(frozen=True)
class Outcome:
    """What a change does. step_s: of the changed scenario.  fits: whether it fits in memory; the step is what it would
    take if it did."""

    words: str
    step_s: float
    change_frac: float
    elasticity: float | None
    fits: bool

    @property
    def text(self) -> str:
        """One line of the ranked list.

        >>> Outcome("NVLink twice as fast", 9.0, -0.1, -0.152, True).text
        'NVLink twice as fast: -10.0 % (elasticity -0.15)'
        """
        notes = [] if self.elasticity is None else [f"elasticity {self.elasticity:+.2f}"]
        notes += [] if self.fits else ["does not fit in memory"]
        return f"{self.words}: {100 * self.change_frac:+.1f} %" + (f" ({', '.join(notes)})" if notes else "")


@dataclass(frozen=True)
class WhatIf:
    """A step, its critical path, and what changes would do, the most useful first; those that do not fit stand last."""

    step_s: float
    path: CriticalPath
    outcomes: tuple[Outcome, ...]
    unplayable: tuple[tuple[str, str], ...]


def what_if(scenario: Scenario, on_progress: Callable[[str], None] = lambda _: None) -> WhatIf:
    """Replay a scenario with each change that is legal for it."""
    scenario = resolved(scenario)
    fabric = built_fabric(scenario)
    timeline = played(lower(scenario, fabric, "fused"), scenario)
    step_s = period_s(timeline)
    outcomes, unplayable = [], []
    for change in changes(scenario, fabric):
        on_progress(change.words)
        try:
            changed_s = period_s(played(lower(change.scenario, change.fabric, "fused"), change.scenario))
        except SimError as error:
            unplayable.append((change.words, "; ".join(map(str, error.problems))))
            continue
        factor = change.factor
        elasticity = None if factor is None else math.log(changed_s / step_s) / math.log(factor)
        fits = all(stage.fits for stage in memory(change.scenario))
        outcomes.append(Outcome(change.words, changed_s, changed_s / step_s - 1.0, elasticity, fits))
    ranked = sorted(outcomes, key=lambda each: (not each.fits, each.change_frac, each.words))
    return WhatIf(step_s, critical_path(timeline), tuple(ranked), tuple(unplayable))


def changes(scenario: Scenario, fabric: Fabric) -> Iterator[Change]:
    """Every change that means something for the scenario: of the cluster, of its GPUs, and legal ones of the layout."""
    yield from _of_links(scenario, fabric)
    yield from _of_gpus(scenario, fabric)
    for words, choice in _of_layout(scenario):
        made = legal(scenario, choice)
        if isinstance(made, Scenario):
            yield Change(words, made, fabric)


def _of_links(scenario: Scenario, fabric: Fabric) -> Iterator[Change]:
    tiers = set(fabric.links.tiers)
    if NVLINK in tiers:
        yield Change("NVLink twice as fast", scenario, rescaled(fabric, nvlink=2.0), 2.0)
    if tiers - {NVLINK}:
        words = "links between nodes twice as fast" if NVLINK in tiers else "links twice as fast"
        yield Change(words, scenario, rescaled(fabric, network=2.0), 2.0)
    yield Change("latencies of links and launches of collectives halved", scenario, rescaled(fabric, latency=0.5), 0.5)


def _of_gpus(scenario: Scenario, fabric: Fabric) -> Iterator[Change]:
    gpu = scenario.gpu
    peaks = {name: 1.1 * rate for name, rate in gpu.peak_flop_per_s.items()}
    for words, update in (
        ("10 % more FLOP/s", {"peak_flop_per_s": peaks}),
        ("10 % more HBM bandwidth", {"hbm_bytes_per_s": 1.1 * gpu.hbm_bytes_per_s}),
    ):
        changed = scenario.model_copy(update={"gpu": gpu.model_copy(update=update)})
        yield Change(words, changed, fabric, 1.1)
    speeds = scenario.conditions.gpus
    slow = scenario.conditions.model_copy(update={"gpus": speeds | {0: SPEED_OF_A_STRAGGLER * speeds.get(0, 1.0)}})
    words = f"GPU 0 at {SPEED_OF_A_STRAGGLER:g} of its speed"
    yield Change(words, scenario.model_copy(update={"conditions": slow}), fabric, SPEED_OF_A_STRAGGLER)


def _of_layout(scenario: Scenario) -> Iterator[tuple[str, Choice]]:
    """Changes of the layout, whether legal or not."""
    own = own_choice(scenario)
    for size in (2 * own.micro_batch, own.micro_batch // 2):
        if 1 <= size <= MAX_MICRO_BATCH:
            yield f"micro-batch {size} instead of {own.micro_batch}", replace(own, micro_batch=size)
    for zero in (own.zero - 1, own.zero + 1):
        if 0 <= zero <= 3:
            yield f"ZeRO-{zero} instead of {own.zero}", replace(own, zero=zero)
    for recompute in ("none", "selective", "full"):
        if recompute != own.recompute:
            yield f"recompute {recompute} instead of {own.recompute}", replace(own, recompute=recompute)
    yield from _of_pipeline(scenario, own)


def _of_pipeline(scenario: Scenario, own: Choice) -> Iterator[tuple[str, Choice]]:
    if own.pp == 1:
        return
    for vpp in _other_chunks(scenario, own):
        for schedule in fitting_schedules(scenario, replace(own, vpp=vpp)):
            words = f"VPP {vpp} instead of {own.vpp}"
            told = words if schedule == own.schedule else f"{words} ({schedule})"
            yield told, replace(own, vpp=vpp, schedule=schedule)
    for schedule in ("zb_h1", "zb_2p"):
        if own.vpp == 1 and schedule != own.schedule:
            yield f"schedule {schedule} instead of {own.schedule}", replace(own, schedule=schedule)


def _other_chunks(scenario: Scenario, own: Choice) -> Iterator[int]:
    """The next number of chunks on each rank that is legal, upwards and downwards."""
    for numbers in (range(own.vpp + 1, MAX_VPP + 1), range(own.vpp - 1, 0, -1)):
        for vpp in numbers:
            choices = [
                replace(own, vpp=vpp, schedule=each) for each in fitting_schedules(scenario, replace(own, vpp=vpp))
            ]
            if any(isinstance(legal(scenario, choice), Scenario) for choice in choices):
                yield vpp
                break
