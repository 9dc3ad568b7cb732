"""`sim placement`: what the order of ranks costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from sim.cli.options import JsonOption, ScenarioArgument, SetOption, VariantOption
from sim.cli.output import STDOUT, columns, refuse_file, write_json
from sim.cli.progress import Progress

if TYPE_CHECKING:
    from sim.study.placement import Placement

EXAMPLES = (
    "sim placement llama2-70b_128xh100_tp8-pp2-dp8",
    "sim placement llama2-70b_128xh100_tp8-pp2-dp8 --set topology.use=fat-tree-h100-2to1 --json placement.json",
)


def command(
    scenario: ScenarioArgument, variant: VariantOption = None, settings: SetOption = None, json: JsonOption = None
) -> None:
    """Play every rank order: what TP inside the node saves.

    The layout stays; what changes is which ranks are neighbours on a node.
    """
    import dataclasses  # noqa: PLC0415 - see sim.cli.run

    from sim.simulation import load  # noqa: PLC0415 - see sim.cli.run
    from sim.study.placement import placements  # noqa: PLC0415 - see sim.cli.run

    refuse_file(json)
    loaded = load(scenario, settings or (), variant=variant)
    with Progress(0) as progress:
        found = placements(loaded, progress.show)
    if json is not None:
        write_json(dataclasses.asdict(found), json)
    if json != STDOUT:
        _print(found)


def _print(found: Placement) -> None:
    from sim.report.tables import percent, seconds  # noqa: PLC0415 - see sim.cli.run

    best = found.orders[0]
    axes = list(best.nodes_by_axis)
    rows = [["order, innermost first", "step", "over the best", *(f"nodes of a {axis} group" for axis in axes)]]
    for each in found.orders:
        name = f"{each.order} (the scenario's)" if each.order == found.own else each.order
        numbers = [seconds(each.step_s), percent(each.step_s / best.step_s - 1)]
        rows.append([name, *numbers, *(str(each.nodes_by_axis[axis]) for axis in axes)])
    typer.echo(columns(rows))
    if (saving := found.saving()) is not None:
        inside, near, far = saving
        typer.echo(
            f"\nTensor parallelism inside the node ({inside.order}, {seconds(inside.step_s)}) saves "
            f"{percent(1 - inside.step_s / near.step_s)} of the step against the best order that spreads it over nodes "
            f"({near.order}, {seconds(near.step_s)}), and {percent(1 - inside.step_s / far.step_s)} against the worst "
            f"({far.order}, {seconds(far.step_s)})."
        )
