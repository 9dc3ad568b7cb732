"""`sim bench engine`: how fast the simulator is on this machine, beside bare loops in the same run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sim.cli.output import STDOUT, columns, refuse_file, refuse_folder, write_json, writing
from sim.cli.progress import Progress

if TYPE_CHECKING:
    from sim.study.bench import Curve, Timing

EXAMPLES = (
    "sim bench engine",
    "sim bench engine --quick --report reports/engine",
    "sim bench engine --full --json bench.json",
)


def command(
    *,
    quick: Annotated[bool, typer.Option("--quick", help="One repeat, short loops, up to 1,024 GPUs.")] = False,
    full: Annotated[
        bool, typer.Option("--full", help="Full fidelity with 128 micro-batches: another minute, and 6 GiB.")
    ] = False,
    json_to: Annotated[str | None, typer.Option("--json", metavar="FILE", help="`-` prints JSON only.")] = None,
    report: Annotated[
        Path | None,
        typer.Option("--report", metavar="DIR", help="Draw cost against GPUs, micro-batches, stages and layers here."),
    ] = None,
) -> None:
    """Time the simulator beside bare heapq and SimPy.

    Times are medians of wall time; ratios to heapq are of operations/s.
    """
    import dataclasses  # noqa: PLC0415 - see sim.cli.run

    if quick and full:
        raise typer.BadParameter("--quick and --full exclude each other")
    refuse_file(json_to)
    refuse_folder(report)
    rows = _timings(quick=quick, full=full)
    curves = [] if report is None else _curves(quick=quick)
    is_quiet = json_to == STDOUT
    if json_to is not None:
        write_json([dataclasses.asdict(row) for row in rows], json_to)
    if not is_quiet:
        _print(rows)
    if report is not None:
        _report(rows, curves, report, is_quiet=is_quiet)


def _timings(*, quick: bool, full: bool) -> list[Timing]:
    from sim.study import bench  # noqa: PLC0415 - see sim.cli.run

    repeats, num_events, microbatches, num_gpus = (1, 100_000, 2, 1_024) if quick else (5, 1_000_000, 16, 16_384)
    sizes = tuple(size for size in bench.LADDER if not quick or size <= num_gpus)

    def timings() -> Iterator[Timing]:
        loops = bench.yardsticks(num_events, repeats)
        yield from loops
        yield from bench.steps(loops[0], repeats, 128 if full else microbatches)
        yield from bench.straggler(num_gpus, repeats)
        yield from bench.ladder(sizes, repeats)

    rows = []
    with Progress(7 + len(sizes)) as progress:
        for row in timings():
            rows.append(row)
            progress.advance(row.name)
    return rows


def _curves(*, quick: bool) -> list[Curve]:
    from sim.study import bench  # noqa: PLC0415 - see sim.cli.run

    repeats, num_values = (1, 3) if quick else (3, max(len(axis.values) for axis in bench.AXES))
    curves = []
    with Progress(len(bench.AXES)) as progress:
        for axis in bench.AXES:
            curves.append(bench.curve(axis, repeats, num_values))
            progress.advance(f"cost against {axis.name}")
    return curves


def _print(rows: list[Timing]) -> None:
    """How fast operations are played, and where the time of a simulation goes."""
    from sim import units  # noqa: PLC0415 - see sim.cli.run

    rates = [["what", "operations", "time", "operations/s", "of heapq", "play alone, of heapq"]]
    places = [["simulation", "time", "lower", "play", "summarise", "memory", "beside"]]
    for row in rows:
        time = units.text(row.seconds, "s")
        if row.ratio is not None:
            play = "" if row.play_ratio is None else f"{row.play_ratio:.2f}"
            rates.append(
                [row.name, f"{row.operations:,}", time, f"{row.operations_per_s:,.0f}", f"{row.ratio:.2f}", play]
            )
        if row.parts is not None:
            parts = (row.parts.lower_s, row.parts.play_s, row.parts.summarise_s)
            memory = "" if row.peak_bytes is None else units.text(row.peak_bytes, "bytes")
            places.append([row.name, time, *(units.text(part, "s") for part in parts), memory, _beside(row)])
    typer.echo(f"{columns(rates)}\n\n{columns(places)}")


def _beside(row: Timing) -> str:
    """Its time over that of the row it is compared with, which goes by what tells it apart."""
    return "" if row.slower is None or row.base is None else f"{row.slower:.2f} x {row.base.rsplit(', ', 1)[-1]}"


def _report(rows: list[Timing], curves: list[Curve], folder: Path, *, is_quiet: bool) -> None:
    from sim.report.figures.cost import write_cost  # noqa: PLC0415 - see sim.cli.run

    with writing(folder):
        picture = write_cost(rows, curves, folder)
    typer.echo(f"report: {picture}", err=is_quiet)
