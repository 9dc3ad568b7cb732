"""Question 3: how many GPUs, which links, so which layout? Played on the given cluster."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sim.decide.answer import Answer, Column, Effect, Grid, Step, Value
from sim.decide.law import Optimum
from sim.decide.load import Planned, refuse
from sim.decide.ranking import Ranked, Said, played, ranked_layouts, tried_layout
from sim.decide.ranking import Step as Played
from sim.decide.wording import said
from sim.errors import SimError
from sim.program.lower import lower
from sim.results.result import Result
from sim.results.traffic import traffic
from sim.simulation import simulate
from sim.spec.conditions import built_fabric
from sim.spec.model import Model

QUESTION = "How many GPUs, which links, so which layout?"
TP_ACROSS_NODES = "dp-cp-ep-tp-pp"
SIMULATED = "simulated step of this cluster (docs/results.md)"


@dataclass(frozen=True)
class LaidOut:
    """The layout that the plan goes on with, its step, and the ranking that it comes from."""

    ranked: Ranked
    result: Result
    ranking: list[Ranked]
    steps: float
    answer: Answer

    @property
    def train_s(self) -> float:
        """All steps, without what goes wrong."""
        return self.steps * self.result.step_time_s


def choose_layout(planned: Planned, model: Model, at: Optimum, told: Said) -> LaidOut:
    """The answer to the third question.

    Raises SimError where no layout of the search can be played, or the given one cannot be.
    """
    given = planned.plan.given.layout
    ranking = ranked_layouts(planned, model, planned.plan.layouts, told)
    if given is not None:
        chosen = played(tried_layout(planned, model, given, "given"), told)
        ranking = [chosen, *ranking]
    else:
        chosen = played(ranking[0], told) if ranking[0].fits else ranking[0]
        ranking[0] = chosen
    if chosen.result is None or (given is None and not chosen.fits):
        raise SimError(
            f"no layout fits {planned.num_gpus} {planned.gpu.name}: the nearest is {chosen.name}, {chosen.reason}"
        )
    result = chosen.result
    training = result.scenario.training
    steps = at.tokens / (training.global_batch * training.seq_len)
    train_s = steps * result.step_time_s
    gpu_hours = train_s / 3600 * planned.num_gpus
    usd = gpu_hours * planned.plan.price.usd_per_gpu_hour
    cautions = [f"{chosen.name} does not fit the GPU's memory."] if not result.fits else []
    assumed = planned.plan.budget.utilisation
    if planned.plan.budget.days is not None or planned.plan.budget.usd is not None:
        used = at.flop / (train_s * planned.num_gpus * planned.peak_flop_per_s)
        if abs(used / assumed - 1) > 0.1:
            cautions.append(
                f"The budget was turned into FLOP at {assumed:.0%} of peak; this layout reaches {used:.1%} (6 N "
                "D): set "
                f"budget.utilisation to that."
            )
    best = next((each for each in ranking if each.step is not None and each.fits), chosen)
    return LaidOut(
        ranked=chosen,
        result=result,
        ranking=ranking,
        steps=steps,
        answer=Answer(
            number=3,
            question=QUESTION,
            text=f"{chosen.name} takes {said(result.step_time_s, 's')} a step at {said(result.mfu, 'share')} MFU: "
            f"{steps:,.0f} steps, {said(train_s, 's')} and {said(usd, 'usd')} on {planned.num_gpus:,} "
            f"{planned.gpu.name} "
            f"before anything goes wrong.",
            values={
                "layout": chosen.name,
                "step_time_s": result.step_time_s,
                "mfu": result.mfu,
                "steps": steps,
                "days": train_s / 86400,
                "gpu_hours": gpu_hours,
                "usd": usd,
                "num_gpus": planned.num_gpus,
            },
            grids=(_ranking(ranking, chosen, best), _links(result), *_across_nodes(result)),
            steps=tuple(_steps(planned, at, result, steps)),
            sensitivity=tuple(_sensitivity(ranking, result, usd)),
            cautions=tuple(cautions),
            is_given=given is not None,
        ),
    )


def _ranking(ranking: list[Ranked], chosen: Ranked, best: Ranked) -> Grid:
    """Every layout that was tried."""
    rows: list[tuple[Value, ...]] = []
    for place, each in enumerate(ranking, 1):
        if each.step is None:
            rows.append((place, each.name, None, None, None, each.peak_bytes, each.layout.recompute, each.reason))
            continue
        assert best.step is not None
        why = "the fastest that fits" if each is best else _why(each.step, best.step)
        how = "" if each.result is not None else " (screened)"
        why = f"{each.reason}; {why}" if each.reason else why
        rows.append(
            (
                place,
                each.name,
                each.step.time_s,
                each.step.time_s / best.step.time_s,
                each.step.mfu,
                each.peak_bytes,
                each.layout.recompute,
                why + how,
            )
        )
    return Grid(
        "ranking",
        "Layouts, the fastest that fits first",
        (
            Column("place"),
            Column("layout"),
            Column("step", "s"),
            Column("of the best", "x"),
            Column("MFU", "share"),
            Column("memory of a GPU", "bytes"),
            Column("recompute"),
            Column("why"),
        ),
        tuple(rows),
        chosen=ranking.index(chosen),
        note="Tried: TP and PP in powers of two, DP the rest, ZeRO-0, 1 and (without a pipeline) 3, one or two "
        "sequences a "
        "micro-batch, each with the least recomputation that fits. Screened: from two plays of few micro-batches.",
    )


def _why(step: Played, best: Played) -> str:
    """The cause whose seconds differ most from the best's."""
    causes = {*step.breakdown_s, *best.breakdown_s}
    more = {cause: step.breakdown_s.get(cause, 0.0) - best.breakdown_s.get(cause, 0.0) for cause in sorted(causes)}
    cause = max(more, key=lambda name: more[name])
    return f"{more[cause]:+.2f} s of {cause.replace('_', ' ')}"


