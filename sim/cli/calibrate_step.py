"""`sim calibrate step`: how kernels run inside the steps of a stack, fitted to measured steps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sim.cli.output import columns, refuse_folder, writing
from sim.cli.progress import Progress
from sim.errors import SimError

if TYPE_CHECKING:
    from sim.validation.pace_fit import PaceFit

EXAMPLES = (
    "sim calibrate step",
    "sim calibrate step mine.csv --constants gemm,memory_bound",
    "sim calibrate step --out stacks",
)


def command(
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FILE", help="CSV in the columns of docs/accuracy.md; the published runs by default."),
    ] = None,
    constants: Annotated[
        str | None,
        typer.Option(
            "--constants",
            metavar="NAMES",
            help="Which to fit, with commas between; all by default, of your own steps gemm, attention, memory_bound.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Write the files of the stacks that change here.")
    ] = None,
    jobs: Annotated[int | None, typer.Option("--jobs", min=1, help="Processes; all cores by default.")] = None,
    cache: Annotated[
        Path | None,
        typer.Option("--cache", metavar="FILE", help="Keep played steps here instead of in the user's cache folder."),
    ] = None,
) -> None:
    """Fit the pace of stacks to measured steps.

    Every step is played with kernels as in microbenchmarks; what it took longer is put down to kinds of kernels, to the
    slowdown by communication and to stragglers. One set for each stack and generation of GPUs.
    """
    from sim.validation.pace_fit import CONSTANTS, MIN_ROWS, fits, parts_of  # noqa: PLC0415 - see sim.cli.run
    from sim.validation.play import Cache, default_cache, play_all  # noqa: PLC0415 - see sim.cli.run
    from sim.validation.published import read_published  # noqa: PLC0415 - see sim.cli.run
    from sim.validation.shipped import shipped_runs  # noqa: PLC0415 - see sim.cli.run

    refuse_folder(out)
    chosen = _chosen(constants, CONSTANTS, is_own=bool(files))
    runs = [run for path in files for run in read_published(path)] if files else shipped_runs()
    with Progress(len(runs)) as progress:
        done = play_all(runs, cache=Cache(cache or default_cache()), jobs=jobs, told=progress.advance, is_paced=False)
    rows = [parts for case, played in done if played is not None and (parts := parts_of(case, played)) is not None]
    found = fits(rows, chosen, min_rows=1 if files else MIN_ROWS)
    if not found:
        raise SimError(f"no stack has {MIN_ROWS} measured steps that can be simulated (got {len(rows)} in all)")
    _print(found)
    if out is not None:
        _write(found, out)


def _chosen(text: str | None, known: tuple[str, ...], *, is_own: bool) -> tuple[str, ...]:
    if text is None:
        return ("gemm", "attention", "memory_bound") if is_own else known
    names = tuple(name.strip() for name in text.split(","))
    unknown = [name for name in names if name not in known]
    if unknown:
        raise typer.BadParameter(f"--constants: no constant (got {', '.join(unknown)}, allowed {', '.join(known)})")
    return names


def _print(found: list[PaceFit]) -> None:
    head = ["stack", "GPU", "steps", "as alone", "fitted", "other half", "constants"]
    lines = [
        [
            fit.stack,
            fit.key,
            str(fit.num_rows),
            *(f"{value:.1f} %" for value in (fit.alone, fit.fitted, fit.other_half)),
            " ".join(f"{name} {value:g}" for name, value in fit.pace.model_dump().items()),
        ]
        for fit in found
    ]
    typer.echo("Mean absolute error: kernels as in microbenchmarks, fitted, half of the steps by a fit to the other")
    typer.echo(columns([head, *lines]))
    for stack in dict.fromkeys(fit.stack for fit in found):
        from sim.validation.pace_file import pace_block  # noqa: PLC0415 - see sim.cli.run

        block = pace_block([fit for fit in found if fit.stack == stack])
        typer.echo(f"\nstack:\n  use: {stack}\n" + "".join(f"  {line}\n" for line in block.splitlines()), nl=False)


def _write(found: list[PaceFit], folder: Path) -> None:
    """The files of all stacks that the catalogue has, with the paces that were found."""
    from sim.spec.find import find, names  # noqa: PLC0415 - see sim.cli.run
    from sim.validation.pace_file import with_pace  # noqa: PLC0415 - see sim.cli.run

    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for stack in names("stacks"):
            text = find("stacks", stack).read_text(encoding="utf-8")
            own = [fit for fit in found if fit.stack == stack]
            (folder / f"{stack}.yaml").write_text(with_pace(text, own), encoding="utf-8")
