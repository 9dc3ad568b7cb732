"""Question 1: which deployment, so which model size? Training and serving together, at one loss."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from sim.decide.answer import Answer, Column, Effect, Grid, Step, Value
from sim.decide.law import LossLaw, Optimum
from sim.decide.laws import LAWS
from sim.decide.load import Planned
from sim.decide.plan import Deployment, Device, Serving
from sim.decide.published import published_runs
from sim.decide.serving import (
    SOURCE,
    Demand,
    Prices,
    cheapest,
    life_flop,
    life_usd,
    usd_per_flop,
    wins_from,
    wins_from_usd,
)
from sim.decide.shape import shape_of
from sim.decide.wording import said
from sim.errors import SimError
from sim.spec.model import Model
from sim.spec.parameters import parameters

QUESTION = "Which deployment, so which model size?"

CHINCHILLA_RATIO = 20.0
"""Tokens a parameter of Chinchilla as trained: 1.4T over 70B (arXiv 2203.15556)."""

TOKENS_PER_S = {"offline": 0.0, "server": 1 / 0.200, "interactive": 1 / 0.040}
"""Rate of writing that a latency class asks for: MLPerf Inference v5.0, Llama-2-70B, time per output token of 200 ms
(server) and 40 ms (interactive)."""

LATENCY_SOURCE = "MLPerf Inference v5.0 rules, Llama-2-70B: time per output token 200 ms (server), 40 ms (interactive)"
DEVICE_SOURCE = "weights are held whole; each token that is written reads all of them once (batch of one)"


@dataclass(frozen=True)
class Sized:
    """The model that the plan goes on with, its target loss (None for a law without one), and where it came from."""

    model: Model
    parameters: float
    tokens: float | None
    answer: Answer


@dataclass(frozen=True)
class Wanted:
    """What serving asks for, resolved: the demand, the prices, the target, and the largest size that may be."""

    demand: Demand
    prices: Prices
    loss: float
    largest: float


def budget_flop(planned: Planned, size: float | None) -> float:
    """Training FLOP of the budget: as given, or what the cluster does in its days, or its dollars buy."""
    budget, peak = planned.plan.budget, planned.peak_flop_per_s
    if budget.flop is not None:
        return budget.flop
    if budget.days is not None:
        return budget.days * 86400 * planned.num_gpus * peak * budget.utilisation
    if budget.usd is not None:
        return budget.usd / usd_per_flop(planned.plan.price.usd_per_gpu_hour, peak, budget.utilisation)
    assert budget.tokens_per_parameter is not None
    assert size is not None, "the loader asks for a size"
    return 6 * size * size * budget.tokens_per_parameter


def device_limit(device: Device, latency: str) -> float:
    """Largest size that the device holds, and whose weights it reads fast enough."""
    bytes_each = device.weight_bits / 8
    held = device.memory_bytes * device.room / bytes_each
    rate = TOKENS_PER_S[latency]
    return min(held, device.memory_bytes_per_s / bytes_each / rate) if rate else held


def wanted(planned: Planned, deployment: Deployment, law: LossLaw, size: float | None) -> Wanted:
    """What the deployment section asks for, in numbers."""
    plan = planned.plan
    serving = deployment.serving or Serving(
        usd_per_gpu_hour=plan.price.usd_per_gpu_hour, peak_flop_per_s=planned.peak_flop_per_s
    )
    prices = Prices(
        usd_per_flop(plan.price.usd_per_gpu_hour, planned.peak_flop_per_s, plan.budget.utilisation),
        usd_per_flop(serving.usd_per_gpu_hour, serving.peak_flop_per_s, serving.prompt_utilisation),
        usd_per_flop(serving.usd_per_gpu_hour, serving.peak_flop_per_s, serving.output_utilisation),
    )
    if deployment.loss is not None:
        loss = deployment.loss
    elif deployment.like is not None:
        loss = law.loss(deployment.like.parameters, deployment.like.tokens)
    else:
        best = law.optimum(budget_flop(planned, size))
        loss = law.loss(best.parameters, best.tokens)
    limits = [deployment.max_parameters or math.inf]
    if deployment.device is not None:
        limits.append(device_limit(deployment.device, deployment.latency))
    return Wanted(Demand(deployment.tokens, deployment.prompt_share), prices, loss, min(limits))


def choose_size(planned: Planned) -> Sized:
    """The answer to the first question, and the model that it leads to."""
    plan, law = planned.plan, LAWS[planned.plan.law]
    given = float(parameters(planned.model).active) if planned.model is not None else plan.given.parameters
    if plan.deployment is None or not isinstance(law, LossLaw):
        return _without_deployment(planned, given)
    want = wanted(planned, plan.deployment, law, given)
    cautions: list[str] = []
    try:
        best = _best(law, want)
    except ValueError as error:
        if given is None and not math.isfinite(want.largest):
            raise SimError(str(error)) from None
        cautions.append(f"{error}; the largest that may be is taken, and misses the target.")
        best = Optimum(want.largest, math.inf)
    model, size = _shaped(planned, given if given is not None else best.parameters, want.largest)
    chosen = Optimum(size, law.tokens_for(want.loss, size))
    cautions += [
        f"Extrapolated: {text} ({plan.law})." for text in law.fitted.outside(chosen) if math.isfinite(chosen.tokens)
    ]
    has_target = plan.deployment.loss is not None or plan.deployment.like is not None
    tokens = chosen.tokens if has_target and math.isfinite(chosen.tokens) else None
    answer = Answer(
        number=1,
        question=QUESTION,
        text=_text(given, best, want),
        values={
            "parameters": size,
            "computed_parameters": best.parameters,
            "loss": want.loss,
            "largest_parameters": want.largest if math.isfinite(want.largest) else None,
            "demand_tokens": want.demand.tokens,
            "model": model.name,
        },
        grids=(_strategies(plan.deployment, law, want, chosen), over_training()),
        steps=tuple(_steps(plan.deployment, law, want, best)),
        sensitivity=tuple(_sensitivity(law, want)),
        cautions=tuple(cautions),
        is_given=given is not None,
    )
    return Sized(model, size, tokens, answer)


def _shaped(planned: Planned, size: float, largest: float) -> tuple[Model, float]:
    """The plan's model, else a shape of the size; and how many parameters it has for a token.

    Raises SimError where no shape is near.
    """
    try:
        model = planned.model or shape_of(size, planned.plan.training.seq_len, largest)
    except ValueError as error:
        raise SimError(str(error)) from None
    return model, float(parameters(model).active)


def _best(law: LossLaw, want: Wanted) -> Optimum:
    """Cheapest in money over the model's life."""
    return cheapest(law, want.loss, lambda at: life_usd(at, want.demand, want.prices), want.largest)


