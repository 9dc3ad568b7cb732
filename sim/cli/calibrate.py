"""`sim calibrate`: constants of a GPU fitted to measured kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.core

from sim.cli import calibrate_collectives, calibrate_step
from sim.cli.group import Command, epilog
from sim.cli.output import columns, refuse_file, refuse_folder, writing
from sim.cli.progress import Progress
from sim.cli.validate import figures_cells, num_rows_text
from sim.errors import SimError

if TYPE_CHECKING:
    from sim.calibrate.calibration import Calibration
    from sim.calibrate.entry import Entry
    from sim.calibrate.validation import Validation

EXAMPLES = (
    "sim calibrate gpu h100-sxm gemm__h100_sxm__mine.csv attention__h100_sxm__mine.csv --out mine.yaml",
    "sim calibrate gpu h100-sxm --check",
    "sim calibrate gpu --all --out gpus",
)


class GpuUnlessNamed(typer.core.TyperGroup):
    """Words that name no command are those of `gpu`: `sim calibrate h100-sxm` is `sim calibrate gpu h100-sxm`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """The words, with `gpu` before them where they begin with no command."""
        is_named = args[:1] == ["--help"] or (args and args[0] in self.commands)
        rest: list[str] = super().parse_args(ctx, args if is_named else ["gpu", *args])
        return rest


app = typer.Typer(cls=GpuUnlessNamed, help="Constants fitted to measurements.")


def command(
    gpu: Annotated[str | None, typer.Argument(metavar="[GPU]", help="Name or file of the GPU to start from.")] = None,
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[FILE]...",
            help=(
                "Measurements of that GPU, of any kind that `sim validate` knows, and launches, which only print lines "
                "for a scenario; without any, those that ship."
            ),
        ),
    ] = None,
    *,
    every: Annotated[bool, typer.Option("--all", help="All GPUs of the catalogue, by what ships.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Fail where the catalogue's numbers are not those of the fits.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="PATH", help="Write the GPU's new file here; with --all, the folder of all."),
    ] = None,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="DIR", help="Write the fitted rows and pictures of them here.")
    ] = None,
    thinned: Annotated[
        Path | None,
        typer.Option("--thinned", metavar="DIR", help="Only write the rows that tell a fit most, a file for each."),
    ] = None,
) -> None:
    """Fit the constants of a GPU to measured kernels.

    Errors out of sample are those of rows above the median of a side of the shape, by a fit to the rows below it.
    Without --out nothing is written but what is printed.
    """
    if (gpu is None) != every:
        raise typer.BadParameter("give a GPU, or --all")
    if files and (every or check):
        raise typer.BadParameter("FILE excludes --all and --check, which fit to what ships")
    if thinned is not None:
        if not files:
            raise typer.BadParameter("--thinned needs FILE")
        _thin(str(gpu), files, thinned)
        return
    refuse_folder(report)
    if every:
        refuse_folder(out)
    else:
        refuse_file(None if out is None else str(out))
    kernels, launches = _told_apart(files or [])
    before, after, calibrations = (
        _from_files(str(gpu), kernels) if files else _from_shipped(gpu, rounds=1 if check else None)
    )
    _print(before, after, calibrations)
    if launches:
        _print_host(launches, next(iter(after)))
    if check:
        _check(before, after)
    if out is not None:
        _write(after, out, is_folder=every)
    if report is not None:
        _report(calibrations, report)


def _thin(gpu: str, files: Sequence[Path], folder: Path) -> None:
    """Write the rows of each file that were measured on the GPU, thinned."""
    from sim.calibrate.entry import read_entry  # noqa: PLC0415 - see sim.cli.run
    from sim.calibrate.measured import kind_of, measured_on  # noqa: PLC0415 - see sim.cli.run
    from sim.calibrate.thin import MAX_ROWS, file_name, thinned, write  # noqa: PLC0415 - see sim.cli.run
    from sim.spec.find import find  # noqa: PLC0415 - see sim.cli.run

    refuse_folder(folder)
    name = read_entry(find("gpus", gpu)).name
    for path in files:
        kind = kind_of(path)
        rows = measured_on(path, kind, name)
        kept = thinned(kind, rows, MAX_ROWS)
        target = folder / file_name(kind.name, name, path)
        with writing(target):
            folder.mkdir(parents=True, exist_ok=True)
            write(kept, target)
        typer.echo(f"{target}: {len(kept):,} of {len(rows.rows):,} rows")


