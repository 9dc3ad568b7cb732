"""`sim compare`: several scenarios side by side."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sim.cli.group import EXIT_MISTAKE
from sim.cli.options import Fidelity, FidelityOption, JsonOption, SetOption
from sim.cli.output import PLAIN_WIDTH, STDOUT, console, refuse_file, refuse_folder, write_json, writing
from sim.cli.progress import Progress
from sim.errors import Problem, SimError

if TYPE_CHECKING:
    from sim.results.result import Result
    from sim.simulation import Simulation
    from sim.spec.scenario import Scenario
    from sim.study.compare import Failure

EXAMPLES = (
    "sim compare llama2-70b_128xh100_layouts",
    "sim compare first.yaml second.yaml --set training.micro_batch=2 --report reports/mine",
    "sim compare llama2-70b_128xh100_layouts --json -",
)


def command(
    scenarios: Annotated[
        list[str], typer.Argument(metavar="SCENARIO...", help="Scenario files, or one that holds `variants:`.")
    ],
    settings: SetOption = None,
    json: JsonOption = None,
    report: Annotated[
        Path | None,
        typer.Option("--report", metavar="DIR", help="Where the HTML report goes [default: reports/<scenario>]"),
    ] = None,
    no_report: Annotated[bool, typer.Option("--no-report", help="Write no report.")] = False,
    fidelity: FidelityOption = Fidelity.FUSED,
) -> None:
    """Simulate several scenarios: which wins, and why.

    Ends with a report with pictures, unless --no-report is given or --json prints to stdout.
    """
    if report is not None and no_report:
        raise typer.BadParameter("--report and --no-report exclude each other")
    refuse_file(json)
    refuse_folder(report)
    loaded = _load(scenarios, settings or ())
    simulations, failures = _play(loaded, fidelity)
    results = [simulation.result for simulation in simulations]
    is_quiet = json == STDOUT
    if json is not None:
        write_json([result.to_dict() for result in results], json)
    if simulations and not is_quiet:
        _print(results)
    if simulations and not no_report and (report is not None or not is_quiet):
        title = loaded[0].name if len(scenarios) == 1 else "comparison"
        _report(simulations, report or Path("reports") / title, title, is_quiet=is_quiet)
    for failure in failures:
        for problem in failure.error.problems:
            typer.echo(f"{failure.scenario.title} cannot be played: {problem}", err=True)
    if failures:
        raise typer.Exit(EXIT_MISTAKE)


def _load(names: list[str], settings: Sequence[str]) -> list[Scenario]:
    """The scenarios of all files. Raises SimError with the mistakes of all of them."""
    from sim.simulation import load_all  # noqa: PLC0415 - see sim.cli.run
    from sim.study.compare import told_apart  # noqa: PLC0415 - see sim.cli.run

    loaded: list[Scenario] = []
    problems: dict[Problem, None] = {}
    for name in names:
        try:
            loaded += load_all(name, settings)
        except SimError as error:
            problems |= dict.fromkeys(error.problems)
    if problems:
        raise SimError(list(problems))
    return told_apart(loaded)


def _play(scenarios: list[Scenario], fidelity: Fidelity) -> tuple[list[Simulation], list[Failure]]:
    from sim.study.compare import Failure, compare  # noqa: PLC0415 - see sim.cli.run

    simulations: list[Simulation] = []
    failures: list[Failure] = []
    with Progress(len(scenarios)) as progress:
        for scenario, outcome in zip(scenarios, compare(scenarios, fidelity.value), strict=True):
            if isinstance(outcome, Failure):
                failures.append(outcome)
                progress.advance(f"{scenario.title}: cannot be played")
            else:
                simulations.append(outcome)
                progress.advance(f"{scenario.title}: {outcome.result.step_time_s:.3f} s")
    return simulations, failures


def _print(results: list[Result]) -> None:
    """The table, and the sentence that says what won and why."""
    from sim.report.answer import answer  # noqa: PLC0415 - see sim.cli.run
    from sim.report.text import print_comparison  # noqa: PLC0415 - see sim.cli.run

    screen = console()
    print_comparison(results, screen)
    typer.echo(f"\n{wrapped(answer(results), min(screen.width, PLAIN_WIDTH))}\n")


def wrapped(text: str, width: int) -> str:
    """Lines of at most `width` characters; a number stays beside its unit.

    >>> print(wrapped("It takes 53.5 s more.", 13))
    It takes
    53.5 s more.
    """
    glue = "\0"
    glued = re.sub(r"(?<=\d) (?=(s|ms|%|GiB)\b|%)", glue, text)
    return textwrap.fill(glued, width, break_on_hyphens=False).replace(glue, " ")


def _report(simulations: list[Simulation], folder: Path, title: str, *, is_quiet: bool) -> None:
    from sim.report.page import write_report  # noqa: PLC0415 - see sim.cli.run

    with writing(folder):
        page = write_report(simulations, folder, title)
    typer.echo(f"report: {page}", err=is_quiet)
