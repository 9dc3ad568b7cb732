"""`sim list`: what exists, one line each."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

EXAMPLES = ("sim list models", "sim list scenarios")


class What(StrEnum):
    """Kinds of named things."""

    MODELS = "models"
    GPUS = "gpus"
    STACKS = "stacks"
    TOPOLOGIES = "topologies"
    SCENARIOS = "scenarios"
    PLANS = "plans"
    SCHEDULES = "schedules"
    COLLECTIVES = "collectives"
    LONGRUNS = "longruns"
    FAILURES = "failures"
    STORAGE = "storage"
    SPIKES = "spikes"
    PRICES = "prices"
    POWER = "power"


def command(what: Annotated[What, typer.Argument(help="What to list.")]) -> None:
    """List what a scenario can name, one line each."""
    from sim.cli.inventory import INVENTORY  # noqa: PLC0415 - see sim.cli.run
    from sim.cli.output import columns  # noqa: PLC0415 - see sim.cli.run

    typer.echo(columns(list(INVENTORY[what]())))
