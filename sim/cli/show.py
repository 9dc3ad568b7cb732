"""`sim show`: what was understood of a scenario, and what its step sends."""

from __future__ import annotations

import typer

from sim.cli.options import ScenarioArgument, SetOption, VariantOption

EXAMPLES = (
    "sim show llama2-70b_128xh100_tp8-pp2-dp8",
    "sim show llama2-70b_128xh100_tp8-pp2-dp8 --set layout.zero=3",
    "sim show llama2-70b_128xh100_layouts --variant tp2-pp8-dp8",
)


def command(scenario: ScenarioArgument, variant: VariantOption = None, settings: SetOption = None) -> None:
    """Show what was understood, and what a step sends.

    For each collective its size, calls, group, links and the time that compute waits for it; parameters, FLOPs by term,
    which fields change nothing here, and the resolved scenario.
    """
    from sim.cli.sections import sections  # noqa: PLC0415 - see sim.cli.run
    from sim.simulation import load  # noqa: PLC0415 - see sim.cli.run

    for title, body in sections(load(scenario, settings or (), variant=variant)):
        typer.echo(f"{title}\n" + "\n".join(f"  {line}" for line in body.splitlines()) + "\n")
