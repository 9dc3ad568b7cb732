"""GPUs in one ring, each joined to the next and the last to the first."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import model_validator

from sim.spec.fabrics.cluster import Port, check_size
from sim.spec.fabrics.tables import Table
from sim.spec.fabrics.torus import grid
from sim.spec.quantity import Count
from sim.spec.topology import FABRICS, FabricSpec


@FABRICS.register("ring")
class Ring(FabricSpec):
    """`gpus` GPUs on one node; bytes go the shorter way around, halfway around half of them each way."""

    chosen: ClassVar[frozenset[str]] = FabricSpec.chosen | {"gpus"}

    gpus: Count
    link: Port

    @model_validator(mode="after")
    def _fits_in_memory(self) -> Self:
        check_size(self.gpus)
        return self

    def build(self) -> Table:
        """A torus of one dimension."""
        return grid([self.gpus], [True], self.link, ("ring",))
