"""`sim search`: the best of all legal layouts, proven."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sim.cli.options import JsonOption, ScenarioArgument, SetOption, VariantOption
from sim.cli.output import STDOUT, columns, refuse_file, write_json, writing
from sim.cli.progress import Progress
from sim.errors import SimError

if TYPE_CHECKING:
    from sim.spec.scenario import Scenario
    from sim.study.search import Found, Played

EXAMPLES = (
    "sim search llama2-70b_128xh100_tp8-pp2-dp8 --axes tp,pp,vpp,zero,micro_batch,recompute",
    "sim search llama2-70b_128xh100_tp8-pp2-dp8 --axes tp=4:8,pp,schedule,order --constraint 'memory<0.9'",
    "sim search llama2-70b_128xh100_tp8-pp2-dp8 --objective cost --price 2.50 --max-plays 20 --save best.yaml",
)


class Objective(StrEnum):
    """What is the best of a layout."""

    STEP_TIME = "step_time"
    COST = "cost"
    TOKENS = "tokens_per_s_per_gpu"


def command(  # noqa: PLR0913 - one for each option
    scenario: ScenarioArgument,
    variant: VariantOption = None,
    settings: SetOption = None,
    *,
    objective: Annotated[Objective, typer.Option("--objective", help="What is sought.")] = Objective.STEP_TIME,
    axes: Annotated[
        str | None,
        typer.Option(
            "--axes",
            metavar="AXIS[=V:V],...",
            help="What is varied, over all legal values or those given; others stay as in the scenario. Axes: tp, cp, "
            "ep, etp, pp, vpp, zero, micro_batch, recompute (these by default), schedule, order.",
        ),
    ] = None,
    constraint: Annotated[
        list[str] | None,
        typer.Option("--constraint", metavar="NAME<VALUE", help="Such as memory<0.9, tp<=8. Can be given again."),
    ] = None,
    price: Annotated[float | None, typer.Option("--price", min=0.0, help="Of a GPU-hour, in any currency.")] = None,
    top: Annotated[int, typer.Option("--top", min=1, help="Rows of the ranking.")] = 20,
    max_plays: Annotated[
        int | None, typer.Option("--max-plays", min=1, help="Stop after so many; the gap that is left is told.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Processes [default: one for each core, up to 8]")
    ] = None,
    json: JsonOption = None,
    save: Annotated[
        Path | None, typer.Option("--save", metavar="FILE", help="Write the best layout as a scenario file here.")
    ] = None,
) -> None:
    """Find the best layout of all legal ones, with proof.

    Lower bounds rule out most layouts; the others are played, best first.
    """
    from sim.program.check import problems  # noqa: PLC0415 - see sim.cli.run
    from sim.spec import load as files  # noqa: PLC0415 - see sim.cli.run
    from sim.study.search import constraint as parsed  # noqa: PLC0415 - see sim.cli.run
    from sim.study.search import goal_of, search  # noqa: PLC0415 - see sim.cli.run
    from sim.study.space import parsed_axes  # noqa: PLC0415 - see sim.cli.run

    refuse_file(json)
    refuse_file(None if save is None else str(save))
    wanted, limits = parsed_axes(axes), [parsed(text) for text in constraint or ()]
    loaded = files.load(scenario, settings or (), variant=variant, checks=[problems])
    with Progress(0) as progress:
        found = search(
            loaded,
            goal_of(loaded, objective.value, price),
            wanted,
            constraints=limits,
            workers=workers or min(os.cpu_count() or 1, 8),
            max_plays=max_plays,
            on_progress=progress.show,
        )
    is_quiet = json == STDOUT
    if json is not None:
        write_json(_plain(found, top), json)
    if not is_quiet:
        _print(found, top)
    if not found.ranking:
        raise SimError("no layout fits in memory and meets the constraints")
    if save is not None:
        _save(loaded, found.ranking[0], save)
        typer.echo(f"scenario: {save}", err=is_quiet)


def _print(found: Found, top: int) -> None:
    """What was ruled out, and the ranking."""
    typer.echo(_summary(found))
    if not found.ranking:
        return
    has_cost = found.goal.price is not None
    head = ["", "step", "tokens/s/GPU", *(["cost"] if has_cost else []), "memory", "over its bound", "layout"]
    rows = [head]
    for place, each in enumerate(found.ranking[:top], start=1):
        mark = "proven" if place <= found.num_proven else "played"
        cost = [f"{found.goal.cost(each.step_s):.4g}"] if has_cost else []
        over = f"{each.step_s / each.bound_s - 1:.1%}"
        numbers = [
            f"{each.step_s:.4g} s",
            f"{found.goal.rate(each.step_s):,.0f}",
            *cost,
            f"{each.memory_frac:.0%}",
            over,
        ]
        rows.append([f"{place} {mark}", *numbers, each.choice.text])
    typer.echo("\n" + columns(rows))


def _summary(found: Found) -> str:
    parts = [f"{found.legal:,} legal layouts of {found.candidates:,} combinations"]
    if found.duplicates:
        parts.append(f"{found.duplicates:,} that are played like another one left out")
    if found.excluded_by_axes:
        parts.append(f"{found.excluded_by_axes:,} excluded by constraints on axes")
    lines = ["; ".join(parts) + "."]
    lines.append(
        f"Ruled out: {found.pruned_by_bound:,} by their bound, {found.pruned_alone:,} by their time without "
        f"contention, {found.excluded_by_memory:,} by their memory. Played: {found.num_played:,}"
        + (f", of which {found.excluded_by_result:,} miss a constraint." if found.excluded_by_result else ".")
    )
    lines += [f"Cannot be played: {choice.text}: {reason}" for choice, reason in found.unplayable]
    if found.is_proven:
        lines.append("The optimum is proven: no legal layout that fits is better than the first.")
    elif found.gap is not None:
        lines.append(f"Stopped: the optimum is at most {found.gap:.1%} of it faster than the first.")
    return "\n".join(lines)


def _plain(found: Found, top: int) -> dict[str, Any]:
    import dataclasses  # noqa: PLC0415 - see sim.cli.run

    numbers = dataclasses.asdict(found) | {"is_proven": found.is_proven, "gap": found.gap}
    numbers["num_proven"] = found.num_proven
    del numbers["beaten_s"]
    numbers["ranking"] = [
        dataclasses.asdict(each) | {found.goal.objective: found.goal.value(each.step_s)} for each in found.ranking[:top]
    ]
    return numbers


def _save(scenario: Scenario, best: Played, path: Path) -> None:
    """The best layout as a file that describes the whole scenario."""
    import yaml  # noqa: PLC0415 - see sim.cli.run

    from sim.spec.load import dump  # noqa: PLC0415 - see sim.cli.run
    from sim.study.space import legal  # noqa: PLC0415 - see sim.cli.run

    made = legal(scenario, best.choice)
    assert not isinstance(made, str), "what was played is legal"
    values = {key: value for key, value in dump(made).items() if value is not None and key != "variant"}
    if made.model.experts is None:
        # A dense model's file may not speak of experts.
        del values["training"]["moe"]
    text = f"# What does a step of {scenario.title} cost in the best layout that `sim search` found?\n"
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
