"""Question 6: which number format, and how do we recover? Formats are simulated; the interval follows from failures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

from sim.decide import recovery
from sim.decide.answer import Answer, Column, Effect, Grid, Step, Value
from sim.decide.data_mix import Mixed
from sim.decide.load import Planned, refuse
from sim.decide.memory_stages import Fitted
from sim.decide.ranking import Said
from sim.decide.wording import said
from sim.errors import SimError
from sim.results.result import Result
from sim.simulation import simulate
from sim.spec.parameters import parameters
from sim.spec.training import Precision

QUESTION = "Which number format, and how do we recover?"

FORMATS: dict[Precision, tuple[float, float, str, str]] = {
    "bf16": (3.39e38, 1.18e-38, "the range of fp32; no loss scaling", "arXiv 1905.12322"),
    "fp16": (65504.0, 6.1e-5, "gradients underflow and overflow: dynamic loss scaling", "arXiv 1710.03740"),
    "fp8": (
        448.0,
        2.0**-6,
        "scales for each tensor or block; layers near the ends stay in 16 bits",
        "arXiv 2209.05433",
    ),
    "fp4": (6.0, 1.0, "scales for each block of 16; first shown at 12B and 10T tokens", "arXiv 2509.25149"),
}
"""Largest and smallest normal value of a product's operands (fp8: E4M3, fp4: E2M1), what it asks for, and source."""

LOSS_SCALE_WINDOW = 1000
"""Good steps after which the scale doubles, and one step may overflow and be skipped (Megatron-LM
--loss-scale-window)."""

STEPS_REDONE, BATCHES_SKIPPED = 100, (200, 500)
"""PaLM: back some 100 steps before a spike, and skip 200 to 500 batches (arXiv 2204.02311, section 5.1)."""

DEEPSEEK_FP8_BYTES = 12
"""A parameter's fp32 master and gradient and 16-bit moments with FP8 products (arXiv 2412.19437, section 3.3.3)."""


@dataclass(frozen=True)
class Outlook:
    """The whole run: what the six answers come to."""

    days: float
    gpu_hours: float
    usd: float
    training_share: float
    interval_s: float
    failures: float


@dataclass(frozen=True)
class _Clocks:
    """What checkpoints and failures cost, s. cost: training stands still.  persist: until a checkpoint can be
    loaded."""

    mtbf: float
    cost: float
    persist: float
    restart: float

    @property
    def lost(self) -> float:
        """After a failure: restart, and what was trained since a snapshot that was not yet written."""
        return self.restart + (self.persist - self.cost)

    def best(self) -> float:
        """Interval; not shorter than writing takes."""
        return max(recovery.best_interval_s(self.mtbf, self.cost), self.persist - self.cost)

    def share(self, interval: float) -> float:
        """Of the time that trains."""
        return recovery.training_share(interval, self.mtbf, self.cost, self.lost)


def choose_safety(planned: Planned, fitted: Fitted, mixed: Mixed, told: Said) -> tuple[Answer, Outlook]:
    """The answer to the sixth question, and what the run takes in all."""
    plan, result = planned.plan, fitted.result
    clocks = _clocks(planned, result)
    given = plan.given.checkpoint_interval_s
    best = clocks.best()
    interval = best if given is None else given
    share = clocks.share(interval)
    wall_s = mixed.train_s / share
    hours = wall_s / 3600 * planned.num_gpus
    price = plan.price.usd_per_gpu_hour
    outlook = Outlook(wall_s / 86400, hours, hours * price, share, interval, wall_s / clocks.mtbf)
    precision = result.scenario.training.precision
    every = interval / result.step_time_s
    answer = Answer(
        number=6,
        question=QUESTION,
        text=f"{precision}; a checkpoint every {said(interval, 's')} ({every:,.0f} steps), with a failure every "
        f"{said(clocks.mtbf, 's')}: {said(share, 'share')} of the time trains. In all {said(wall_s, 's')}, "
        f"{said(hours, 'h')} GPU-hours and {said(outlook.usd, 'usd')}.",
        values={
            "precision": precision,
            "checkpoint_interval_s": interval,
            "checkpoint_interval_steps": every,
            "best_interval_s": best,
            "mtbf_s": clocks.mtbf,
            "checkpoint_cost_s": clocks.cost,
            "lost_s": clocks.lost,
            "training_share": share,
            "days": outlook.days,
            "gpu_hours": hours,
            "usd": outlook.usd,
            "failures": outlook.failures,
        },
        grids=(_formats(result, told), _intervals(clocks, interval, result), _watch(clocks, interval, result)),
        steps=tuple(_steps(planned, clocks, interval, mixed.train_s)),
        sensitivity=tuple(_sensitivity(clocks)),
        cautions=tuple(_cautions(clocks, interval)),
        is_given=given is not None or plan.given.precision is not None,
    )
    return answer, outlook


