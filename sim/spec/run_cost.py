"""What a run costs: a dated price, power, and carbon."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from sim.spec.quantity import Spec, Watts
from sim.spec.sourced import Sourced

NotNegative = Annotated[float, Field(ge=0)]


class Price(Sourced):
    """A rent, as somebody published it. date: until when, or when, it was seen.  gpus: for which it is taken where a
    scenario names none."""

    title: str
    date: str
    usd_per_gpu_hour: NotNegative
    gpus: Annotated[tuple[str, ...], Field(strict=False)] = ()


class Power(Sourced):
    """Draw of one GPU's share of its node: while steps run, and while the job does anything else or it is spare."""

    title: str
    busy_w: Watts = Field(alias="busy")
    idle_w: Watts = Field(alias="idle")
    pue: Annotated[float, Field(ge=1)]


class Cost(Spec):
    """Money, energy and carbon of every GPU of the job and its spares.

    campaign: all compute of the project over that of this run (development, ablations, failed runs).
    """

    price: Price
    power: Power
    kg_co2_per_kwh: NotNegative | None = None
    campaign: Annotated[float, Field(ge=1)] = 1.0
