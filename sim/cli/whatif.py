"""`sim whatif`: what to change next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from sim.cli.options import JsonOption, ScenarioArgument, SetOption, VariantOption
from sim.cli.output import STDOUT, columns, refuse_file, write_json
from sim.cli.progress import Progress

if TYPE_CHECKING:
    from sim.study.whatif import WhatIf

EXAMPLES = (
    "sim whatif llama2-70b_128xh100_tp8-pp2-dp8",
    "sim whatif llama2-7b_8xa100_zero3 --json whatif.json",
)


def command(
    scenario: ScenarioArgument, variant: VariantOption = None, settings: SetOption = None, json: JsonOption = None
) -> None:
    """Say what to change next: the critical path, and replays.

    Links, latencies, GPUs, a straggler, and neighbouring layouts, each replayed, the most useful first.
    """
    from sim.simulation import load  # noqa: PLC0415 - see sim.cli.run
    from sim.study.whatif import what_if  # noqa: PLC0415 - see sim.cli.run

    refuse_file(json)
    loaded = load(scenario, settings or (), variant=variant)
    with Progress(0) as progress:
        found = what_if(loaded, progress.show)
    if json is not None:
        write_json(_plain(found), json)
    if json != STDOUT:
        _print(found)


def _print(found: WhatIf) -> None:
    from sim.report.tables import percent, seconds  # noqa: PLC0415 - see sim.cli.run
    from sim.report.words import cause  # noqa: PLC0415 - see sim.cli.run

    typer.echo(f"A step takes {seconds(found.step_s)}. What would change it, each alone:\n")
    for outcome in found.outcomes:
        typer.echo(f"  {outcome.text}")
    for words, reason in found.unplayable:
        typer.echo(f"  {words}: cannot be played: {reason}")
    parts = sorted(found.path.seconds_by_cause.items(), key=lambda part: -part[1])
    rows = [["on the critical path", "time", "share"]]
    rows += [[cause(name).name, seconds(time_s), percent(time_s / found.path.step_s)] for name, time_s in parts]
    typer.echo("\n" + columns(rows))


def _plain(found: WhatIf) -> dict[str, Any]:
    import dataclasses  # noqa: PLC0415 - see sim.cli.run

    return {
        "step_time_s": found.step_s,
        "changes": [dataclasses.asdict(outcome) for outcome in found.outcomes],
        "unplayable": [{"words": words, "reason": reason} for words, reason in found.unplayable],
        "critical_path": {
            "seconds_by_cause": found.path.seconds_by_cause,
            "seconds_by_pp_rank": {str(rank): time_s for rank, time_s in found.path.seconds_by_pp_rank.items()},
            "operations": len(found.path.nodes),
        },
    }
