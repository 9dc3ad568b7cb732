"""`sim sweep`: every point of a `sweep:` as a row of a CSV file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sim.cli.options import Fidelity, FidelityOption, ScenarioArgument, SetOption
from sim.cli.output import refuse_folder, writing
from sim.cli.progress import Progress
from sim.errors import SimError

if TYPE_CHECKING:
    from sim.study.sweep import Row

EXAMPLES = (
    "sim sweep llama2-70b_128xh100_batch_sweep --out reports/batch",
    "sim sweep my_sweep.yaml --out reports/mine --set training.seq_len=8192",
)


def command(
    scenario: ScenarioArgument,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for sweep.csv.")],
    settings: SetOption = None,
    fidelity: FidelityOption = Fidelity.FUSED,
) -> None:
    """Simulate every point of a `sweep:` into a CSV file.

    A point that is impossible is a row with its reason; points that were played before a Ctrl-C are kept.
    """
    from sim.simulation import load_points  # noqa: PLC0415 - see sim.cli.run
    from sim.study.sweep import sweep, write_csv  # noqa: PLC0415 - see sim.cli.run

    refuse_folder(out)
    points = load_points(scenario, settings or ())
    paths = list(dict.fromkeys(path for point in points for path in point.values))
    target = out / "sweep.csv"
    with writing(target):
        out.mkdir(parents=True, exist_ok=True)
        with target.open("w", encoding="utf-8", newline="") as file, Progress(len(points)) as progress:
            rows = []
            for row in write_csv(sweep(points, fidelity.value), paths, file):
                rows.append(row)
                progress.advance(_line(row))
    _summarise(rows, target)


def _values(row: Row) -> str:
    from sim.study.sweep import value_text  # noqa: PLC0415 - see sim.cli.run

    return " ".join(f"{path}={value_text(value)}" for path, value in row.values.items())


def _line(row: Row) -> str:
    values = _values(row)
    if row.result is None:
        return f"{values}: impossible"
    verdict = "fits" if row.result.fits else "does not fit"
    return f"{values}: {row.result.step_time_s:.3f} s, {verdict}"


def _summarise(rows: list[Row], target: Path) -> None:
    impossible = [row for row in rows if row.result is None]
    for row in impossible:
        typer.echo(f"impossible: {_values(row)}: {row.error}")
    typer.echo(f"{len(rows) - len(impossible)} of {len(rows)} points played: {target}")
    if len(impossible) == len(rows):
        raise SimError("no point of the sweep can be played")
