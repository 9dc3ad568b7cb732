"""Question 5: what data, in what mix? Epochs of each source, what repeats are worth, phases, and what is missing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from sim.decide import repeated
from sim.decide.answer import Answer, Column, Effect, Grid, Step, Value
from sim.decide.catalogue import MIXES, mix, out_of_range
from sim.decide.law import LossLaw, Optimum
from sim.decide.laws import LAWS
from sim.decide.load import Planned
from sim.decide.memory_stages import Fitted
from sim.decide.mixing import best_mix, losses
from sim.decide.plan import MIX_TOLERANCE, Data, PlannedLayout
from sim.decide.ranking import Said, least_recompute
from sim.decide.wording import said
from sim.errors import SimError
from sim.results.result import Result
from sim.simulation import simulate
from sim.spec.model import Model

QUESTION = "What data, in what mix?"
ANNEALING_SOURCE = "decay over the last 10 % of tokens is enough, 2.5 % is not (MiniCPM, arXiv 2404.06395, section 4)"
USUAL = "usual"


@dataclass(frozen=True)
class Drawn:
    """A source as it is used. asked: tokens by the mix.  used: those that its epochs allow.

    effective: fresh tokens that those are worth.  marginal: what its last epoch adds, of a fresh token.
    """

    name: str
    share: float
    available: float
    asked: float
    used: float
    quality: float

    @property
    def epochs(self) -> float:
        """Passes over it."""
        return self.used / self.available

    @property
    def effective(self) -> float:
        """By the data-constrained law."""
        return repeated.effective_tokens(self.available, self.epochs)

    @property
    def missing(self) -> float:
        """Fresh tokens that synthetic data, or more of the source, would have to supply."""
        return self.asked - self.effective


@dataclass(frozen=True)
class Phase:
    """A part of the run with its own step. result: None for a phase whose step is the main one's."""

    name: str
    tokens: float
    seq_len: int
    layout: str
    step_time_s: float
    steps: float

    @property
    def train_s(self) -> float:
        """Of all its steps."""
        return self.steps * self.step_time_s


@dataclass(frozen=True)
class Mixed:
    """Phases that the plan goes on with, and how long they take together."""

    phases: tuple[Phase, ...]
    answer: Answer

    @property
    def train_s(self) -> float:
        """Of all phases."""
        return sum(phase.train_s for phase in self.phases)


def refuse_phases(planned: Planned, tokens: float) -> None:
    """Raise SimError where annealing and long context take more than all tokens."""
    data = planned.plan.data
    if data is None:
        return
    long_tokens = data.long_context.tokens if data.long_context is not None else 0.0
    annealed = data.annealing * tokens
    if annealed + long_tokens > tokens:
        raise SimError(
            f"data: annealing and long_context take {annealed:.4g} + {long_tokens:.4g} tokens of {tokens:.4g} "
            "(allowed up to all of them)"
        )


