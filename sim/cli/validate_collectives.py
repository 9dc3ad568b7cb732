"""`sim validate collectives`: how far collectives on the topologies that ship are from measured ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sim.cli.output import STDOUT, columns, refuse_file, refuse_folder, write_json, writing
from sim.cli.progress import Progress

if TYPE_CHECKING:
    from sim.calibrate.collective_validation import CollectiveValidation
    from sim.calibrate.errors import Errors

EXAMPLES = (
    "sim validate collectives sweep.csv --report reports/collectives",
    "sim validate collectives all_reduce_perf.log --topology dgx-h100 --json",
)


def command(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE", help="CSV or CSV.gz in the columns of docs/calibration.md, or nccl-tests' log."),
    ],
    topology: Annotated[
        str | None,
        typer.Option("--topology", metavar="NAME", help="The topology of all rows; else their system and nic say it."),
    ] = None,
    keep_mistuned: Annotated[
        bool, typer.Option("--keep-mistuned", help="Count rows whose note tells of settings that are slow on purpose.")
    ] = False,
    json: Annotated[
        str | None,
        typer.Option(
            "--json", metavar="FILE", help="Write errors as JSON; alone, or with `-`, print them, and nothing else."
        ),
    ] = None,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="DIR", help="Write every row and a picture of them here.")
    ] = None,
    worst: Annotated[int, typer.Option("--worst", min=0, help="How many of the worst rows to list.")] = 5,
) -> None:
    """Errors for collectives.

    Each has the network to itself. Errors in %: of each row, the mean (MAPE), the median and the 90th percentile; bias
    is that of the sum.
    """
    refuse_file(json)
    refuse_folder(report)
    validation = _validation(files, topology, keep_mistuned=keep_mistuned)
    is_quiet = json == STDOUT
    if json is not None:
        write_json(validation.to_dict(), json)
    if not is_quiet:
        typer.echo("\n\n".join(_sections(validation, ", ".join(map(str, files)), worst)))
    if report is not None:
        from sim.report.collectives import write_validation  # noqa: PLC0415 - see sim.cli.run

        with writing(report):
            picture = write_validation(validation, report)
        typer.echo(f"report: {picture}", err=is_quiet)


def _validation(files: Sequence[Path], topology: str | None, *, keep_mistuned: bool) -> CollectiveValidation:
    """All files; each is read before anything is predicted."""
    from sim.calibrate.collective_rows import read_rows  # noqa: PLC0415 - see sim.cli.run
    from sim.calibrate.collective_validation import together, validate_collectives  # noqa: PLC0415 - see sim.cli.run
    from sim.calibrate.topology_file import read_topology  # noqa: PLC0415 - see sim.cli.run

    if topology is not None:
        read_topology(topology)
    tables = [read_rows(path) for path in files]
    found = []
    with Progress(len(tables)) as progress:
        for rows in tables:
            found.append(validate_collectives(rows, topology, keep_mistuned=keep_mistuned))
            progress.advance(rows.file)
    return together(found)


def _sections(validation: CollectiveValidation, title: str, worst: int) -> list[str]:
    """What is printed."""
    lines = [f"collectives: {title}"]
    lines.append(f"  1 MB and more: {_text(validation.large)}")
    lines.append(f"  all sizes:     {_text(validation.errors)}")
    lines += [
        f"  skipped: {_rows(each['n'])} from {each['file']}:{each['first_line']} on, {each['reason']}"
        for each in validation.reasons()
    ]
    sections = ["\n".join(lines)]
    if len(validation.table):
        sections.append(_groups(validation))
        sections.append(_systems(validation))
    if worst and validation.large is not None:
        sections.append("  furthest off, of 1 MB and more\n" + _worst(validation, worst))
    return sections


def _text(errors: Errors | None) -> str:
    if errors is None:
        return "no row"
    return (
        f"MAPE {errors.mape:.1f} %, bias {errors.bias:+.1f} %, median {errors.median_ape:.1f} %, "
        f"90th percentile {errors.p90:.1f} % ({_rows(errors.n)})"
    )


def _rows(count: int) -> str:
    return f"{count:,} row" if count == 1 else f"{count:,} rows"


FIGURES = ("rows", "MAPE", "median", "p90", "bias")


def _cells(errors: Errors) -> list[str]:
    figures = (f"{figure:.1f} %" for figure in (errors.mape, errors.median_ape, errors.p90))
    return [f"{errors.n:,}", *figures, f"{errors.bias:+.1f} %"]


def _groups(validation: CollectiveValidation) -> str:
    rows = [[*_values(group), *_cells(errors)] for group, errors in validation.groups()]
    return columns([["collective", "size", "nodes", *FIGURES], *rows], indent="  ")


def _systems(validation: CollectiveValidation) -> str:
    """Which topology was taken for which system, and whose constants of the network it has."""
    from sim.calibrate.collective_validation import SITES_BY  # noqa: PLC0415 - see sim.cli.run

    rows = [[*_values(group), *_cells(errors)] for group, errors in validation.groups(SITES_BY)]
    return columns([["system", "network", "topology", "constants", *FIGURES], *rows], indent="  ")


def _values(group: Mapping[str, Any]) -> list[str]:
    return [str(value) or "not stated" for value in group.values()]


def _worst(validation: CollectiveValidation, num_rows: int) -> str:
    from sim import units  # noqa: PLC0415 - see sim.cli.run

    cells = [
        [
            str(row["line"]),
            f"{row['op']} on {row['gpus']} GPUs",
            row["topology"],
            units.text(row["nbytes"], "bytes"),
            f"{row['algorithm']}, {row['protocol']}",
            units.text(row["time_s"], "s"),
            units.text(row["predicted_s"], "s"),
            f"{row['error']:+.0f} %",
        ]
        for _, row in validation.worst(num_rows).iterrows()
    ]
    return columns([["line", "call", "topology", "size", "how", "measured", "predicted", "off"], *cells], indent="  ")
