"""`sim results`: what the store of sweeps holds."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sim.cli.group import Command, epilog
from sim.cli.options import StoreOption
from sim.cli.output import columns, refuse_folder, writing
from sim.cli.sweep import opened, store_path
from sim.errors import SimError

if TYPE_CHECKING:
    from sim.study.store import Store, Stored

EXAMPLES = {
    "list": ("sim results list", 'sim results list --where "layout.tp == 8 and mfu > 0.4" --top 5'),
    "export": (
        "sim results export all.parquet",
        "sim results export tp8.csv --where \"layout.tp == 8 and name == 'mine'\"",
    ),
    "remove": ('sim results remove --where "not is_current"', "sim results remove --all"),
}

WhereOption = Annotated[
    str | None,
    typer.Option(
        "--where",
        metavar="CONDITION",
        help="Over fields of scenarios (layout.tp), answers (mfu), name, status, fidelity, is_current.",
    ),
]

app = typer.Typer(help="What the store of sweeps holds.", no_args_is_help=True)


@app.command("list", cls=Command, epilog=epilog(EXAMPLES["list"]))
def list_results(
    where: WhereOption = None,
    top: Annotated[int | None, typer.Option("--top", metavar="N", min=1, help="Only the first N.")] = None,
    store: StoreOption = None,
) -> None:
    """List results, the fastest for a GPU first."""
    from sim.study.play import unpacked  # noqa: PLC0415 - see sim.cli.run
    from sim.study.stored import selected  # noqa: PLC0415 - see sim.cli.run

    with closing(_existing(store)) as file:
        found = selected(file.rows(), where)
    results = [(row, None if row.result is None else unpacked(row.result)) for row in found]
    results.sort(key=lambda pair: -pair[1]["tokens_per_s_per_gpu"] if pair[1] else float("inf"))
    lines = [["key", "step", "tokens/s/GPU", "MFU", "fits", "code", "name"]]
    for row, result in results[:top]:
        now = "same" if row.is_current else "other"
        answers = ["", "", "", row.status]
        if result is not None:
            answers = [
                f"{result['step_time_s']:.3f} s",
                f"{result['tokens_per_s_per_gpu']:,.0f}",
                f"{100 * result['mfu']:.1f} %",
                "yes" if result["memory"]["fits"] else "no",
            ]
        lines.append([row.key[:10], *answers, now, f"{row.name}: {row.error}" if row.error else row.name])
    typer.echo(columns(lines))
    typer.echo(f"{len(found)} results in {store_path(store)}")


@app.command("export", cls=Command, epilog=epilog(EXAMPLES["export"]))
def export(
    target: Annotated[Path, typer.Argument(metavar="FILE", help="A name that ends with .csv, .parquet or .json.")],
    where: WhereOption = None,
    store: StoreOption = None,
) -> None:
    """Write results with every field and answer to a file."""
    from sim.study.stored import selected, stored_table  # noqa: PLC0415 - see sim.cli.run
    from sim.study.table import WRITERS, write  # noqa: PLC0415 - see sim.cli.run

    if target.suffix not in WRITERS:
        raise SimError(
            f"unknown kind of file (got {str(target)!r}, allowed a name that ends with {', '.join(WRITERS)})"
        )
    refuse_folder(target.parent)
    with closing(_existing(store)) as file:
        found = selected(file.rows(), where)
    table = stored_table(found)
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        write(table, target)
    typer.echo(f"{len(found)} results of {len(table)} columns: {target}")


@app.command("remove", cls=Command, epilog=epilog(EXAMPLES["remove"]))
def remove(
    where: WhereOption = None,
    everything: Annotated[bool, typer.Option("--all", help="Remove every result.")] = False,
    store: StoreOption = None,
) -> None:
    """Remove results; a sweep that wants them plays them again."""
    from sim.study.stored import selected  # noqa: PLC0415 - see sim.cli.run

    if (where is None) != everything:
        raise typer.BadParameter("one of --where and --all")
    with closing(_existing(store)) as file:
        found: list[Stored] = selected(file.rows(), where)
        removed = file.remove(found)
    typer.echo(f"{removed} results removed from {store_path(store)}")


def _existing(given: Path | None) -> Store:
    path = store_path(given)
    if not path.exists():
        raise SimError(f"no store (got {str(path)!r}, allowed a file that `sim sweep` has written)")
    return opened(path)
