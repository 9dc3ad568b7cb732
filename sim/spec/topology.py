"""What connects GPUs: directed links with a rate and a latency, and the routes over them.

A fabric family (one file each in `sim.spec.fabrics`) turns the numbers of a topology file into a `Fabric`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from sim.registry import Registry
from sim.spec.quantity import Spec

if TYPE_CHECKING:
    import networkx

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Links:
    """Every directed link of a fabric, by number. Columns of equal length.

    source, target: node numbers (GPUs are 0 .. num_gpus - 1, in rank order; switches and NICs come after).
    bytes_per_s: the rate that transfers achieve on the link (wire rate x the topology's efficiency).
    wire_bytes_per_s: the rate on the datasheet.  latency_s: time of one hop.  tier: index into `tiers`.
    """

    source: Ints
    target: Ints
    bytes_per_s: Floats
    wire_bytes_per_s: Floats
    latency_s: Floats
    tier: Ints
    tiers: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.source)


@dataclass(frozen=True)
class Routes:
    """Links that a list of (source GPU, target GPU) pairs crosses: one row for each link of each pair.

    pair: index of the pair.  link: link number.  share: part of the pair's bytes on that link (below 1 where traffic
    is spread over parallel spines).  latency_s: one entry for each pair, the sum over the hops of one path.
    """

    pair: Ints
    link: Ints
    share: Floats
    latency_s: Floats


class Fabric(Protocol):
    """A built topology: integer tables at run time, a NetworkX graph on demand."""

    num_gpus: int
    gpus_per_node: int
    links: Links

    def node_of(self, gpus: Ints) -> Ints:
        """Server number of each GPU."""
        ...

    def routes(self, source: Ints, target: Ints) -> Routes:
        """Route of each pair; arrays of equal length (pairs,). A pair of equal GPUs crosses no link."""
        ...

    def node_names(self) -> list[str]:
        """Name of each node by number: `gpu0`, `nvswitch0`, `nic0`, `leaf0`, `spine0`."""
        ...


class FabricSpec(Spec):
    """Numbers of a topology file. Each family subclasses it with its own fields and a `build()`."""

    name: str
    sources: dict[str, str]
    estimated: tuple[str, ...] = ()

    def build(self) -> Fabric:
        """Tables of links and routes."""
        raise NotImplementedError


FABRICS: Registry[type[FabricSpec]] = Registry("fabric family", "sim.spec.fabrics")


def graph(fabric: Fabric) -> networkx.DiGraph:
    """The fabric as a NetworkX graph: nodes with `kind` and `server`, edges with bytes_per_s, latency_s and tier."""
    raise NotImplementedError
