"""A long run in tables: what `sim longrun` prints and what its page and JSON hold."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from sim import units
from sim.longrun.alarms import alarm, runbook_s
from sim.longrun.grid import Trial
from sim.longrun.ledger import GOOGLE
from sim.longrun.plan import Plan
from sim.longrun.summary import Estimate, Summary
from sim.report.tables import percent

Rows = list[list[str]]
FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Of the interval, that `--search` simulates."""

WORDS = {
    "progress": "steps that are kept",
    "straggler": "waiting for slow nodes",
    "degraded": "fewer replicas",
    "lost": "steps that are rolled back",
    "checkpoint": "training waits for checkpoints",
    "detect": "failure not noticed yet",
    "diagnose": "finding what broke",
    "reschedule": "starting on a spare",
    "wait_spare": "no spare: waiting for a repair",
    "reconfigure": "replicas leave and join",
    "init": "processes and communicators start",
    "load": "reading the checkpoint",
    "catch_up": "first steps are slower",
    "alarm": "looking into an alarm",
    "spare_idle": "spare nodes",
    "repair": "nodes in repair",
}
MILLION = 1e6
THOUSAND = 1e3


def content(found: Summary, trials: Sequence[Trial]) -> dict[str, Any]:
    """What `--json` holds."""
    return found.to_dict() | {"trials": [dataclasses.asdict(trial) for trial in trials]}


def sections(found: Summary, trials: Sequence[Trial]) -> list[tuple[str, Rows]]:
    """(title, rows with a head) of everything that is shown; tables that say nothing are left out."""
    tables = [
        (found.plan.file.name, list(_answers(found))),
        ("where the time goes", list(_causes(found))),
        ("checkpoint interval in storage, by the exact renewal form", list(_intervals(found))),
        ("checkpoint interval, simulated with the same failures", list(_trials(trials))),
        ("interruptions by component", list(_failures(found))),
        ("loss spikes: remedies in order", list(_remedies(found.plan))),
        ("loss spikes: looking for the cause, in order", list(_runbook(found.plan))),
        ("phases", list(_phases(found.plan))),
    ]
    return [(title, rows) for title, rows in tables if len(rows) > 1]


def _answers(found: Summary) -> Iterator[list[str]]:
    """The figures of the run, each with its interval and the spread of the runs."""
    yield ["figure", "mean", "95 % interval of the mean", "5 .. 95 % of runs"]
    yield ["ETTR", *_estimate(found.ettr, percent)]
    yield ["ETTR, exact renewal form, storage only", percent(found.ettr_closed_form), "", ""]
    measured = found.plan.file.measured
    if measured is not None:
        yield ["ETTR, published", percent(measured.ettr), "", ""]
    yield ["goodput of all GPUs, spares too", *_estimate(found.goodput, percent)]
    if found.mfu is not None and found.effective_mfu is not None:
        yield ["MFU of the run", percent(found.effective_mfu), f"of {percent(found.mfu)} in a step", ""]
    yield ["days", *_estimate(found.days, lambda value: f"{value:,.1f}")]
    yield ["tokens", *_estimate(found.tokens, lambda value: f"{value / MILLION / THOUSAND:,.0f} B")]
    yield ["interruptions", *_estimate(found.restarts, lambda value: f"{value:,.1f}")]
    yield ["GPU-hours", *_estimate(found.gpu_hours, lambda value: f"{value:,.0f}")]
    spares = found.spares_needed
    own = f"this run has {found.plan.file.spares.nodes}"
    yield ["spare nodes for 99.9 % of the time", "crews cannot keep up" if spares is None else f"{spares:,}", own, ""]
    if found.crew_wait_s is not None:
        yield ["wait for a repair crew", units.text(found.crew_wait_s, "s"), "by Erlang's formula", ""]
    if found.usd is not None:
        yield ["USD", *_estimate(found.usd, lambda value: f"{value / MILLION:,.2f} M")]
    if found.kwh is not None:
        yield ["energy", *_estimate(found.kwh, lambda value: f"{value / THOUSAND:,.0f} MWh")]
    if found.kg_co2 is not None:
        yield ["CO2", *_estimate(found.kg_co2, lambda value: f"{value / THOUSAND:,.0f} t")]


