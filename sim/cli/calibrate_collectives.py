"""`sim calibrate collectives`: a topology's constants of NCCL fitted to measured collectives."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sim.cli.output import columns, refuse_file, writing

if TYPE_CHECKING:
    import pandas as pd

    from sim.calibrate.collective_calibration import CollectiveCalibration
    from sim.calibrate.errors import Errors

EXAMPLES = (
    "sim calibrate collectives dgx-h100",
    "sim calibrate collectives dgx-h100 all_reduce_perf.log alltoall_perf.log --out mine.yaml",
)


class Architecture(StrEnum):
    """Generations of GPUs that NCCL's tables tell apart."""

    AMPERE = "ampere"
    HOPPER = "hopper"
    BLACKWELL = "blackwell"


def command(
    topology: Annotated[str, typer.Argument(metavar="TOPOLOGY", help="Name or file of the topology to start from.")],
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[FILE]...",
            help="Collectives measured on it, nccl-tests' logs or CSV; without any, those that ship.",
        ),
    ] = None,
    generation: Annotated[
        Architecture | None,
        typer.Option("--generation", help="Of the GPUs, where the topology has no constants of NCCL yet."),
    ] = None,
    max_gpus: Annotated[
        int | None,
        typer.Option("--max-gpus", min=2, help="Leave out calls of more GPUs: with thousands a fit takes minutes."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write the topology's new file here.")
    ] = None,
) -> None:
    """Fit a topology's constants of NCCL to measured collectives.

    Errors out of sample are those of every other size, and of the most GPUs, by fits that did not see them. Without
    --out nothing is written but what is printed.
    """
    from sim.calibrate.collective_calibration import calibrate_collectives  # noqa: PLC0415 - see sim.cli.run
    from sim.calibrate.topology_file import read_topology, text  # noqa: PLC0415 - see sim.cli.run

    refuse_file(None if out is None else str(out))
    file = read_topology(topology)
    rows = _rows(file.name, files or ())
    if max_gpus is not None:
        rows = rows[rows["gpus"] <= max_gpus].reset_index(drop=True)
    found = calibrate_collectives(file, rows, None if generation is None else generation.value)
    typer.echo("\n\n".join(_sections(found)))
    if out is not None:
        with writing(out):
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(text(found.after), encoding="utf-8", newline="\n")
        typer.echo(f"wrote {out}")


def _rows(topology: str, files: Sequence[Path]) -> pd.DataFrame:
    """Rows of the files, all of them on the topology, or of those that ship."""
    from sim.calibrate.collective_files import joined, shipped_on  # noqa: PLC0415 - see sim.cli.run
    from sim.calibrate.collective_rows import read_rows  # noqa: PLC0415 - see sim.cli.run

    if not files:
        return shipped_on(topology)
    return joined([(read_rows(path).table, path.name) for path in files])


def _sections(found: CollectiveCalibration) -> list[str]:
    head = f"{found.before.name}: {found.num_rows:,} measured calls"
    constants = [[key, old, new] for key, (old, new) in found.constants.items()]
    errors = {"before": found.old, "in sample": found.in_sample}
    errors |= {f"out of sample, {name}": each for name, each in found.out_of_sample.items()}
    rows = [[name, *_cells(each)] for name, each in errors.items() if each is not None]
    return [
        head + "\n" + columns([["constant", "old", "new"], *constants], indent="  "),
        columns([["calls of 1 MB and more", "rows", "MAPE", "median", "p90", "bias"], *rows], indent="  "),
    ]


def _cells(errors: Errors) -> list[str]:
    figures = (f"{figure:.1f} %" for figure in (errors.mape, errors.median_ape, errors.p90))
    return [f"{errors.n:,}", *figures, f"{errors.bias:+.1f} %"]