def _links(result: Result) -> Grid:
    """What each kind of parallelism sends in a step, how often, and over what: the frequent and large go inside a
    node."""
    fabric = built_fabric(result.scenario)
    rows: list[tuple[Value, ...]] = []
    for row in traffic(lower(result.scenario, fabric, "folded"), result.scenario, fabric):
        tiers = ", ".join(sorted(row.bytes_by_tier))
        exposed = result.exposed_s_by_kind.get(row.kind)
        rows.append(
            (
                row.kind,
                row.op,
                row.group_size,
                row.nodes_per_group,
                row.max_nbytes,
                row.calls_per_step,
                row.bytes_per_step,
                tiers or "-",
                exposed,
            )
        )
    return Grid(
        "links",
        "What each kind of parallelism sends in a step, from the rank that sends most",
        (
            Column("kind"),
            Column("collective"),
            Column("ranks"),
            Column("nodes of a group"),
            Column("a call", "bytes"),
            Column("calls a step"),
            Column("a step", "bytes"),
            Column("links"),
            Column("exposed, whole kind", "s"),
        ),
        tuple(rows),
    )


def _across_nodes(result: Result) -> Iterator[Grid]:
    """The same layout with each tensor-parallel group spread over nodes: why TP stays inside one."""
    layout = result.scenario.layout
    if layout.tp == 1 or layout.dp == 1:
        return
    moved = layout.model_copy(update={"order": TP_ACROSS_NODES})
    scenario = result.scenario.model_copy(update={"layout": moved})
    try:
        refuse(scenario)
    except SimError:
        return
    other = simulate(scenario)
    rows: tuple[tuple[Value, ...], ...] = tuple(
        (name, of.scenario.layout.order, of.step_time_s, of.exposed_s_by_kind.get("tp", 0.0), of.mfu)
        for name, of in (("TP inside the node", result), ("TP across nodes", other))
    )
    yield Grid(
        "placement",
        "Why tensor parallelism stays inside the node",
        (Column("placement"), Column("order"), Column("step", "s"), Column("exposed TP", "s"), Column("MFU", "share")),
        rows,
        chosen=0,
        note="The same layout; only which ranks share a node differs. TP's collectives stand between two products that "
        "need each other, so nearly all that slower links add is exposed.",
    )


def _steps(planned: Planned, at: Optimum, result: Result, steps: float) -> Iterator[Step]:
    training, price = result.scenario.training, planned.plan.price
    numbers = f"{at.tokens:.4g} / ({training.global_batch} x {training.seq_len})"
    yield Step("optimizer steps", "D / (global batch x sequence)", numbers, steps, "", "definition")
    yield Step("a step", "simulation", str(result.name), result.step_time_s, "s", SIMULATED)
    train_s = steps * result.step_time_s
    yield Step("training", "steps x step", f"{steps:,.0f} x {result.step_time_s:.4g}", train_s, "s", "definition")
    hours = train_s / 3600 * planned.num_gpus
    yield Step(
        "GPU-hours", "training / 3600 x GPUs", f"{train_s:.4g} / 3600 x {planned.num_gpus}", hours, "h", "definition"
    )
    numbers = f"{hours:.4g} x {price.usd_per_gpu_hour:g}"
    yield Step(
        "cost", "GPU-hours x price", numbers, hours * price.usd_per_gpu_hour, "usd", f"{price.source}, {price.date}"
    )


def _sensitivity(ranking: list[Ranked], result: Result, usd: float) -> Iterator[Effect]:
    fitting = [each.step.time_s for each in ranking if each.step is not None and each.fits]
    if len(fitting) > 1:
        yield Effect(
            "layout: the best, the chosen, the median of those that fit",
            "step",
            min(fitting),
            result.step_time_s,
            sorted(fitting)[len(fitting) // 2],
            "s",
        )
    yield Effect("price of a GPU-hour, half and twice", "cost", usd / 2, usd, usd * 2, "usd")
