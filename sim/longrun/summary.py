"""What many runs say together: goodput, days, money and energy, each with its interval."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from sim.longrun.hazards import DAY_S, component_rate_per_s
from sim.longrun.ledger import CAUSES, GOOGLE, OF_SPARES
from sim.longrun.plan import Plan
from sim.longrun.queues import erlang_wait_s, spares_needed
from sim.longrun.renewal import RULES, ettr
from sim.longrun.run import Outcome

HOUR_S = 3600.0
KILO = 1000.0
LEVEL = 0.95
AT_HAND_FRAC = 0.999


@dataclass(frozen=True)
class Estimate:
    """Mean over runs, its 95 % confidence interval (Student's t), and the 5th, 50th and 95th percentile of the runs.

    low and high are None for a single run, which says nothing about the spread.
    """

    mean: float
    low: float | None
    high: float | None
    p5: float
    p50: float
    p95: float


@dataclass(frozen=True)
class Habit:
    """A checkpoint interval, s of training between two, and the ETTR of the exact renewal form with it."""

    name: str
    interval_s: float
    steps: int
    ettr: float


@dataclass(frozen=True)
class Summary:
    """A long run: what was asked, and what the runs give. All times in s, shares in 0..1.

    ettr: share of time in steps that stand. goodput: share of the time of all GPUs, spares too.  mfu: of the played
    steps, weighted by their time; None where a step's time was given.  effective_mfu: that times ettr.
    node_share_by_cause: share of the node-seconds of job and spares.  share_by_class: of the job's time, in the
    classes of ml-goodput-measurement.  spares_needed: nodes with which one is at hand for 99.9 % of the time, if nodes
    leave one by one; None where crews cannot keep up.  crew_wait_s: until a crew is free, by Erlang's formula; None
    for any number of crews, and where they cannot keep up.
    """

    plan: Plan
    outcomes: tuple[Outcome, ...]
    restart_s: float
    ettr: Estimate
    ettr_closed_form: float
    goodput: Estimate
    mfu: float | None
    effective_mfu: float | None
    days: Estimate
    tokens: Estimate
    restarts: Estimate
    gpu_hours: Estimate
    usd: Estimate | None
    kwh: Estimate | None
    kg_co2: Estimate | None
    share_by_cause: dict[str, float]
    node_share_by_cause: dict[str, float]
    share_by_class: dict[str, float]
    failures_per_run: dict[str, float]
    habits: tuple[Habit, ...]
    spares_needed: int | None
    crew_wait_s: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values with stable keys: what `--json` holds. Courses and runs are left out."""
        values = {
            field.name: _plain(getattr(self, field.name))
            for field in dataclasses.fields(self)
            if field.name not in ("plan", "outcomes")
        }
        plan = self.plan
        values["name"] = plan.file.name
        values["plan"] = {
            "num_gpus": plan.num_gpus,
            "spare_nodes": plan.file.spares.nodes,
            "mtbf_s": plan.mtbf_s,
            "checkpoint": dataclasses.asdict(plan.saving) | {"interval_s": plan.interval_s},
            "phases": [dataclasses.asdict(phase) for phase in plan.phases],
            "notes": list(plan.notes),
        }
        values["runs"] = len(self.outcomes)
        values["finished"] = sum(outcome.is_finished for outcome in self.outcomes)
        values["violations"] = sum(len(outcome.violations) for outcome in self.outcomes)
        counts = (
            "executed",
            "steps",
            "lost",
            "replayed",
            "evictions",
            "silent_found",
            "spikes",
            "healed",
            "false_alarms",
        )
        runs = len(self.outcomes)
        values["per_run"] = {name: sum(getattr(outcome, name) for outcome in self.outcomes) / runs for name in counts}
        if plan.file.measured is not None:
            values["measured"] = plan.file.measured.model_dump()
        return values


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def summary(plan: Plan, outcomes: Sequence[Outcome]) -> Summary:
    """The figures of a plan's runs."""

    def over(value: Callable[[Outcome], float]) -> Estimate:
        return estimate([value(outcome) for outcome in outcomes])

    cost, nodes = plan.file.cost, plan.num_nodes + plan.file.spares.nodes
    per_node = plan.file.gpus_per_node
    restart_s = expected_restart_s(plan)
    found = over(lambda run: run.ettr)
    mfu = _mfu(plan)
    campaign = cost.campaign if cost is not None else 1.0

    def gpu_hours(run: Outcome) -> float:
        return campaign * nodes * per_node * run.wall_s / HOUR_S

    def kwh(run: Outcome) -> float:
        return campaign * _kwh(plan, run)

    carbon = cost.kg_co2_per_kwh if cost is not None else None
    return Summary(
        plan=plan,
        outcomes=tuple(outcomes),
        restart_s=restart_s,
        ettr=found,
        ettr_closed_form=_closed_form(plan, restart_s),
        goodput=over(lambda run: run.node_seconds["progress"] / (nodes * run.wall_s)),
        mfu=mfu,
        effective_mfu=None if mfu is None else mfu * found.mean,
        days=over(lambda run: run.wall_s / DAY_S),
        tokens=over(lambda run: run.tokens),
        restarts=over(lambda run: float(run.restarts)),
        gpu_hours=over(gpu_hours),
        usd=None if cost is None else over(lambda run: gpu_hours(run) * cost.price.usd_per_gpu_hour),
        kwh=None if cost is None else over(kwh),
        kg_co2=None if carbon is None else over(lambda run: carbon * kwh(run)),
        share_by_cause=_shares(outcomes, CAUSES, lambda run: run.seconds),
        node_share_by_cause=_shares(outcomes, (*CAUSES, *OF_SPARES), lambda run: run.node_seconds),
        share_by_class=_by_class(_shares(outcomes, CAUSES, lambda run: run.seconds)),
        failures_per_run=_failures(outcomes),
        habits=habits(plan, restart_s),
        spares_needed=_spares_needed(plan),
        crew_wait_s=_crew_wait_s(plan),
    )


def estimate(values: Sequence[float]) -> Estimate:
    """Mean, interval of the mean, and percentiles.

    >>> estimate([1.0, 2.0, 3.0]).mean
    2.0
    """
    listed = np.array(values, dtype=np.float64)
    low, median, high = (float(each) for each in np.percentile(listed, [5, 50, 95]))
    mean = float(listed.mean())
    if len(listed) == 1:
        return Estimate(mean, None, None, low, median, high)
    width = float(stats.t.ppf((1 + LEVEL) / 2, len(listed) - 1) * listed.std(ddof=1) / math.sqrt(len(listed)))
    return Estimate(mean, mean - width, mean + width, low, median, high)


def expected_restart_s(plan: Plan) -> float:
    """From a failure to full pace, with a spare at hand, over the components by their rates."""
    file, recovery = plan.file, plan.file.recovery
    place_s = recovery.reschedule_s if file.spares.swap_s is None else file.spares.swap_s
    total, weight = 0.0, 0.0
    for part in file.failures.components.values():
        rate = component_rate_per_s(file.failures, part, plan.num_nodes)
        crashes = 1 - part.hang_frac - part.silent_frac
        detect_s = part.hang_frac * recovery.hang_detect_s + crashes * recovery.detect_s
        total += rate * (detect_s + (1 - part.transient_frac) * place_s)
        weight += rate
    return total / weight + recovery.diagnose_s + recovery.init_s + plan.saving.load_s + recovery.catch_up_s


def _broken(plan: Plan) -> tuple[float, float]:
    """Nodes that break in a second, and the mean time of their repair."""
    failures = plan.file.failures
    rate, repairing = 0.0, 0.0
    for part in failures.components.values():
        if part.scope != "job":
            nodes = component_rate_per_s(failures, part, plan.num_nodes) * part.nodes * (1 - part.transient_frac)
            rate += nodes
            repairing += nodes * (part.repair_s if part.repair_s is not None else failures.repair_s)
    return rate, repairing / rate if rate else 0.0


def _crew_wait_s(plan: Plan) -> float | None:
    rate, repair_s = _broken(plan)
    crews = plan.file.spares.repair_crews
    return None if crews is None or rate * repair_s >= crews else erlang_wait_s(crews, rate, repair_s)


def _spares_needed(plan: Plan) -> int | None:
    rate, repair_s = _broken(plan)
    wait_s = _crew_wait_s(plan)
    if plan.file.spares.repair_crews is not None and wait_s is None:
        return None
    return spares_needed(1, 1 / rate, repair_s + (wait_s or 0.0), AT_HAND_FRAC) if rate else 0


def _main(plan: Plan) -> int:
    """The longest phase."""
    return max(range(len(plan.phases)), key=lambda index: plan.phases[index].steps * plan.phases[index].step_s)


def _closed_form(plan: Plan, restart_s: float) -> float:
    """Exact renewal form of the longest phase, for failures that only storage survives and spares always at hand."""
    phase = plan.phases[_main(plan)]
    tier = phase.tiers[0]
    return ettr(tier.every_steps * phase.step_s, plan.mtbf_s, tier.block_s, restart_s + _unsaved_s(plan))


def _unsaved_s(plan: Plan) -> float:
    """A failure while a checkpoint is written, or before, costs the training of that time once more, at first order."""
    return plan.saving.persist_s


def habits(plan: Plan, restart_s: float) -> tuple[Habit, ...]:
    """Intervals by each rule, and by the habits of every 500 steps and of every hour, in the longest phase."""
    phase = plan.phases[_main(plan)]
    block_s, extra_s = plan.saving.block_s, _unsaved_s(plan)
    wanted = {name: rule(plan.mtbf_s, block_s) for name, rule in RULES.items()}
    wanted |= {
        "every 500 steps": 500 * phase.step_s,
        "every hour": HOUR_S,
        "this run": phase.tiers[0].every_steps * phase.step_s,
    }
    least = max(1, math.ceil(plan.saving.persist_s / phase.step_s))
    found = []
    for name, interval_s in wanted.items():
        steps = max(least, round(interval_s / phase.step_s))
        share = ettr(steps * phase.step_s, plan.mtbf_s, block_s, restart_s + extra_s)
        found.append(Habit(name, steps * phase.step_s, steps, share))
    return tuple(found)


def _mfu(plan: Plan) -> float | None:
    """Over the phases, by time."""
    if any(phase.mfu is None for phase in plan.phases):
        return None
    times = [phase.steps * phase.step_s for phase in plan.phases]
    return sum(time_s * (phase.mfu or 0) for time_s, phase in zip(times, plan.phases, strict=True)) / sum(times)


def _kwh(plan: Plan, run: Outcome) -> float:
    """Energy at the meter of the building: GPUs that step draw `busy`, all others `idle`."""
    cost = plan.file.cost
    assert cost is not None
    busy = sum(run.node_seconds[cause] for cause in ("progress", "straggler", "degraded", "lost"))
    idle = sum(run.node_seconds.values()) - busy
    joules = plan.file.gpus_per_node * cost.power.pue * (busy * cost.power.busy_w + idle * cost.power.idle_w)
    return joules / HOUR_S / KILO


def _shares(
    outcomes: Sequence[Outcome], causes: Sequence[str], seconds: Callable[[Outcome], dict[str, float]]
) -> dict[str, float]:
    total = sum(sum(seconds(run).values()) for run in outcomes)
    return {cause: sum(seconds(run)[cause] for run in outcomes) / total for cause in causes}


def _by_class(shares: dict[str, float]) -> dict[str, float]:
    found: dict[str, float] = {}
    for cause, share in shares.items():
        found[GOOGLE[cause]] = found.get(GOOGLE[cause], 0.0) + share
    return found


def _failures(outcomes: Sequence[Outcome]) -> dict[str, float]:
    names = sorted({name for run in outcomes for name in run.failures})
    return {name: sum(run.failures.get(name, 0) for run in outcomes) / len(outcomes) for name in names}
