"""`sim validate KIND`: how far the cost model is from measured kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sim.cli import validate_collectives, validate_deepep, validate_longrun, validate_runs
from sim.cli.group import Command, epilog
from sim.cli.output import STDOUT, columns, refuse_file, refuse_folder, write_json, writing

if TYPE_CHECKING:
    from sim.calibrate.errors import Errors
    from sim.calibrate.validation import Validation

KINDS = {
    "gemm": "matrix products",
    "gemm_sustained": "matrix products at the settled clock",
    "attention": "fused attention",
    "attention_sustained": "fused attention at the settled clock",
    "moe": "fused mixture-of-experts operators",
    "memory_bound": "kernels that only move bytes",
    "copy": "copies between GPU and host",
}
"""Registered kinds, each with what it measures; here by hand, so that --help does not import them."""

FilesArgument = Annotated[
    list[Path],
    typer.Argument(metavar="FILE", help="Measurements, CSV or CSV.gz, in the columns of a public data set."),
]
GpuOption = Annotated[
    str | None,
    typer.Option("--gpu", metavar="NAME", help="The GPU of all rows; else a column or the file's name says it."),
]


def command_of(kind_name: str) -> Callable[..., None]:
    """The command of one kind."""

    def command(
        files: FilesArgument,
        gpu: GpuOption = None,
        json: Annotated[
            str | None,
            typer.Option(
                "--json", metavar="FILE", help="Write errors as JSON; alone, or with `-`, print them, and nothing else."
            ),
        ] = None,
        report: Annotated[
            Path | None,
            typer.Option("--report", metavar="DIR", help="Write every row and a picture of them here."),
        ] = None,
        worst: Annotated[int, typer.Option("--worst", min=0, help="How many of the worst rows to list.")] = 5,
    ) -> None:
        refuse_file(json)
        refuse_folder(report)
        validations = _validations(kind_name, files, gpu)
        is_quiet = json == STDOUT
        if json is not None:
            write_json(_content(validations), json)
        if not is_quiet:
            typer.echo("\n\n".join(_sections(validations, worst)))
        if report is not None:
            from sim.calibrate.validation import together  # noqa: PLC0415 - see sim.cli.run
            from sim.report.measured import write_measured  # noqa: PLC0415 - see sim.cli.run

            with writing(report):
                picture = write_measured(together(validations), report)
            typer.echo(f"report: {picture}", err=is_quiet)

    command.__doc__ = (
        f"Errors for {KINDS[kind_name]}.\n\n"
        "Errors in %: of each row, the mean (MAPE), the median and the 90th percentile; bias is that of the sum."
    )
    return command


EXAMPLES = {
    name: (
        f"sim validate {name} {name}__h100_sxm__mine.csv --report reports/{name}",
        f"sim validate {name} mine.csv.gz --gpu h200-sxm --json",
    )
    for name in KINDS
} | {
    "collectives": validate_collectives.EXAMPLES,
    "deepep": validate_deepep.EXAMPLES,
    "longrun": validate_longrun.EXAMPLES,
    "runs": validate_runs.EXAMPLES,
    "vtrain": validate_runs.VTRAIN_EXAMPLES,
}
"""By command."""

app = typer.Typer(help="How far predictions are from measurements.", invoke_without_command=True)


@app.callback()
def without_command(ctx: typer.Context) -> None:
    """How far predictions are from measurements. Without a command: the published training steps."""
    if ctx.invoked_subcommand is None:
        validate_runs.runs_command()


for name in KINDS:
    app.command(name, cls=Command, epilog=epilog(EXAMPLES[name]))(command_of(name))
app.command("collectives", cls=Command, epilog=epilog(EXAMPLES["collectives"]))(validate_collectives.command)
app.command("deepep", cls=Command, epilog=epilog(EXAMPLES["deepep"]))(validate_deepep.command)
app.command("longrun", cls=Command, epilog=epilog(EXAMPLES["longrun"]))(validate_longrun.command)
app.command("runs", cls=Command, epilog=epilog(EXAMPLES["runs"]))(validate_runs.runs_command)
app.command("vtrain", cls=Command, epilog=epilog(EXAMPLES["vtrain"]))(validate_runs.vtrain_command)


def _validations(kind_name: str, files: Sequence[Path], gpu: str | None) -> list[Validation]:
    """One for each GPU of each file. Every GPU and file is read before anything is predicted."""
    from sim.calibrate.entry import gpu_of, read_entry  # noqa: PLC0415 - see sim.cli.run
    from sim.calibrate.kind import KINDS as REGISTERED  # noqa: PLC0415 - see sim.cli.run
    from sim.calibrate.measured import measured  # noqa: PLC0415 - see sim.cli.run
    from sim.calibrate.validation import validate  # noqa: PLC0415 - see sim.cli.run
    from sim.spec.find import find  # noqa: PLC0415 - see sim.cli.run

    kind = REGISTERED[kind_name]
    if gpu is not None:
        find("gpus", gpu)
    tables = [each for path in files for each in measured(path, kind, gpu)]
    gpus = {each.gpu: gpu_of(read_entry(find("gpus", each.gpu))) for each in tables}
    return [validate(kind, each, gpus[each.gpu]) for each in tables]


def _content(validations: Sequence[Validation]) -> dict[str, Any]:
    from sim.calibrate.validation import together  # noqa: PLC0415 - see sim.cli.run

    files = [{"file": validation.file, **validation.to_dict()} for validation in validations]
    return together(validations).to_dict() | {"files": files}


def _sections(validations: Sequence[Validation], worst: int) -> list[str]:
    """What is printed: for each file and GPU, then for all of them."""
    from sim.calibrate.validation import together  # noqa: PLC0415 - see sim.cli.run

    titled = [(f"{', '.join(each.gpus)}, {each.kind}: {each.file}", each) for each in validations]
    if len(validations) > 1:
        titled.append((f"all {len(validations)} together", together(validations)))
    return [text for title, validation in titled for text in _section(title, validation, worst)]


def _section(title: str, validation: Validation, worst: int) -> list[str]:
    from sim.calibrate.errors import is_headline  # noqa: PLC0415 - see sim.cli.run

    headline = validation.headline
    lines = [title, f"  training sizes ({validation.training}): {figures_text(headline)}"]
    lines += [f"  note: {note}" for note in validation.notes]
    lines += [f"  skipped: {num_rows_text(count)}, {reason}" for reason, count in validation.skipped.items()]
    head = ["format", "region", "rows", "MAPE", "median", "p90", "bias"]
    groups = [[*group.values(), *figures_cells(errors)] for group, errors in validation.groups()]
    sections = ["\n".join(lines), columns([head, *groups], indent="  ")] if groups else ["\n".join(lines)]
    if worst and is_headline(validation.table).any():
        sections.append("  furthest off\n" + _worst(validation, worst))
    return sections


def num_rows_text(count: int) -> str:
    """A number of rows in words."""
    return f"{count:,} row" if count == 1 else f"{count:,} rows"


def figures_text(errors: Errors | None) -> str:
    """Errors as a sentence has them."""
    if errors is None:
        return "no row"
    return (
        f"MAPE {errors.mape:.1f} %, bias {errors.bias:+.1f} %, median {errors.median_ape:.1f} %, "
        f"90th percentile {errors.p90:.1f} % ({num_rows_text(errors.n)})"
    )


def figures_cells(errors: Errors) -> list[str]:
    """Errors as cells of a table: rows, MAPE, median, 90th percentile, bias."""
    figures = (f"{figure:.1f} %" for figure in (errors.mape, errors.median_ape, errors.p90))
    return [f"{errors.n:,}", *figures, f"{errors.bias:+.1f} %"]


def _worst(validation: Validation, num_rows: int) -> str:
    """The rows that are furthest off, with their shape."""
    from sim import units  # noqa: PLC0415 - see sim.cli.run

    rows = validation.worst(num_rows)
    shape = [name for name in rows.columns if name not in _NOT_SHAPE and rows[name].notna().all()]
    cells = [
        [
            str(row["line"]),
            *(_cell(row[name]) for name in shape),
            units.text(row["time_s"], "s"),
            units.text(row["predicted_s"], "s"),
            f"{row['error']:+.0f} %",
        ]
        for _, row in rows.iterrows()
    ]
    return columns([["line", *shape, "measured", "predicted", "off"], *cells], indent="  ")


_NOT_SHAPE = (
    *("time_s", "predicted_s", "gpu", "file", "line", "cited", "error", "region", "is_training"),
    *("latency_ms", "Latency", "sustained_ms"),
)


def _cell(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
