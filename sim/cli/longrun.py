"""`sim longrun`: a training run of weeks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sim.cli.options import JsonOption, SetOption
from sim.cli.output import STDOUT, columns, refuse_file, refuse_folder, write_json, writing

EXAMPLES = (
    "sim longrun opt-175b_992xa100",
    "sim longrun llama3.1-405b_16384xh100_54-days --set failures=rsc-1 --replicas 200",
    "sim longrun llama2-70b_1024xh100_2t-tokens --search --report reports/2t-tokens",
    "sim longrun opt-175b_992xa100 --json -",
)


def command(
    longrun: Annotated[
        str, typer.Argument(metavar="LONGRUN", help="Name (see `sim list longruns`) or path of a long-run file.")
    ],
    settings: SetOption = None,
    replicas: Annotated[
        int | None, typer.Option("--replicas", min=1, max=100_000, help="Runs to draw; without it, as the file says.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Processes; without it, one for each core.")
    ] = None,
    search: Annotated[
        bool, typer.Option("--search", help="Also simulate other checkpoint intervals, with the same failures.")
    ] = False,
    json: JsonOption = None,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="DIR", help="Write a page with pictures here.")
    ] = None,
) -> None:
    """Simulate weeks of training: goodput, days and cost.

    Failures, checkpoints, recovery, stragglers and loss spikes are drawn for many runs from one seed. Every second has
    one cause; --json is the same to the byte for the same file and seed.
    """
    from sim.longrun.grid import best_interval  # noqa: PLC0415 - see sim.cli.run
    from sim.longrun.load import load  # noqa: PLC0415 - see sim.cli.run
    from sim.longrun.plan import plan  # noqa: PLC0415 - see sim.cli.run
    from sim.longrun.run import replicate  # noqa: PLC0415 - see sim.cli.run
    from sim.longrun.summary import summary  # noqa: PLC0415 - see sim.cli.run
    from sim.report.longrun import FACTORS, content, sections  # noqa: PLC0415 - see sim.cli.run

    refuse_file(json)
    refuse_folder(report)
    file = load(longrun, settings or ())
    planned = plan(file, longrun)
    wanted = replicas or file.replicas
    outcomes = replicate(planned, wanted, workers)
    found = summary(planned, outcomes)
    trials = best_interval(planned, min(wanted, 40), FACTORS, workers) if search else []
    is_quiet = json == STDOUT
    if json is not None:
        write_json(content(found, trials), json)
    if not is_quiet:
        for title, rows in sections(found, trials):
            typer.echo(f"{title}\n{columns(rows, indent='  ')}\n")
        for note in planned.notes:
            typer.echo(f"note: {note}")
    if report is not None:
        from sim.report.longrun_page import write_longrun  # noqa: PLC0415 - see sim.cli.run

        with writing(report):
            page = write_longrun(found, trials, report)
        typer.echo(f"report: {page}", err=is_quiet)
