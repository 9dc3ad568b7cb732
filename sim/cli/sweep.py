"""`sim sweep`: every point of a `sweep:`, played once and kept, as a table."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sim.cli.options import Fidelity, FidelityOption, ScenarioArgument, SetOption, StoreOption
from sim.cli.output import columns, refuse_folder, writing
from sim.cli.progress import Progress, duration
from sim.errors import SimError

if TYPE_CHECKING:
    from sim.study.executors import Executor
    from sim.study.store import Store
    from sim.study.sweep import Plan, Row

EXAMPLES = (
    "sim sweep llama2-70b_128xh100_batch_sweep --out reports/batch",
    "sim sweep my_sweep.yaml --workers 8 --out reports/mine --set training.seq_len=8192",
    "sim sweep my_sweep.yaml --dry-run",
    "sim sweep my_sweep.yaml --dask tcp://scheduler:8786 --out reports/mine",
)
TABLES = ("sweep.csv", "sweep.parquet")
MAX_SHOWN = 20
"""Points that are printed one by one; files have all of them."""
EXIT_CRASHED = 1
EXIT_STOPPED = 130
"""What a shell gives for a command that Ctrl-C ended."""


def command(
    scenario: ScenarioArgument,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder for sweep.csv and sweep.parquet.")
    ] = None,
    settings: SetOption = None,
    workers: Annotated[int, typer.Option("--workers", metavar="N", min=1, help="Processes that play points.")] = 1,
    dask: Annotated[
        str | None, typer.Option("--dask", metavar="ADDRESS", help="Play on the workers of this Dask scheduler.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only list the points, and how long they will take.")
    ] = False,
    store: StoreOption = None,
    fidelity: FidelityOption = Fidelity.FUSED,
) -> None:
    """Simulate every point of a `sweep:` into a table.

    A point that is impossible is a row with its reason. Each point is kept in the store when it is done: a sweep that
    was stopped, in whatever way, goes on where it was, and a point that was ever played is not played again.
    """
    from sim.simulation import load_points  # noqa: PLC0415 - see sim.cli.run
    from sim.study.sweep import plan  # noqa: PLC0415 - see sim.cli.run

    if dask is not None and workers != 1:
        raise typer.BadParameter("--dask and --workers exclude each other")
    refuse_folder(out)
    planned = plan(load_points(scenario, settings or ()), fidelity.value)
    executor = _executor(workers, dask)
    path = store_path(store)
    with closing(opened(path)) if path.exists() or not dry_run else nullcontext() as opened_store:
        if dry_run:
            _list(planned, opened_store, executor)
            return
        rows = _played(planned, opened_store, executor)
    _write(planned, rows, out)
    _summarise(rows)


def store_path(given: Path | None) -> Path:
    """The store that was asked for, or the one of the working folder."""
    return Path("reports") / "results.sqlite" if given is None else given


def opened(path: Path) -> Store:
    """The store; what is wrong with it is told on stderr."""
    from sim.study.store import Store  # noqa: PLC0415 - see sim.cli.run

    return Store(path, lambda message: typer.echo(message, err=True))


def _executor(workers: int, dask: str | None) -> Executor:
    if dask is not None:
        from sim.study.executors.dask_cluster import DaskCluster  # noqa: PLC0415 - see sim.cli.run

        return DaskCluster(dask)
    if workers > 1:
        from sim.study.executors.processes import Processes  # noqa: PLC0415 - see sim.cli.run

        return Processes(workers)
    from sim.study.executors.here import Here  # noqa: PLC0415 - see sim.cli.run

    return Here()


def _played(planned: Plan, store: Store | None, executor: Executor) -> list[Row]:
    """All rows, in the order of the points."""
    from sim.study.sweep import sweep  # noqa: PLC0415 - see sim.cli.run

    rows: list[Row] = []
    try:
        with Progress(len(planned.points), has_eta=True) as progress:
            for row in sweep(planned, store, executor):
                rows.append(row)
                progress.advance(_line(row))
    except KeyboardInterrupt:
        kept = sum(row.status != "crashed" for row in rows)
        typer.echo(f"stopped: {kept} of {len(planned.points)} points are done; the same command goes on", err=True)
        raise typer.Exit(EXIT_STOPPED) from None
    return sorted(rows, key=lambda row: row.index)


def _list(planned: Plan, store: Store | None, executor: Executor) -> None:
    """Each point and what becomes of it; then how long those that are not stored will take."""
    from sim.study.sweep import estimate, state_of_points  # noqa: PLC0415 - see sim.cli.run

    states = state_of_points(planned, store)
    for point, state in zip(planned.points, states, strict=True):
        typer.echo(f"{_values(point.values)}: {state.text}")
    counts = {name: sum(state.kind == name for state in states) for name in ("to play", "stored", "impossible")}
    typer.echo(f"{len(states)} points: " + ", ".join(f"{count} {name}" for name, count in counts.items()))
    left = list(dict.fromkeys(state.key for state in states if state.kind == "to play"))
    if left:
        seconds, timed = estimate(planned, left)
        total_s = seconds * len(left) / executor.num_workers
        workers = "1 worker" if executor.num_workers == 1 else f"{executor.num_workers} workers"
        typer.echo(
            f"ETA {duration(total_s)} with {workers}: {len(left)} to play, {seconds:.3f} s each (mean of {timed} that "
            "were timed)"
        )


def _values(values: dict[str, object]) -> str:
    from sim.study.sweep import value_text  # noqa: PLC0415 - see sim.cli.run

    return " ".join(f"{path}={value_text(value)}" for path, value in values.items())


def _line(row: Row) -> str:
    values, result = _values(row.values), row.result
    if result is None:
        return f"{values}: {row.status}"
    verdict = "fits" if result["memory"]["fits"] else "does not fit"
    stored = ", stored" if row.is_stored else ""
    return f"{values}: {result['step_time_s']:.3f} s, {verdict}{stored}"


def _write(planned: Plan, rows: list[Row], out: Path | None) -> None:
    from sim.study.table import table, write  # noqa: PLC0415 - see sim.cli.run

    if out is None:
        return
    paths = list(dict.fromkeys(path for point in planned.points for path in point.values))
    found = table(rows, paths)
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        for name in TABLES:
            write(found, out / name)
    typer.echo(f"{len(rows)} rows of {len(found)} columns: {' and '.join(str(out / name) for name in TABLES)}")


def _summarise(rows: list[Row]) -> None:
    """The fastest points, those without a result, and how many there are of each."""
    without = [row for row in rows if row.packed is None]
    for row in without[:MAX_SHOWN]:
        typer.echo(f"{row.status}: {_values(row.values)}: {row.error}")
    if len(without) > MAX_SHOWN:
        typer.echo(f"and {len(without) - MAX_SHOWN} more, see the tables of --out, or --dry-run")
    if len(without) < len(rows):
        typer.echo(columns(_best(rows)))
    stored = sum(row.is_stored for row in rows)
    typer.echo(
        f"{len(rows) - len(without)} of {len(rows)} points played" + (f", {stored} of them earlier" if stored else "")
    )
    if any(row.status == "crashed" for row in rows):
        typer.echo("points that crashed are tried again by the same command", err=True)
        raise typer.Exit(EXIT_CRASHED)
    if len(without) == len(rows):
        raise SimError("no point of the sweep can be played")


def _best(rows: list[Row]) -> list[Sequence[str]]:
    """A head, and the points with the most tokens per second and GPU, those that fit before those that do not."""
    results = [(row, row.result) for row in rows]
    played = [(row, result) for row, result in results if result is not None]
    played.sort(key=lambda pair: (not pair[1]["memory"]["fits"], -pair[1]["tokens_per_s_per_gpu"]))
    lines: list[Sequence[str]] = [["step", "tokens/s/GPU", "MFU", "peak memory", "fits", "point"]]
    for row, result in played[:MAX_SHOWN]:
        lines.append(
            [
                f"{result['step_time_s']:.3f} s",
                f"{result['tokens_per_s_per_gpu']:,.0f}",
                f"{100 * result['mfu']:.1f} %",
                f"{result['memory']['peak_bytes'] / 2**30:.1f} GiB",
                "yes" if result["memory"]["fits"] else "no",
                _values(row.values),
            ]
        )
    return lines