def _clocks(planned: Planned, result: Result) -> _Clocks:
    given = planned.plan.recovery
    nbytes = parameters(result.scenario.model).total * given.bytes_per_parameter
    persist = nbytes / given.storage_bytes_per_s
    cost = persist if given.block_s is None else min(given.block_s, persist)
    return _Clocks(
        recovery.mtbf_s(given.failures_per_1000_node_days, planned.num_nodes), cost, persist, given.restart_s
    )


def _formats(known: Result, told: Said) -> Grid:
    """Every format on the chosen layout: range, memory, step, what it asks for."""
    rows: list[tuple[Value, ...]] = []
    chosen = None
    for precision, (largest, smallest, asks, source) in FORMATS.items():
        training = known.scenario.training
        result: Result | None = known
        reason = asks
        if precision == training.precision:
            chosen = len(rows)
        else:
            changed = training.model_copy(
                update={"precision": precision, "recipe": None, "low_precision_weights": False}
            )
            scenario = known.scenario.model_copy(update={"training": changed})
            try:
                refuse(scenario)
                result = simulate(scenario)
                told(f"{precision}: {result.step_time_s:.3f} s")
            except SimError as error:
                result, reason = None, str(error)
        skipped = 1 / (LOSS_SCALE_WINDOW + 1) if precision == "fp16" else 0.0
        numbers: tuple[Value, ...] = (None, None, None)
        if result is not None:
            step_s = result.step_time_s / (1 - skipped)
            numbers = (result.peak_bytes, step_s, known.step_time_s / step_s)
        rows.append((precision, f"{largest:.3g}", f"{smallest:.2g}", *numbers, skipped, reason, source))
    return Grid(
        "formats",
        "Number formats on this layout, simulated",
        (
            Column("format"),
            Column("largest"),
            Column("smallest normal"),
            Column("memory of a GPU", "bytes"),
            Column("step", "s"),
            Column("speed", "x"),
            Column("steps skipped", "share"),
            Column("risk, or why not"),
            Column("source"),
        ),
        tuple(rows),
        chosen=chosen,
        note=f"fp16 skips at most one step in {LOSS_SCALE_WINDOW + 1}, when each doubling of the scale "
        "overflows. FP8 does not "
        f"shrink the optimizer's state by itself: DeepSeek-V3 keeps {DEEPSEEK_FP8_BYTES} bytes a parameter "
        "beside its weights "
        "(arXiv 2412.19437, section 3.3.3).",
    )


def _intervals(clocks: _Clocks, chosen: float, result: Result) -> Grid:
    """How much of the time trains, by interval."""
    best = clocks.best()
    named = [("best", best), ("half", best / 2), ("twice", 2 * best), ("every 500 steps", 500 * result.step_time_s)]
    if chosen != best:
        named.append(("given", chosen))
    return Grid(
        "intervals",
        "Checkpoint interval",
        (Column("interval"), Column("time", "s"), Column("steps"), Column("time that trains", "share")),
        tuple((name, value, value / result.step_time_s, clocks.share(value)) for name, value in named),
        chosen=0 if chosen == best else len(named) - 1,
    )


