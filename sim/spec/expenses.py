"""What GPU-hours and electricity cost: terms of a scenario, and the dated prices of the catalogue."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator, model_validator

import sim
from sim.registry import unknown
from sim.spec import run_cost
from sim.spec.find import find, names
from sim.spec.mistakes import validated
from sim.spec.quantity import Spec
from sim.spec.source import Node, read

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Pue = Annotated[float, Field(ge=1, le=3)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]

ELECTRICITY = Path(sim.__file__).resolve().parent / "catalog" / "electricity.yaml"


class Price(Spec):
    """An hour of one GPU in US dollars, when it was asked, and by whom."""

    usd_per_gpu_hour: Positive
    date: str
    source: str


class ListedPrice(Price):
    """A price of the catalogue. gpus: for which it is taken where a scenario names none."""

    gpus: tuple[str, ...]


class Electricity(Spec):
    """Of a data centre. pue: its energy over that of its nodes.  carbon_kg_per_kwh: emitted by its grid, CO2
    equivalents."""

    pue: Pue
    carbon_kg_per_kwh: NotNegative
    source: str


class PriceList(Spec):
    """The catalogue: prices by name, and electricity where a scenario says nothing."""

    prices: dict[str, ListedPrice]
    electricity: Electricity

    @model_validator(mode="after")
    def _one_price_for_each_gpu(self) -> PriceList:
        gpus = [gpu for price in self.prices.values() for gpu in price.gpus]
        if len(gpus) != len(set(gpus)):
            raise ValueError(f"a GPU has two prices (got {', '.join(sorted(gpus))})")
        return self


def _named(tree: Node, name: str) -> Node:
    """An entry with the name of its file."""
    assert isinstance(tree.value, dict)
    return Node(tree.value | {"name": Node(name, tree.place)}, tree.place)


@lru_cache(maxsize=1)
def price_list() -> PriceList:
    """The prices and the electricity that ship with the simulator."""
    prices = {}
    for name in names("prices"):
        tree = read(find("prices", name))
        entry = validated(run_cost.Price, _named(tree, name), "")
        source = entry.sources["usd_per_gpu_hour"]
        prices[name] = ListedPrice(
            usd_per_gpu_hour=entry.usd_per_gpu_hour, date=entry.date, source=source, gpus=entry.gpus
        )
    return PriceList(prices=prices, electricity=validated(Electricity, read(ELECTRICITY), ""))


class Cost(Spec):
    """Terms under which a scenario is paid for; what it leaves out is taken from the catalogue.

    price: a name of the catalogue, or a price with its date and source.  pue, carbon_kg_per_kwh: as in `Electricity`.
    tokens: of the whole run; without them there are costs of a step only.
    """

    price: str | Price | None = None
    pue: Pue | None = None
    carbon_kg_per_kwh: NotNegative | None = None
    tokens: Positive | None = None

    @field_validator("price")
    @classmethod
    def _known(cls, price: str | Price | None) -> str | Price | None:
        if isinstance(price, str) and price not in price_list().prices:
            raise ValueError(unknown("price", price, list(price_list().prices)))
        return price


def price_of(cost: Cost, gpu: str) -> tuple[str, Price] | None:
    """Name and price of an hour of `gpu` under the terms; None where nobody gave one."""
    if isinstance(cost.price, Price):
        return "own", cost.price
    listed = price_list().prices
    name = cost.price or next((name for name, price in listed.items() if gpu in price.gpus), None)
    return None if name is None else (name, listed[name])


def electricity_of(cost: Cost) -> Electricity:
    """PUE and carbon intensity under the terms."""
    default = price_list().electricity
    own = {key: value for key in ("pue", "carbon_kg_per_kwh") if (value := getattr(cost, key)) is not None}
    source = default.source if len(own) < 2 else "the scenario"
    return Electricity(**(default.model_dump() | own | {"source": source}))