def choose_mix(planned: Planned, model: Model, at: Optimum, fitted: Fitted, told: Said) -> Mixed:
    """The answer to the fifth question. Without `data` in the plan there is one phase and no mix."""
    data = planned.plan.data
    phases = tuple(_phases(planned, model, at, fitted, told))
    if data is None:
        answer = Answer(
            number=5,
            question=QUESTION,
            text=f"The plan names no sources (`data`): {said(at.tokens, 'tokens')} fresh tokens are taken as given.",
            values={"tokens": at.tokens, "effective_tokens": at.tokens},
            grids=(published_mixes(),),
            steps=(),
            sensitivity=(),
        )
        return Mixed(phases, answer)
    shares = chosen_shares(planned, data, at.tokens)
    drawn = draw(data, shares, at.tokens)
    effective = sum(each.effective for each in drawn)
    missing = sum(each.missing for each in drawn)
    law = LAWS[planned.plan.law]
    price = ""
    values: dict[str, Value] = {
        "tokens": at.tokens,
        "unique_tokens": sum(min(each.available, each.used) for each in drawn),
        "effective_tokens": effective,
        "missing_tokens": missing,
        "quality_tokens": sum(each.effective * each.quality for each in drawn),
        "train_s": sum(phase.train_s for phase in phases),
    }
    if isinstance(law, LossLaw):
        loss, fresh = law.loss(at.parameters, effective), law.loss(at.parameters, at.tokens)
        values |= {"loss": loss, "loss_of_repeats": loss - fresh}
        price = f" Repeats and shortage cost {loss - fresh:.4f} nats."
    return Mixed(
        phases,
        Answer(
            number=5,
            question=QUESTION,
            text=f"{said(at.tokens, 'tokens')} tokens are worth {said(effective, 'tokens')} fresh ones "
            f"({said(effective / at.tokens, 'share')}); {said(max(missing, 0.0), 'tokens')} would have to be "
            f"supplied to make up for it.{price}",
            values=values,
            grids=tuple(_grids(data, drawn, phases)),
            steps=tuple(_steps(drawn, at, effective)),
            sensitivity=tuple(_sensitivity(data, shares, at.tokens)),
            cautions=tuple(_cautions(data, shares, drawn)),
            is_given=planned.plan.given.mix is not None,
        ),
    )


def chosen_shares(planned: Planned, data: Data, tokens: float) -> dict[str, float]:
    """Shares by source: the given answer, else those of the file over those of the preset, else the mixing law's.

    Sources without one share what is left in proportion to their tokens; a preset's sources that the file lacks are
    left out, and the others scaled up.
    """
    if planned.plan.given.mix is not None:
        return {name: planned.plan.given.mix.get(name, 0.0) for name in data.sources}
    published = mix(data.preset).shares if data.preset is not None else {}
    known = {
        name: source.share if source.share is not None else published.get(name) for name, source in data.sources.items()
    }
    stated = {name: share for name, share in known.items() if share is not None}
    if not stated and data.mixing_law is not None:
        limits = [(source.max_epochs or 1.0) * source.tokens / tokens for source in data.sources.values()]
        return dict(zip(data.sources, best_mix(data.mixing_law, limits), strict=True))
    rest = max(1 - sum(stated.values()), 0.0)
    open_tokens = {name: data.sources[name].tokens for name in data.sources if name not in stated}
    if not open_tokens:
        return {name: share / sum(stated.values()) for name, share in stated.items()}
    whole = sum(open_tokens.values())
    return {name: stated.get(name, rest * open_tokens.get(name, 0.0) / whole) for name in data.sources}


def draw(data: Data, shares: dict[str, float], tokens: float) -> list[Drawn]:
    """What each source gives to a run of `tokens`."""
    drawn = []
    for name, source in data.sources.items():
        asked = shares[name] * tokens
        most = source.max_epochs * source.tokens if source.max_epochs is not None else asked
        drawn.append(Drawn(name, shares[name], source.tokens, asked, min(asked, most), source.quality))
    return drawn


def _phases(planned: Planned, model: Model, at: Optimum, fitted: Fitted, told: Said) -> Iterator[Phase]:
    """Main phase, annealing, and long context with its own simulated step."""
    data, scenario = planned.plan.data, fitted.result.scenario
    step_tokens = scenario.training.global_batch * scenario.training.seq_len
    step_s, layout = fitted.result.step_time_s, _axes(fitted.result)
    long = data.long_context if data is not None else None
    annealed = (data.annealing if data is not None else 0.0) * at.tokens
    rest = at.tokens - (long.tokens if long is not None else 0.0) - annealed
    assert rest >= 0, "refuse_phases comes first"
    yield Phase("main", rest, scenario.training.seq_len, layout, step_s, rest / step_tokens)
    if long is not None:
        lengthened = replace(
            planned,
            plan=planned.plan.model_copy(
                update={
                    "training": planned.plan.training.model_copy(
                        update={"seq_len": long.seq_len, "global_batch": long.global_batch}
                    )
                }
            ),
        )
        given = scenario.layout
        asked = PlannedLayout(tp=given.tp, pp=given.pp, cp=long.cp, ep=given.ep, vpp=given.vpp, zero=given.zero)
        try:
            _, longer, fits = least_recompute(lengthened, model, asked)
        except SimError as error:
            raise SimError(f"data.long_context: {error}") from None
        result = simulate(longer)
        told(f"long context: {result.step_time_s:.3f} s")
        name = "long context" if fits else "long context (does not fit)"
        steps = long.tokens / (long.global_batch * long.seq_len)
        yield Phase(name, long.tokens, long.seq_len, _axes(result), result.step_time_s, steps)
    if annealed:
        yield Phase("annealing", annealed, scenario.training.seq_len, layout, step_s, annealed / step_tokens)


