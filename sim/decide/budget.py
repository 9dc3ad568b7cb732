"""Question 2: how much compute and data? Compute-optimal by every law, and what the plan's over-training costs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from sim.decide.answer import Answer, Column, Effect, Grid, Step, Value
from sim.decide.deployment import Sized, budget_flop
from sim.decide.law import LossLaw, Optimum
from sim.decide.laws import LAWS
from sim.decide.load import Planned
from sim.decide.serving import wins_from
from sim.decide.wording import said
from sim.spec.parameters import parameters

QUESTION = "How much compute and data?"
SIX_N_D = "6 FLOP for each weight and token (arXiv 2001.08361, section 2.1)"


@dataclass(frozen=True)
class Budgeted:
    """Size and tokens that the plan goes on with."""

    at: Optimum
    answer: Answer


def choose_tokens(planned: Planned, sized: Sized) -> Budgeted:
    """The answer to the second question."""
    plan, law = planned.plan, LAWS[planned.plan.law]
    budget = budget_flop(planned, sized.parameters)
    given = plan.given.tokens
    target = None if plan.budget.tokens_per_parameter is not None else sized.tokens
    tokens = given or target or budget / (6 * sized.parameters)
    at = Optimum(sized.parameters, tokens)
    best = law.optimum(at.flop)
    over = at.tokens_per_parameter / best.tokens_per_parameter
    values: dict[str, Value] = {
        "parameters": at.parameters,
        "tokens": at.tokens,
        "flop": at.flop,
        "budget_flop": budget,
        "tokens_per_parameter": at.tokens_per_parameter,
        "optimal_parameters": best.parameters,
        "optimal_tokens": best.tokens,
        "over_training": over,
    }
    cautions = [f"Extrapolated: {text} ({plan.law})." for text in law.fitted.outside(at)]
    if law.caution:
        cautions.append(f"{plan.law}: {law.caution}.")
    if at.flop > 1.02 * budget:
        cautions.append(
            f"6 N D = {said(at.flop, 'FLOP')} is {at.flop / budget:.2f} times the budget of "
            f"{said(budget, 'FLOP')} FLOP."
        )
    cost = ""
    if isinstance(law, LossLaw):
        loss = law.loss(at.parameters, at.tokens)
        least = law.cheapest_for(loss)
        values |= {"loss": loss, "extra_flop_share": at.flop / least.flop - 1}
        cost = _cost(at, least)
    amount = "over" if over >= 1 else "under"
    factor = over if over >= 1 else 1 / over
    return Budgeted(
        at,
        Answer(
            number=2,
            question=QUESTION,
            text=f"{said(at.parameters, 'parameters')} parameters on {said(at.tokens, 'tokens')} tokens, "
            f"{at.tokens_per_parameter:.3g} a parameter: {said(at.flop, 'FLOP')} FLOP. By {plan.law} that "
            "budget is best "
            f"spent on {said(best.parameters, 'parameters')} and {said(best.tokens, 'tokens')}; the plan "
            f"{amount}-trains {factor:.2f} times.{cost}",
            values=values,
            grids=(_laws(at, plan.law), _embeddings(sized, at)),
            steps=tuple(_steps(planned, at, best, budget)),
            sensitivity=tuple(_sensitivity(law, at)),
            cautions=tuple(cautions),
            is_given=given is not None,
        ),
    )


def _cost(at: Optimum, least: Optimum) -> str:
    """What the distance from the optimum costs, and from what demand it pays."""
    extra = at.flop / least.flop - 1
    if at.parameters < least.parameters:
        pays = wins_from(least, at)
        return (
            f" It takes {at.flop / least.flop:.3g} times the training of the {said(least.parameters, 'parameters')} "
            f"that are optimal for its loss, which pays from {said(pays, 'tokens')} tokens served."
        )
    less, size = said(extra / (1 + extra), "share"), said(least.parameters, "parameters")
    return f" The same loss takes {less} less training at {size}."


def _laws(at: Optimum, chosen: str) -> Grid:
    """The budget's optimum by every law."""
    rows: list[tuple[Value, ...]] = []
    for name, law in LAWS.items():
        best = law.optimum(at.flop)
        loss = law.loss(best.parameters, best.tokens) if isinstance(law, LossLaw) else None
        outside = "; ".join(law.fitted.outside(best))
        rows.append(
            (
                name,
                best.parameters,
                best.tokens,
                best.tokens_per_parameter,
                at.tokens_per_parameter / best.tokens_per_parameter,
                loss,
                outside or "no",
                law.caution or "-",
                law.source,
            )
        )
    return Grid(
        "laws",
        f"Compute-optimal for {said(at.flop, 'FLOP')} FLOP, by law",
        (
            Column("law"),
            Column("parameters", "parameters"),
            Column("tokens", "tokens"),
            Column("tokens a parameter"),
            Column("the plan over-trains", "x"),
            Column("loss", "nats"),
            Column("extrapolated"),
            Column("caution"),
            Column("source"),
        ),
        tuple(rows),
        chosen=list(LAWS).index(chosen),
        note="Losses of different laws are of different data and tokenisers: compare them within a row, not "
        "between rows.",
    )


