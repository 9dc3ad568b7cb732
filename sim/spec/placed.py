"""Some GPUs of a fabric as a fabric of their own, for a job that shares the whole with others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from sim.spec.topology import Derived, Ints, Links, Routes


@final
@dataclass(frozen=True, eq=False)
class Placed(Derived):
    """A Fabric whose GPU i is GPU `gpus[i]` of the whole one: (GPUs,). Links, switches and their names are the whole's,
    so that the traffic of two of them meets."""

    gpus: Ints

    @property
    def num_gpus(self) -> int:
        """GPUs of the job."""
        return len(self.gpus)

    @property
    def links(self) -> Links:
        """As in the whole fabric."""
        return self.whole.links

    def node_of(self, gpus: Ints) -> Ints:
        """Node of the whole fabric of each GPU of the job."""
        return self.whole.node_of(self.gpus[gpus])

    def routes(self, source: Ints, target: Ints) -> Routes:
        """Routes of the whole fabric between GPUs of the job."""
        return self.whole.routes(self.gpus[source], self.gpus[target])