def _text(given: float | None, best: Optimum, want: Wanted) -> str:
    if math.isinf(best.tokens):
        computed = f"At most {said(best.parameters, 'parameters')} parameters fit, which never reach the target loss"
    else:
        computed = (
            f"{said(want.demand.tokens, 'tokens')} tokens served at a loss of {want.loss:.4f} are cheapest with "
            f"{said(best.parameters, 'parameters')} parameters on {said(best.tokens, 'tokens')} tokens "
            f"({best.tokens_per_parameter:.3g} a parameter)"
        )
    if given is None:
        return f"{computed}."
    return f"The plan gives {said(given, 'parameters')} parameters. {computed}."


def _without_deployment(planned: Planned, given: float | None) -> Sized:
    """Where nothing is said about serving, the compute-optimal size, or the given one."""
    plan, law = planned.plan, LAWS[planned.plan.law]
    best = law.optimum(budget_flop(planned, given))
    model, size = _shaped(planned, given if given is not None else best.parameters, math.inf)
    what = "given" if given is not None else f"compute-optimal by {plan.law}"
    return Sized(
        model,
        size,
        None,
        Answer(
            number=1,
            question=QUESTION,
            text=f"{said(size, 'parameters')} parameters, {what}. The plan says nothing about serving (`deployment`), "
            f"so training alone decides; the compute-optimal size of the budget is "
            f"{said(best.parameters, 'parameters')}.",
            values={"parameters": size, "computed_parameters": best.parameters, "model": model.name},
            grids=(over_training(),),
            steps=(
                Step(
                    "compute-optimal size",
                    law.formula(),
                    f"C = {best.flop:.4g}",
                    best.parameters,
                    "parameters",
                    law.source,
                ),
            ),
            sensitivity=(),
            is_given=given is not None,
        ),
    )


def _strategies(deployment: Deployment, law: LossLaw, want: Wanted, chosen: Optimum) -> Grid:
    """Three ways to the same loss and the plan's own; each with the demand from which it is the cheapest of the
    three."""
    optimal = law.cheapest_for(want.loss)
    ways = [("Chinchilla-optimal", optimal)]
    for name, share in (
        ("over-trained, large", deployment.strategies.large),
        ("over-trained, small", deployment.strategies.small),
    ):
        size = optimal.parameters * share
        ways.append((name, Optimum(size, law.tokens_for(want.loss, size))))
    rows: list[tuple[Value, ...]] = []
    for index, (name, at) in enumerate([*ways, ("the plan's", chosen)]):
        starts: tuple[Value, Value] = (None, None)
        if index == 0:
            starts = (0.0, 0.0)
        elif index < len(ways) and math.isfinite(at.tokens):
            larger = ways[index - 1][1]
            starts = (wins_from(larger, at), wins_from_usd(larger, at, deployment.prompt_share, want.prices))
        reaches = math.isfinite(at.tokens)
        costs: tuple[Value, ...] = (None,) * 4
        if reaches:
            total_usd = life_usd(at, want.demand, want.prices)
            costs = (at.flop, life_flop(at, want.demand), at.flop * want.prices.training_usd_per_flop, total_usd)
        ratio = at.tokens_per_parameter if reaches else None
        rows.append((name, at.parameters, at.tokens, ratio, *costs, *starts))
    return Grid(
        "strategies",
        "Ways to the same loss",
        (
            Column("strategy"),
            Column("parameters", "parameters"),
            Column("tokens", "tokens"),
            Column("tokens a parameter"),
            Column("training FLOP", "FLOP"),
            Column("with serving, FLOP", "FLOP"),
            Column("training", "usd"),
            Column("with serving", "usd"),
            Column("wins from (FLOP)", "tokens"),
            Column("wins from (money)", "tokens"),
        ),
        tuple(rows),
        chosen=len(rows) - 1,
        note="Wins from: tokens served from which a strategy is cheaper than the one above it. A size that "
        "never reaches "
        "the loss has `never` for its tokens.",
    )


