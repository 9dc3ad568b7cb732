"""Arguments and options that several commands share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Fidelity(StrEnum):
    """How many ranks are played."""

    FUSED = "fused"
    FOLDED = "folded"
    FULL = "full"


ScenarioArgument = Annotated[
    str,
    typer.Argument(metavar="SCENARIO", help="Name (see `sim list scenarios`) or path of a scenario file."),
]

VariantOption = Annotated[
    str | None,
    typer.Option("--variant", metavar="NAME", help="Which one of a file with `variants:`."),
]

SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Override a value, such as layout.tp=4. Can be given again."),
]

JsonOption = Annotated[
    str | None,
    typer.Option(
        "--json", metavar="FILE", help="Write results as JSON; alone, or with `-`, print them, and nothing else."
    ),
]

TraceOption = Annotated[
    Path | None,
    typer.Option("--trace", metavar="DIR", help="Write a trace for each simulated rank (Perfetto, HTA) here."),
]

FidelityOption = Annotated[
    Fidelity,
    typer.Option(
        "--fidelity",
        help="`full` plays every rank, `folded` one of each class of like ranks, `fused` also joins operations between "
        "points where anything could be observed. All say the same.",
    ),
]

StoreOption = Annotated[
    Path | None,
    typer.Option("--store", metavar="FILE", help="SQLite file that keeps results [default: reports/results.sqlite]"),
]
