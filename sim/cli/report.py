"""`sim report`: a page over any set of results."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sim.cli.output import refuse_folder, writing
from sim.cli.progress import Progress
from sim.errors import Problem, SimError

if TYPE_CHECKING:
    from sim.report.points import Point
    from sim.simulation import Simulation
    from sim.spec.scenario import Scenario

EXAMPLES = (
    "sim report reports/batch --out reports/page",
    "sim report first.json second.json reports/batch/sweep.csv --out reports/page",
    "sim report llama2-70b_128xh100_layouts --out reports/page --against 'tp8-pp2-dp8 zero2'",
)
FILES = (".json", ".csv")


def command(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="JSON of `sim run` or `sim compare`, sweep.csv, folders with these, and scenarios, which are played.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the page.")],
    against: Annotated[
        str | None,
        typer.Option("--against", metavar="NAME", help="What the best is compared with [default: the next best]"),
    ] = None,
    title: Annotated[str, typer.Option("--title", metavar="TEXT", help="Head of the page.")] = "Results",
) -> None:
    """Draw one page over any set of results.

    It shows what is best, what it costs, and which settings decide. The page opens offline; its figures are also files
    of their own.
    """
    from sim.report.set_page import write_set_report  # noqa: PLC0415 - see sim.cli.run

    refuse_folder(out)
    points, simulations = _gathered(sources)
    with writing(out):
        page = write_set_report(points, simulations, out, title, against)
    typer.echo(f"{len(points)} results: {page}")


def _gathered(sources: list[str]) -> tuple[list[Point], list[Simulation]]:
    """All points, files before scenarios. Raises SimError with the mistakes of all sources, before any is played."""
    from sim.report.points import point_of, read_points  # noqa: PLC0415 - see sim.cli.run
    from sim.simulation import load_all, run  # noqa: PLC0415 - see sim.cli.run

    read: list[Point] = []
    scenarios: list[Scenario] = []
    problems: dict[Problem, None] = {}
    for source in sources:
        path = Path(source)
        try:
            if path.is_dir() or path.suffix in FILES:
                read += read_points(path)
            else:
                scenarios += load_all(source)
        except SimError as error:
            problems |= dict.fromkeys(error.problems)
    if problems:
        raise SimError(list(problems))
    simulations = []
    with Progress(len(scenarios)) as progress:
        for scenario in scenarios:
            simulations.append(run(scenario))
            progress.advance(f"{scenario.title}: {simulations[-1].result.step_time_s:.3f} s")
    points = [*read, *(point_of(simulation.result) for simulation in simulations)]
    if not points:
        raise SimError("no result to draw: every point of these files was impossible (allowed one that was played)")
    return points, simulations