def _axes(result: Result) -> str:
    layout = result.scenario.layout
    return (
        f"tp{layout.tp}-cp{layout.cp}-pp{layout.pp}-dp{layout.dp}, {result.scenario.training.recompute} recomputation"
    )


def _grids(data: Data, drawn: Sequence[Drawn], phases: Sequence[Phase]) -> Iterator[Grid]:
    rows: list[tuple[Value, ...]] = [
        (
            each.name,
            each.share,
            each.available,
            each.asked,
            each.epochs,
            each.effective,
            each.effective * each.quality,
            repeated.value_of_epochs(each.epochs),
            repeated.marginal_value(each.epochs),
            each.missing,
            data.sources[each.name].purpose or _purpose(data, each.name),
        )
        for each in drawn
    ]
    yield Grid(
        "sources",
        "Sources in the mix",
        (
            Column("source"),
            Column("share", "share"),
            Column("tokens there are", "tokens"),
            Column("asked for", "tokens"),
            Column("epochs"),
            Column("worth, fresh", "tokens"),
            Column("weighted by quality", "tokens"),
            Column("of a fresh one", "share"),
            Column("the last epoch, of a fresh one", "share"),
            Column("missing", "tokens"),
            Column("what it is for"),
        ),
        tuple(rows),
        note="Missing: fresh tokens that synthetic data would have to supply, were it worth as much as the "
        "source. The law "
        "was fitted to whole corpora that are repeated; here it is applied to each source by itself.",
    )
    yield Grid(
        "epochs",
        "What repeating is worth",
        (Column("epochs"), Column("all tokens, of fresh ones", "share"), Column("the last epoch's", "share")),
        tuple(
            (float(epochs), repeated.value_of_epochs(epochs), repeated.marginal_value(epochs))
            for epochs in (1, 2, 4, 8, 16, 40)
        ),
    )
    yield Grid(
        "phases",
        "Phases",
        (
            Column("phase"),
            Column("tokens", "tokens"),
            Column("sequence"),
            Column("layout"),
            Column("step", "s"),
            Column("steps"),
            Column("time", "s"),
        ),
        tuple(
            (phase.name, phase.tokens, phase.seq_len, phase.layout, phase.step_time_s, phase.steps, phase.train_s)
            for phase in phases
        ),
        note="Annealing changes the data and the learning rate, not the step; long context changes the step.",
    )
    if data.mixing_law is not None:
        yield _mixing_grid(data, drawn)
    yield published_mixes()


def _purpose(data: Data, name: str) -> str:
    return mix(data.preset).purposes.get(name, "-") if data.preset is not None else mix(USUAL).purposes.get(name, "-")