def over_training() -> Grid:
    """Published models against 20 tokens a parameter."""
    rows = tuple(
        (
            run.model,
            run.parameters,
            run.tokens,
            run.tokens / run.parameters,
            run.tokens / run.parameters / CHINCHILLA_RATIO,
        )
        for run in published_runs()
    )
    return Grid(
        "over_training",
        "How far published models over-train",
        (
            Column("model"),
            Column("active parameters", "parameters"),
            Column("tokens", "tokens"),
            Column("tokens a parameter"),
            Column("of 20 a parameter", "x"),
        ),
        rows,
    )


def _steps(deployment: Deployment, law: LossLaw, want: Wanted, best: Optimum) -> Iterator[Step]:
    if deployment.like is not None:
        like = deployment.like
        numbers = f"N = {like.parameters:.4g}, D = {like.tokens:.4g}"
        yield Step("target loss", "E + A / N^alpha + B / D^beta", numbers, want.loss, "nats", law.source)
    device = deployment.device
    if device is not None:
        numbers = f"{device.memory_bytes:.4g} x {device.room:g} x 8 / {device.weight_bits:g}"
        held = device_limit(device, "offline")
        yield Step("what the device holds", "memory x room x 8 / bits", numbers, held, "parameters", DEVICE_SOURCE)
        rate = TOKENS_PER_S[deployment.latency]
        if rate:
            numbers = f"{device.memory_bytes_per_s:.4g} x 8 / {device.weight_bits:g} / {rate:g}"
            yield Step(
                "what it reads in time",
                "bandwidth x 8 / bits / tokens per s",
                numbers,
                device_limit(device, deployment.latency),
                "parameters",
                f"{DEVICE_SOURCE}; {LATENCY_SOURCE}",
            )
    optimal = law.cheapest_for(want.loss)
    yield Step(
        "compute-optimal size for the loss",
        "A / N^alpha = (L - E) beta / (alpha + beta)",
        f"L = {want.loss:.6g}, E = {law.E:g}, alpha = {law.alpha:g}, beta = {law.beta:g}",
        optimal.parameters,
        "parameters",
        law.source,
    )
    if math.isfinite(best.tokens):
        yield Step(
            "cheapest size for the demand",
            "min over N of 6 N D(N, L) p + 2 N (D_in p_in + D_out p_out)",
            f"D_in = {want.demand.prompt_tokens:.4g}, D_out = {want.demand.output_tokens:.4g}, p = "
            f"{want.prices.training_usd_per_flop:.3g}, p_in = {want.prices.prompt_usd_per_flop:.3g}, "
            f"p_out = {want.prices.output_usd_per_flop:.3g} $/FLOP",
            best.parameters,
            "parameters",
            SOURCE,
        )
        by_flop = cheapest(law, want.loss, lambda at: life_flop(at, want.demand), want.largest)
        saved = 1 - life_flop(by_flop, want.demand) / life_flop(optimal, want.demand)
        yield Step(
            "saved against compute-optimal, by FLOP",
            "1 - (6 N D + 2 N D_inf) / (6 N_c D_c + 2 N_c D_inf)",
            f"N = {by_flop.parameters:.4g}, D = {by_flop.tokens:.4g}, N_c = {optimal.parameters:.4g}, D_c = "
            f"{optimal.tokens:.4g}",
            saved,
            "share",
            SOURCE,
        )


def _sensitivity(law: LossLaw, want: Wanted) -> Iterator[Effect]:
    def size(of: LossLaw, tokens: float) -> float | None:
        changed = Wanted(Demand(tokens, want.demand.prompt_share), want.prices, want.loss, want.largest)
        try:
            return _best(of, changed).parameters
        except ValueError:
            return None

    given = size(law, want.demand.tokens)
    low, high = size(law, want.demand.tokens / 10), size(law, want.demand.tokens * 10)
    yield Effect("tokens served, a tenth and ten times", "parameters", low, given, high, "parameters")
