"""`sim validate longrun`: published goodput beside ours."""

from __future__ import annotations

import dataclasses

import typer

from sim.cli.options import JsonOption
from sim.cli.output import STDOUT, columns, refuse_file, write_json

EXAMPLES = ("sim validate longrun",)


def command(json: JsonOption = None) -> None:
    """Errors for goodput: published beside ours.

    Row by row, and the interruptions of Llama 3, as the rates of other clusters predict them.
    """
    from sim.longrun.predict import LLAMA3, OTHERS, predicted_count  # noqa: PLC0415 - see sim.cli.run
    from sim.longrun.validate import rows  # noqa: PLC0415 - see sim.cli.run

    refuse_file(json)
    found = rows()
    predicted = predicted_count([cluster.rate for cluster in OTHERS], LLAMA3.node_days / 1000)
    if json is not None:
        listed = [dataclasses.asdict(row) | {"error": row.error} for row in found]
        write_json({"ettr": listed, "llama3_interruptions": dataclasses.asdict(predicted)}, json)
    if json == STDOUT:
        return
    table = [["run", "published", "ours", "points", "form", "source", "not public"]]
    for row in found:
        shares = [f"{row.published:.2f}", f"{row.ours:.3f}", f"{100 * row.error:+.1f}"]
        table.append([row.name, *shares, row.form, row.source, row.hidden])
    typer.echo(columns(table))
    typer.echo(
        f"\nLlama 3, 54 days on 16,384 GPUs: {LLAMA3.count} interruptions; from {len(OTHERS)} other clusters "
        f"{predicted.median:,.0f} (95 % interval {predicted.low:,.0f} .. {predicted.high:,.0f})"
    )
