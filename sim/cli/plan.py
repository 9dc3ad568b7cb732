"""`sim plan`: six questions before the run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sim.cli.options import JsonOption, SetOption
from sim.cli.output import STDOUT, console, refuse_file, refuse_folder, write_json, writing

if TYPE_CHECKING:
    from sim.decide.planner import Decided

EXAMPLES = (
    "sim plan llama2-70b_128xh100",
    "sim plan llama2-70b_128xh100 --explain --report reports/plan",
    "sim plan --published",
    "sim plan dense-3b_64xh100_device --set deployment.tokens=1e13 --json -",
)


def command(
    plan: Annotated[
        str | None, typer.Argument(metavar="PLAN", help="Name (see `sim list plans`) or path of a plan file.")
    ] = None,
    settings: SetOption = None,
    published: Annotated[
        bool, typer.Option("--published", help="Instead: test vectors of all laws, and GPU-hours of published runs.")
    ] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Print every formula with its numbers put in.")] = False,
    json: JsonOption = None,
    report: Annotated[Path | None, typer.Option("--report", metavar="DIR", help="Write the HTML report here.")] = None,
) -> None:
    """Six questions before a run, answered in order with numbers.

    Model size, compute and data, layout, memory, mix of data, number format and recovery. Each answer has its formula
    with its source, and how far it moves; the next one follows from it.
    """
    if (plan is None) != published:
        raise typer.BadParameter("needs a PLAN, or --published without one")
    if published and (settings or explain or report is not None):
        raise typer.BadParameter("--published goes with --json alone")
    refuse_file(json)
    refuse_folder(report)
    if plan is None:
        _published(json)
        return
    decided = _decided(plan, settings)
    is_quiet = json == STDOUT
    if json is not None:
        write_json(decided.to_dict(), json)
    if not is_quiet:
        from sim.report.plan import print_plan  # noqa: PLC0415 - see sim.cli.run

        print_plan(decided, console(), explain=explain)
    if report is not None:
        from sim.report.plan_page import write_plan  # noqa: PLC0415 - see sim.cli.run

        with writing(report):
            page = write_plan(decided, report)
        typer.echo(f"report: {page}", err=is_quiet)


def _decided(plan: str, settings: list[str] | None) -> Decided:
    from sim.decide.load import load_plan  # noqa: PLC0415 - see sim.cli.run
    from sim.decide.planner import decide  # noqa: PLC0415 - see sim.cli.run

    planned = load_plan(plan, settings or ())
    if not typer.get_text_stream("stderr").isatty():
        return decide(planned)
    return decide(planned, lambda text: typer.echo(f"  {text}", err=True))


def _published(json: str | None) -> None:
    """How far the laws are from what their papers print, and we from published GPU-hours."""
    import dataclasses  # noqa: PLC0415 - see sim.cli.run

    from sim.decide.published import hours_table, predictions  # noqa: PLC0415 - see sim.cli.run
    from sim.decide.vectors import vectors_table  # noqa: PLC0415 - see sim.cli.run
    from sim.report.plan import table_lines  # noqa: PLC0415 - see sim.cli.run

    tables = (vectors_table(), hours_table(list(predictions())))
    if json is not None:
        write_json([dataclasses.asdict(table) for table in tables], json)
    if json != STDOUT:
        for table in tables:
            typer.echo("\n".join(["", table.title, *table_lines(table, len(table.rows)), table.note]))