def _watch(clocks: _Clocks, interval: float, result: Result) -> Grid:
    """What to monitor, how often each rule fires by chance, and what a false alarm costs."""
    step_s = result.step_time_s
    rollback_s = interval / 2 + clocks.restart
    rows: list[tuple[Value, ...]] = []
    for name, sigmas, in_a_row, cost_s in (
        ("loss above mean + 2 sigma, answered by a rollback", 2.0, 1, rollback_s),
        ("loss above mean + 3 sigma, answered by a rollback", 3.0, 1, rollback_s),
        ("loss above mean + 2 sigma three steps in a row, rollback", 2.0, 3, rollback_s),
        ("gradient norm above mean + 3 sigma, the step is skipped", 3.0, 1, step_s),
        ("gradient norm above mean + 5 sigma, answered by a rollback", 5.0, 1, rollback_s),
    ):
        chance = (1 - NormalDist().cdf(sigmas)) ** in_a_row
        rows.append((name, 1 / chance, cost_s, chance * cost_s / (step_s + chance * cost_s)))
    read_s = max(stage.activations_bytes for stage in result.memory) / result.scenario.gpu.hbm_bytes_per_s
    rows.append(
        ("activation statistics every 100 steps (reads what is held once)", 100.0, read_s, read_s / (100 * step_s))
    )
    spike_s = STEPS_REDONE * step_s + clocks.restart
    rows.append(("a real spike, as PaLM answered it: 100 steps again", None, spike_s, None))
    return Grid(
        "watch",
        "What to watch, and what each false alarm costs",
        (Column("rule"), Column("fires by chance every, steps"), Column("costs", "s"), Column("of the run", "share")),
        tuple(rows),
        note="Chance: loss and norm taken as Gaussian and independent from step to step, one-sided. A "
        "PaLM-style answer also "
        f"skips {BATCHES_SKIPPED[0]} to {BATCHES_SKIPPED[1]} batches of data; about 20 in that run, and the "
        "same batches "
        "elsewhere did no harm (arXiv 2204.02311, section 5.1).",
    )


def _steps(planned: Planned, clocks: _Clocks, interval: float, train_s: float) -> Iterator[Step]:
    given = planned.plan.recovery
    numbers = f"1000 x 86400 / ({given.failures_per_1000_node_days:g} x {planned.num_nodes})"
    yield Step(
        "time between failures", "1000 days / (rate x nodes)", numbers, clocks.mtbf, "s", recovery.FAILURES_SOURCE
    )
    numbers = f"{given.bytes_per_parameter:g} P / {given.storage_bytes_per_s:.4g}"
    source = f"{recovery.BYTES_SOURCE}; {recovery.STORAGE_SOURCE}"
    yield Step("writing a checkpoint", "bytes / storage bandwidth", numbers, clocks.persist, "s", source)
    numbers = f"M = {clocks.mtbf:.4g}, C = {clocks.cost:.4g}"
    yield Step("best interval", "M (1 + W0(-e^(-1 - C / M)))", numbers, clocks.best(), "s", recovery.SOURCE)
    share = clocks.share(interval)
    numbers = f"tau = {interval:.4g}, C = {clocks.cost:.4g}, M = {clocks.mtbf:.4g}, R = {clocks.lost:.4g}"
    yield Step(
        "time that trains",
        "tau / (M e^(R / M) (e^((tau + C) / M) - 1))",
        numbers,
        share,
        "share",
        f"{recovery.SOURCE}; {recovery.RESTART_SOURCE}",
    )
    yield Step("the whole run", "training / share", f"{train_s:.4g} / {share:.4g}", train_s / share, "s", "definition")


def _sensitivity(clocks: _Clocks) -> Sequence[Effect]:
    def changed(mtbf: float = 1.0, cost: float = 1.0) -> _Clocks:
        persist = clocks.persist - clocks.cost + clocks.cost * cost
        return _Clocks(clocks.mtbf * mtbf, clocks.cost * cost, persist, clocks.restart)

    def row(what: str, low: _Clocks, high: _Clocks) -> tuple[Effect, Effect]:
        return (
            Effect(what, "best interval", low.best(), clocks.best(), high.best(), "s"),
            Effect(
                what,
                "time that trains",
                low.share(low.best()),
                clocks.share(clocks.best()),
                high.share(high.best()),
                "share",
            ),
        )

    return (
        *row("time between failures, half and twice", changed(mtbf=0.5), changed(mtbf=2.0)),
        *row("cost of a checkpoint, half and twice", changed(cost=0.5), changed(cost=2.0)),
    )


def _cautions(clocks: _Clocks, interval: float) -> Iterator[str]:
    if interval < clocks.persist - clocks.cost:
        yield f"The interval is shorter than the {said(clocks.persist, 's')} that a checkpoint takes to be written."
    if clocks.lost > clocks.mtbf:
        yield "Coming back takes longer than the time between failures: most of the run is recovery."
