"""Published mixes and prices that ship, each with its source."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated

from pydantic import Field

import sim
from sim.spec.expenses import price_list
from sim.spec.mistakes import validated
from sim.spec.quantity import Spec
from sim.spec.source import read

FOLDER = Path(sim.__file__).resolve().parent / "catalog" / "mixes"
MIXES = tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))
Share = Annotated[float, Field(ge=0, le=1)]


class Mix(Spec):
    """Shares of the sampled tokens by source, of a published run; epochs where the source prints them.

    ranges: least and most, where published mixes are summed up rather than one of them given.
    purposes: what each source is for.
    """

    title: str
    source: str
    shares: dict[str, Share]
    ranges: dict[str, Annotated[tuple[Share, Share], Field(strict=False)]] = Field(default_factory=dict)
    epochs: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    purposes: dict[str, str] = Field(default_factory=dict)


@dataclass(frozen=True)
class OutOfRange:
    """A share that is not what published mixes have."""

    source: str
    share: float
    low: float
    high: float


@cache
def mix(name: str) -> Mix:
    """The mix of a file of the catalogue."""
    return validated(Mix, read(FOLDER / f"{name}.yaml"), "")


def prices() -> dict[str, dict[str, float | str]]:
    """Prices of a GPU-hour by name: dollars, date and source."""
    return {
        name: {"usd_per_gpu_hour": price.usd_per_gpu_hour, "date": price.date, "source": price.source}
        for name, price in price_list().prices.items()
    }


def out_of_range(shares: dict[str, float], usual: Mix) -> list[OutOfRange]:
    """Shares outside the ranges of `usual`, of the sources that it names."""
    return [
        OutOfRange(name, share, *usual.ranges[name])
        for name, share in shares.items()
        if name in usual.ranges and not usual.ranges[name][0] <= share <= usual.ranges[name][1]
    ]
