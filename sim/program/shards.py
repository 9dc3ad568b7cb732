"""Parameters that a rank holds of each part of the model: dense ones and experts, by stage."""

from __future__ import annotations

from dataclasses import dataclass

from sim.program.shapes import padded_vocab
from sim.spec.layout import layers_of_stages, num_stages
from sim.spec.parameters import layer_parameters
from sim.spec.scenario import Scenario


@dataclass(frozen=True)
class Shard:
    """Parameters on one rank: `dense` ones are replicated over dp x cp, `expert` ones over edp."""

    dense: float
    expert: float = 0.0

    def __add__(self, other: Shard) -> Shard:
        return Shard(self.dense + other.dense, self.expert + other.expert)

    @property
    def total(self) -> float:
        """Both."""
        return self.dense + self.expert
