"""`sim validate runs` and `sim validate vtrain`: how far simulated steps are from measured ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sim.cli.output import STDOUT, columns, refuse_file, refuse_folder, write_json, writing
from sim.cli.progress import Progress

if TYPE_CHECKING:
    from sim.report.scoreboard_tables import TextTable
    from sim.validation.published import PublishedRun
    from sim.validation.scoreboard import RunErrors, Scoreboard

EXAMPLES = (
    "sim validate runs",
    "sim validate runs mine.csv --report reports/runs",
    "sim validate runs mine.csv --json errors.json --jobs 4",
)
VTRAIN_EXAMPLES = (
    "sim validate vtrain validation_multi_node.csv",
    "sim validate vtrain validation_single_node.csv --json",
)

JsonOption = Annotated[
    str | None,
    typer.Option(
        "--json", metavar="FILE", help="Write errors as JSON; alone, or with `-`, print them, and nothing else."
    ),
]
ReportOption = Annotated[
    Path | None, typer.Option("--report", metavar="DIR", help="Write a page, every row and pictures of them here.")
]
WorstOption = Annotated[int, typer.Option("--worst", min=0, help="How many of the worst rows to list.")]
JobsOption = Annotated[int | None, typer.Option("--jobs", min=1, help="Processes; all cores by default.")]
CacheOption = Annotated[
    Path | None,
    typer.Option("--cache", metavar="FILE", help="Keep played steps here instead of in the user's cache folder."),
]
ResidualsOption = Annotated[
    Path | None,
    typer.Option("--residuals", metavar="FILE", help="Write measured over predicted, from which intervals are made."),
]
FreshOption = Annotated[bool, typer.Option("--fresh", help="Play every step again, and keep none.")]


def runs_command(
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FILE", help="CSV in the columns of docs/accuracy.md; the published runs by default."),
    ] = None,
    json: JsonOption = None,
    report: ReportOption = None,
    worst: WorstOption = 10,
    jobs: JobsOption = None,
    cache: CacheOption = None,
    fresh: FreshOption = False,
    residuals: ResidualsOption = None,
) -> None:
    """Errors for measured training steps.

    Every row becomes a scenario by rule; what its source leaves open is assumed and listed. Steps that were played
    before are not played again.
    """
    from sim.validation.published import read_published  # noqa: PLC0415 - see sim.cli.run
    from sim.validation.shipped import shipped_runs  # noqa: PLC0415 - see sim.cli.run

    refuse_file(json)
    refuse_folder(report)
    found = [run for path in files for run in read_published(path)] if files else shipped_runs()
    title = ", ".join(map(str, files)) if files else "the published runs"
    board = _validate(found, title, _Options(json, report, worst, jobs, cache, fresh))
    if residuals is not None:
        from sim.validation.intervals import residuals_of, write_residuals  # noqa: PLC0415 - see sim.cli.run

        with writing(residuals):
            write_residuals(residuals_of(board), residuals)


def vtrain_command(
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="CSV in the columns of VIA-Research/vTrain.")],
    json: JsonOption = None,
    report: ReportOption = None,
    worst: WorstOption = 10,
    jobs: JobsOption = None,
    cache: CacheOption = None,
    fresh: FreshOption = False,
) -> None:
    """Errors for vTrain's tables.

    Its rows of several nodes are measured; those of one node are composed from layer timings.
    """
    from sim.validation.vtrain import read_vtrain  # noqa: PLC0415 - see sim.cli.run

    refuse_file(json)
    refuse_folder(report)
    found = [run for path in files for run in read_vtrain(path)]
    _validate(found, ", ".join(map(str, files)), _Options(json, report, worst, jobs, cache, fresh))


class _Options:
    """What both commands share."""

    def __init__(
        self, json: str | None, report: Path | None, worst: int, jobs: int | None, cache: Path | None, fresh: bool
    ) -> None:
        self.json, self.report, self.worst, self.jobs = json, report, worst, jobs
        self.cache, self.fresh = cache, fresh


def _validate(runs: Sequence[PublishedRun], title: str, options: _Options) -> Scoreboard:
    from sim.validation.play import Cache, default_cache, play_all  # noqa: PLC0415 - see sim.cli.run
    from sim.validation.scoreboard import scoreboard  # noqa: PLC0415 - see sim.cli.run

    cache = Cache(None if options.fresh else options.cache or default_cache())
    with Progress(len(runs)) as progress:
        board = scoreboard(play_all(runs, cache=cache, jobs=options.jobs, told=progress.advance))
    is_quiet = options.json == STDOUT
    if options.json is not None:
        write_json(board.to_dict(), options.json)
    if not is_quiet:
        typer.echo("\n\n".join(sections(board, title, options.worst)))
    if options.report is not None:
        from sim.report.scoreboard import write_scoreboard  # noqa: PLC0415 - see sim.cli.run

        with writing(options.report):
            page = write_scoreboard(board, options.report, title)
        typer.echo(f"report: {page}", err=is_quiet)
    return board


def sections(board: Scoreboard, title: str, worst: int) -> list[str]:
    """What is printed: the figures, by set and by group, what explains them, the worst rows, and what is left out."""
    from sim.report import scoreboard_tables as tables  # noqa: PLC0415 - see sim.cli.run
    from sim.validation.intervals import coverage, residuals_of  # noqa: PLC0415 - see sim.cli.run
    from sim.validation.scoreboard import errors_in  # noqa: PLC0415 - see sim.cli.run

    lines = [f"measured steps: {title}", f"  all rows:        {_text(board.errors)}"]
    lines.append(f"  tiers A and B:   {_text(errors_in(board.headline))}")
    lines.append(f"  constant MFU:    {_text(errors_in(board.table, 'constant_mfu_error'))}")
    lines.append(f"  peak memory:     {_text(errors_in(board.memory, 'memory_error'))}")
    shown = [tables.sets_table(board), *tables.group_tables(board), tables.residuals_table(board)]
    if worst:
        shown.append(tables.rows_table(board, worst))
    shown.append(tables.skipped_table(board))
    if (held := coverage(residuals_of(board))) is not None:
        lines.append(
            f"  80 % intervals:  hold {100 * held.covered_frac:.0f} % of {held.num_rows:,} rows of sources left out, "
            f"median width +-{held.median_half_width:.0f} %"
        )
    return ["\n".join(lines), *(_printed(table) for table in shown if table.rows)]


def _text(errors: RunErrors | None) -> str:
    if errors is None:
        return "no row"
    return (
        f"mean {errors.mape:.1f} %, median {errors.median_ape:.1f} %, bias {errors.bias:+.1f} %, "
        f"90th percentile {errors.p90:.1f} %, most {errors.max_ape:.1f} % "
        f"({errors.n:,} {'row' if errors.n == 1 else 'rows'})"
    )


def _printed(table: TextTable) -> str:
    return f"  {table.title}\n{columns([table.heads, *table.rows], indent='  ')}"
