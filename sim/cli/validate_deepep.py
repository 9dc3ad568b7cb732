"""`sim validate deepep`: how far the all_to_all of experts is from measured dispatch and combine of DeepEP."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sim.cli.output import STDOUT, columns, refuse_file, write_json

if TYPE_CHECKING:
    from sim.calibrate.deepep import DeepEpValidation
    from sim.calibrate.errors import Errors

EXAMPLES = ("sim validate deepep wideep_deepep_normal_perf.csv.gz", "sim validate deepep rows.csv --topology dgx-h100")


def command(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="CSV or CSV.gz in the columns of docs/calibration.md."),
    ],
    topology: Annotated[
        str | None,
        typer.Option("--topology", metavar="NAME", help="The topology of all rows; else their system says it."),
    ] = None,
    json: Annotated[
        str | None,
        typer.Option(
            "--json", metavar="FILE", help="Write errors as JSON; alone, or with `-`, print them, and nothing else."
        ),
    ] = None,
) -> None:
    """Errors for DeepEP's dispatch and combine.

    Dispatch sends fp8, combine 16 bits; calls with tokens of 1 MB and more, each with the network to itself. Errors in
    %: of each row, the mean (MAPE), the median and the 90th percentile; bias is that of the sum.
    """
    from sim.calibrate.deepep import validate_deepep  # noqa: PLC0415 - see sim.cli.run

    refuse_file(json)
    validation = validate_deepep(file, topology)
    if json is not None:
        write_json(validation.to_dict(), json)
    if json != STDOUT:
        typer.echo(_text(validation, file))


def _text(validation: DeepEpValidation, file: Path) -> str:
    rows = [[group["op"], group["nodes"], *_cells(errors)] for group, errors in validation.groups()]
    if validation.large is not None:
        rows.append(["all", "", *_cells(validation.large)])
    title = f"deepep: {file}, tokens of 1 MB and more ({validation.num_skipped:,} rows of other systems skipped)"
    return f"{title}\n" + columns([["op", "nodes", "rows", "MAPE", "median", "p90", "bias"], *rows], indent="  ")


def _cells(errors: Errors) -> list[str]:
    figures = (f"{figure:.1f} %" for figure in (errors.mape, errors.median_ape, errors.p90))
    return [f"{errors.n:,}", *figures, f"{errors.bias:+.1f} %"]