def _told_apart(files: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Files of kernels, and files of launches."""
    from sim.calibrate.launches import is_launches  # noqa: PLC0415 - see sim.cli.run

    of_launches = {path: is_launches(path) for path in files}
    return [path for path in files if not of_launches[path]], [path for path in files if of_launches[path]]


app.command("gpu", cls=Command, epilog=epilog(EXAMPLES))(command)
app.command("collectives", cls=Command, epilog=epilog(calibrate_collectives.EXAMPLES))(calibrate_collectives.command)
app.command("step", cls=Command, epilog=epilog(calibrate_step.EXAMPLES))(calibrate_step.command)

Entries = Mapping[str, "Entry"]
Calibrations = Mapping[str, Mapping[str, "Calibration"]]


def _from_files(gpu: str, files: Sequence[Path]) -> tuple[Entries, Entries, Calibrations]:
    """The GPU's entry before and after it is fitted to the files, every kind that they hold."""
    from sim.calibrate.calibration import Data, calibrated  # noqa: PLC0415 - see sim.cli.run
    from sim.calibrate.carried import carried  # noqa: PLC0415 - see sim.cli.run
    from sim.calibrate.entry import read_entry  # noqa: PLC0415 - see sim.cli.run
    from sim.calibrate.kind import KINDS  # noqa: PLC0415 - see sim.cli.run
    from sim.calibrate.measured import kind_of, measured_on  # noqa: PLC0415 - see sim.cli.run
    from sim.calibrate.shipped import entries, in_order  # noqa: PLC0415 - see sim.cli.run
    from sim.spec.find import find  # noqa: PLC0415 - see sim.cli.run

    before = read_entry(find("gpus", gpu))
    data: dict[str, list[Data]] = {}
    for path in files:
        kind = kind_of(path)
        data.setdefault(kind.name, []).append(Data(measured_on(path, kind, before.name), path.name))
    after, calibrations, catalogue = before, {}, entries()
    with Progress(len(data)) as progress:
        for name in in_order(data):
            after, calibrations[name] = calibrated(after, KINDS[name], data[name])
            after = carried({**catalogue, after.name: after})[after.name]
            progress.advance(name)
    return {before.name: before}, {after.name: after}, {after.name: calibrations}


def _from_shipped(gpu: str | None, rounds: int | None) -> tuple[Entries, Entries, Calibrations]:
    """The catalogue before and after the GPU, or all of them, are fitted again."""
    from sim.calibrate.shipped import ROUNDS, entries, fitted_again, shipped  # noqa: PLC0415 - see sim.cli.run

    before = entries()
    chosen = {each.gpu for each in shipped()}
    if gpu is not None and gpu not in chosen:
        allowed = ", ".join(sorted(chosen))
        raise SimError(f"no measurement of this GPU ships (got {gpu!r}, allowed files of measurements, or {allowed})")
    if gpu is not None:
        chosen = {gpu}
    num_fits = len({(each.gpu, each.kind) for each in shipped() if each.gpu in chosen})
    rounds = ROUNDS if rounds is None else rounds
    with Progress(num_fits * rounds) as progress:
        refit = fitted_again(before, chosen, progress.advance, rounds=rounds)
    shown = before if gpu is None else {gpu: before[gpu]}
    return shown, {name: refit.entries[name] for name in shown}, refit.calibrations


def _print(before: Entries, after: Entries, calibrations: Calibrations) -> None:
    """For each GPU: constants old and new, then errors of each kind in sample and out of sample."""
    for name, kinds in calibrations.items():
        if not kinds:
            continue
        typer.echo(f"{name}\n{_constants(before[name], after[name], kinds)}\n\n{_errors(kinds)}\n")
        for kind, calibration in kinds.items():
            for key, said in calibration.fit.evidence.items():
                typer.echo(f"  {key}: {said}")
            for reason, count in calibration.validation.skipped.items():
                typer.echo(f"  {kind}: skipped {num_rows_text(count)}, {reason}")
        typer.echo("")


def _print_host(files: Sequence[Path], gpu: str) -> None:
    """What launches tell of the host: no number of a GPU's file."""
    from sim.calibrate.launches import host_times, text  # noqa: PLC0415 - see sim.cli.run

    typer.echo(text(host_times(files, gpu)))


def _constants(before: Entry, after: Entry, kinds: Mapping[str, Calibration]) -> str:
    from sim.calibrate.entry import leaves  # noqa: PLC0415 - see sim.cli.run

    old, new = dict(leaves(before.tree)), dict(leaves(after.tree))
    fitted = [key for calibration in kinds.values() for key in calibration.fit.constants]
    rows = [[key, str(old.get(key, "")), str(new[key])] for key in fitted]
    return columns([["constant", "old", "new"], *rows], indent="  ")


def _errors(kinds: Mapping[str, Calibration]) -> str:
    rows = []
    for kind, calibration in kinds.items():
        in_sample = calibration.validation.headline
        if in_sample is not None:
            rows.append([kind, "in sample", *figures_cells(in_sample)])
        rows += [
            [kind, f"out of sample, {split}", *figures_cells(errors)]
            for split, errors in calibration.out_of_sample.items()
        ]
    return columns([["kind", "rows of training sizes", "rows", "MAPE", "median", "p90", "bias"], *rows], indent="  ")


def _check(before: Entries, after: Entries) -> None:
    from sim.calibrate.shipped import differences  # noqa: PLC0415 - see sim.cli.run

    different = [line for name in before for line in differences(before[name], after[name])]
    if different:
        raise SimError("\n".join(different))
    typer.echo(f"{len(before)} files are what the fits give")


def _write(after: Entries, out: Path, *, is_folder: bool) -> None:
    from sim.calibrate.entry import text  # noqa: PLC0415 - see sim.cli.run

    with writing(out):
        (out if is_folder else out.parent).mkdir(parents=True, exist_ok=True)
        for name, entry in after.items():
            path = out / f"{name}.yaml" if is_folder else out
            path.write_text(text(entry), encoding="utf-8", newline="\n")
    typer.echo(f"wrote {out}")


def _report(calibrations: Calibrations, folder: Path) -> None:
    from sim.calibrate.validation import together  # noqa: PLC0415 - see sim.cli.run
    from sim.report.measured import write_measured  # noqa: PLC0415 - see sim.cli.run

    by_kind: dict[str, list[Validation]] = {}
    for kinds in calibrations.values():
        for kind, calibration in kinds.items():
            by_kind.setdefault(kind, []).append(calibration.validation)
    with writing(folder):
        pictures = [write_measured(together(fits), folder) for fits in by_kind.values()]
    for picture in pictures:
        typer.echo(f"report: {picture}")