def _mixing_grid(data: Data, drawn: Sequence[Drawn]) -> Grid:
    """Losses of the user's law at the mix, and at the law's own best."""
    law = data.mixing_law
    assert law is not None
    tokens = sum(each.asked for each in drawn)
    limits = [(source.max_epochs or 1.0) * source.tokens / tokens for source in data.sources.values()]
    shares = [each.share for each in drawn]
    best = best_mix(law, limits)
    rows: list[tuple[Value, ...]] = [
        (domain, here, there)
        for domain, here, there in zip(law.domains, losses(law, shares), losses(law, best), strict=True)
    ]
    return Grid(
        "mixing_law",
        "Losses by the given mixing law",
        (Column("domain"), Column("this mix", "nats"), Column("the law's best mix", "nats")),
        tuple(rows),
        note="Best mix: "
        + ", ".join(f"{name} {share:.1%}" for name, share in zip(data.sources, best, strict=True))
        + ". L_i = c_i + k_i exp(sum_j t_ij r_j), arXiv 2403.16952, with the coefficients of the plan.",
    )


def published_mixes() -> Grid:
    """Every mix that ships, source by source."""
    rows: list[tuple[Value, ...]] = []
    for name in MIXES:
        each = mix(name)
        for source, share in each.shares.items():
            low, high = each.ranges.get(source, (None, None))
            rows.append(
                (name, source, share, low, high, each.epochs.get(source), each.purposes.get(source, "-"), each.source)
            )
    return Grid(
        "published_mixes",
        "Mixes of published runs",
        (
            Column("mix"),
            Column("source"),
            Column("share", "share"),
            Column("least", "share"),
            Column("most", "share"),
            Column("epochs"),
            Column("what it is for"),
            Column("from"),
        ),
        tuple(rows),
    )


def _steps(drawn: Sequence[Drawn], at: Optimum, effective: float) -> Iterator[Step]:
    for each in drawn:
        numbers = f"U = {each.available:.4g}, R = {each.epochs:.3g} - 1, R* = {repeated.REPEATED_TOKENS:g}"
        if each.epochs > 1:
            yield Step(
                f"{each.name}, worth",
                "U (1 + R* (1 - e^(-R / R*)))",
                numbers,
                each.effective,
                "tokens",
                repeated.SOURCE,
            )
    numbers = " + ".join(f"{each.effective:.4g}" for each in drawn)
    yield Step("effective tokens", "sum over sources", numbers, effective, "tokens", repeated.SOURCE)
    yield Step(
        "missing", "D - effective", f"{at.tokens:.4g} - {effective:.4g}", at.tokens - effective, "tokens", "definition"
    )


def _sensitivity(data: Data, shares: dict[str, float], tokens: float) -> Iterator[Effect]:
    def worth(factor: float) -> float:
        sources = {
            name: source.model_copy(update={"tokens": source.tokens * factor}) for name, source in data.sources.items()
        }
        changed = data.model_copy(update={"sources": sources})
        return sum(each.effective for each in draw(changed, shares, tokens))

    yield Effect(
        "tokens of all sources, half and twice", "effective tokens", worth(0.5), worth(1.0), worth(2.0), "tokens"
    )


def _cautions(data: Data, shares: dict[str, float], drawn: Sequence[Drawn]) -> Iterator[str]:
    total = sum(shares.values())
    if total < 1 - MIX_TOLERANCE:
        yield f"The shares are {total:.1%} in all; the rest of the tokens has no source."
    for each in out_of_range(shares, mix(USUAL)):
        yield f"{each.source} is {each.share:.1%}; published mixes up to 2023 have {each.low:.0%} to {each.high:.0%}."
    for drawing in drawn:
        if drawing.used < drawing.asked:
            most = data.sources[drawing.name].max_epochs
            asked, used = said(drawing.asked, "tokens"), said(drawing.used, "tokens")
            yield f"{drawing.name}: {asked} asked for, but {most:g} epochs are {used}."
        if drawing.epochs > 4:
            worth = repeated.marginal_value(drawing.epochs)
            times = f"{drawing.epochs:.1f}"
            yield f"{drawing.name} is repeated {times} times: its last epoch is worth {worth:.0%} of fresh data."
    if data.annealing < 0.10:
        yield f"Annealing over {data.annealing:.1%} of the tokens: {ANNEALING_SOURCE}."