def _estimate(value: Estimate, text: Any) -> list[str]:
    interval = "" if value.low is None or value.high is None else f"{text(value.low)} .. {text(value.high)}"
    return [text(value.mean), interval, f"{text(value.p5)} .. {text(value.p95)}"]


def _causes(found: Summary) -> Iterator[list[str]]:
    yield ["cause", "job's time", "all nodes", "class of ml-goodput-measurement", "what"]
    for cause, share in found.node_share_by_cause.items():
        if share > 0:
            own = found.share_by_cause.get(cause)
            yield [cause, "" if own is None else _fine(own), _fine(share), GOOGLE.get(cause, ""), WORDS[cause]]


def _fine(share: float) -> str:
    return f"{100 * share:.2f} %"


def _intervals(found: Summary) -> Iterator[list[str]]:
    yield ["interval", "training between", "steps", "ETTR", "against the best"]
    best = max(habit.ettr for habit in found.habits)
    for habit in found.habits:
        behind = f"{100 * (habit.ettr - best):.2f} points"
        yield [habit.name, units.text(habit.interval_s, "s"), f"{habit.steps:,}", _fine(habit.ettr), behind]


def _trials(trials: Sequence[Trial]) -> Iterator[list[str]]:
    yield ["training between", "steps", "ETTR", "95 % interval of the mean"]
    for trial in trials:
        mean, interval, _ = _estimate(trial.ettr, _fine)
        yield [units.text(trial.interval_s, "s"), f"{trial.steps:,}", mean, interval]


def _failures(found: Summary) -> Iterator[list[str]]:
    yield ["component", "a run", "share"]
    total = sum(found.failures_per_run.values())
    for name, count in sorted(found.failures_per_run.items(), key=lambda item: -item[1]):
        yield [name, f"{count:,.2f}", percent(count / total)]


def _remedies(plan: Plan) -> Iterator[list[str]]:
    """Each remedy's price: steps done again and the start, and the tokens that are left out."""
    yield ["remedy", "cures", "steps again", "time", "tokens left out"]
    spikes, phase = plan.file.spikes, plan.phases[0]
    if spikes is None:
        return
    seen = alarm(spikes)
    for remedy in spikes.remedies:
        again = remedy.rollback_steps + seen.delay_steps + phase.tiers[0].every_steps / 2
        restart_s = plan.file.recovery.init_s + plan.saving.load_s + plan.file.recovery.catch_up_s
        time_s = again * phase.step_s + restart_s + runbook_s(spikes.runbook)
        skipped = f"{remedy.skip_batches * phase.tokens_per_step / MILLION:,.0f} M"
        yield [remedy.action, percent(remedy.cures_frac), f"{again:,.0f}", units.text(time_s, "s"), skipped]
    pause = "the first remedy" if spikes.acts_alone else f"a look of {units.text(runbook_s(spikes.runbook), 's')}"
    yield ["false alarm", "", f"every {seen.false_every_steps:,.3g} steps", pause, ""]


def _runbook(plan: Plan) -> Iterator[list[str]]:
    yield ["look at", "time", "finds it", "reached by"]
    spikes, still = plan.file.spikes, 1.0
    for step in spikes.runbook if spikes is not None else ():
        yield [step.look_at, units.text(step.time_s, "s"), percent(step.finds_frac), percent(still)]
        still *= 1 - step.finds_frac


def _phases(plan: Plan) -> Iterator[list[str]]:
    yield ["phase", "steps", "step", "tokens", "checkpoint every"]
    for phase in plan.phases:
        tokens = f"{phase.steps * phase.tokens_per_step / MILLION / THOUSAND:,.0f} B"
        every = f"{phase.tiers[0].every_steps:,} steps"
        yield [phase.name, f"{phase.steps:,}", units.text(phase.step_s, "s"), tokens, every]
