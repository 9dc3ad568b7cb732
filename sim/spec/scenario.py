"""One experiment: model, gpu, topology, stack, layout, training, network, conditions, cost and seed."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, SerializeAsAny, field_serializer

from sim.spec.conditions import Conditions
from sim.spec.expenses import Cost
from sim.spec.gpu import Gpu
from sim.spec.layout import Layout
from sim.spec.model import Model
from sim.spec.network import Network
from sim.spec.quantity import Seconds, Spec
from sim.spec.stack import Stack
from sim.spec.topology import FABRICS, FabricSpec
from sim.spec.training import Training


class Measured(Spec):
    """What somebody measured on a real cluster with this very scenario, and where they published it."""

    step_time_s: Seconds = Field(alias="step_time")
    source: str


class Setting(Spec):
    """What a scenario says beside its parts.

    `name` is the file's, `variant` the key under `variants:` that made it (None for a plain file).
    """

    name: Annotated[str, Field(pattern=r"^[^./\\\x00-\x1f][^/\\\x00-\x1f]*$")]
    variant: str | None = None
    network: Network = Network()
    conditions: Conditions = Conditions()
    cost: Cost = Cost()
    seed: Annotated[int, Field(ge=0)] = 0
    measured: Measured | None = None


class Scenario(Setting):
    """One experiment, resolved: nothing is left to look up, `layout.dp` is set, and every part fits the others."""

    model: Model
    gpu: Gpu
    topology: SerializeAsAny[FabricSpec]
    stack: Stack
    layout: Layout
    training: Training

    @property
    def title(self) -> str:
        """Name and variant in one: `file/variant`."""
        return self.name if self.variant is None else f"{self.name}/{self.variant}"

    @field_serializer("topology")
    def _with_its_family(self, topology: FabricSpec) -> dict[str, Any]:
        """The fields of the family, and its name as a topology file has it."""
        return {"fabric": family(topology), **topology.model_dump()}


def family(topology: FabricSpec) -> str:
    """Name of the fabric family in the registry."""
    return next(name for name, spec in FABRICS.items() if type(topology) is spec)
