"""`sim bench`: how fast the simulator is on this machine, beside bare loops in the same run."""

from __future__ import annotations

from typing import Annotated

import typer

from sim.cli.output import STDOUT, columns, write_json

EXAMPLES = ("sim bench", "sim bench --quick", "sim bench --json bench.json")


def command(
    *,
    quick: Annotated[bool, typer.Option("--quick", help="One repeat, short loops, up to 1,024 GPUs.")] = False,
    json_to: Annotated[str | None, typer.Option("--json", metavar="FILE", help="`-` prints JSON only.")] = None,
) -> None:
    """Time the simulator beside a bare heapq loop.

    Times are medians of wall time and include lowering and summarising; the ratio is operations/s over the bare loop's.
    """
    import dataclasses  # noqa: PLC0415 - see sim.cli.run

    from sim import units  # noqa: PLC0415 - see sim.cli.run
    from sim.study import bench  # noqa: PLC0415 - see sim.cli.run

    repeats, num_events, microbatches = (1, 100_000, 2) if quick else (5, 1_000_000, 16)
    rows = list(bench.yardsticks(num_events, repeats))
    rows += bench.steps(rows[0], repeats, microbatches)
    rows += bench.ladder(bench.LADDER[:2] if quick else bench.LADDER)
    if json_to is not None:
        write_json([dataclasses.asdict(row) for row in rows], json_to)
    if json_to == STDOUT:
        return
    table = [["what", "time", "operations", "operations/s", "of heapq", "memory"]]
    for row in rows:
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        memory = "" if row.peak_bytes is None else units.text(row.peak_bytes, "bytes")
        rate = f"{row.operations_per_s:,.0f}"
        table.append([row.name, units.text(row.seconds, "s"), f"{row.operations:,}", rate, ratio, memory])
    typer.echo(columns(table))