def _embeddings(sized: Sized, at: Optimum) -> Grid:
    """What N is when embeddings are counted and when not; laws of Hoffmann's kind count them."""
    counts = parameters(sized.model)
    embedding = counts.embedding + counts.learned_positions
    total = counts.active
    without_both = total - embedding - counts.head
    rows: tuple[tuple[Value, ...], ...] = tuple(
        (name, float(size), at.tokens / size, 6.0 * size * at.tokens)
        for name, size in (
            ("all that a token meets", total),
            ("without the input embedding", total - embedding),
            ("without embedding and head", without_both),
        )
    )
    return Grid(
        "embeddings",
        f"Parameters of {sized.model.name}, embeddings counted or not",
        (Column("parameters"), Column("N", "parameters"), Column("tokens a parameter"), Column("6 N D", "FLOP")),
        rows,
        note="Kaplan 2020 leaves embeddings out, Hoffmann 2022 counts them; that is most of what their laws differ by "
        "(arXiv 2406.12907).",
    )


def _steps(planned: Planned, at: Optimum, best: Optimum, budget: float) -> Iterator[Step]:
    given, peak = planned.plan.budget, planned.peak_flop_per_s
    if given.days is not None:
        numbers = f"{given.days:g} x 86400 x {planned.num_gpus} x {peak:.4g} x {given.utilisation:g}"
        yield Step("budget", "days x s x GPUs x peak x utilisation", numbers, budget, "FLOP", "the plan")
    elif given.usd is not None:
        numbers = f"{given.usd:g} / {planned.plan.price.usd_per_gpu_hour:g} x 3600 x {peak:.4g} x {given.utilisation:g}"
        yield Step("budget", "$ / ($ / GPU-hour) x s x peak x utilisation", numbers, budget, "FLOP", "the plan")
    elif given.tokens_per_parameter is not None:
        numbers = f"6 x {at.parameters:.4g}^2 x {given.tokens_per_parameter:g}"
        yield Step("budget", "6 N^2 (D / N)", numbers, budget, "FLOP", SIX_N_D)
    numbers = f"6 x {at.parameters:.4g} x {at.tokens:.4g}"
    yield Step("training compute", "6 N D", numbers, at.flop, "FLOP", SIX_N_D)
    chosen = LAWS[planned.plan.law]
    numbers = f"C = {at.flop:.4g}, " + ", ".join(f"{name} = {value:g}" for name, value in chosen.constants.items())
    yield Step("best size", chosen.formula(), numbers, best.parameters, "parameters", chosen.source)
    yield Step(
        "best tokens",
        "C / (6 N*)",
        f"{at.flop:.4g} / (6 x {best.parameters:.4g})",
        best.tokens,
        "tokens",
        chosen.source,
    )
    if isinstance(chosen, LossLaw):
        numbers = (
            f"{chosen.E:g} + {chosen.A:g} / {at.parameters:.4g}^{chosen.alpha:g} + {chosen.B:g} / "
            f"{at.tokens:.4g}^{chosen.beta:g}"
        )
        loss = chosen.loss(at.parameters, at.tokens)
        yield Step("predicted loss", "E + A / N^alpha + B / D^beta", numbers, loss, "nats", chosen.source)


def _sensitivity(law: object, at: Optimum) -> Iterator[Effect]:
    """Optimal size when one constant moves by its standard error; over the laws; at half and twice the compute."""
    if isinstance(law, LossLaw):
        given = law.optimum(at.flop).parameters
        for name, error in law.standard_errors.items():
            if name == "E":
                continue
            low, high = (
                replace(law, **{name: getattr(law, name) + sign * error}).optimum(at.flop).parameters
                for sign in (-1, 1)
            )
            yield Effect(f"{name} by one standard error, alone", "optimal parameters", low, given, high, "parameters")
    sizes = [
        other.optimum(at.flop).parameters for name, other in LAWS.items() if not name.endswith(("_printed", "_text"))
    ]
    yield Effect(
        "law, least and most of those with unrounded constants",
        "optimal parameters",
        min(sizes),
        None,
        max(sizes),
        "parameters",
    )
