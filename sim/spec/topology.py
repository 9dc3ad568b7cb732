"""What connects GPUs: directed links with a rate and a latency, and the routes over them.

A fabric family (one file each in `sim.spec.fabrics`) turns the numbers of a topology file into a `Fabric`.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from sim.registry import Registry
from sim.spec.fabrics.calibration import Nccl
from sim.spec.sourced import Sourced

if TYPE_CHECKING:
    import networkx as nx

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Links:
    """Every directed link of a fabric, by number. Columns of equal length.

    source, target: node numbers (GPUs are 0 .. num_gpus - 1, in rank order; switches and NICs come after).
    bytes_per_s: the rate that transfers achieve on the link (wire rate x the topology's efficiency).
    wire_bytes_per_s: the rate on the datasheet.  latency_s: time of one hop.  tier: index into `tiers`.
    nccl: what collectives achieve on these links; None where nobody measured it.
    """

    source: Ints
    target: Ints
    bytes_per_s: Floats
    wire_bytes_per_s: Floats
    latency_s: Floats
    tier: Ints
    tiers: tuple[str, ...]
    nccl: Nccl | None = None

    def __len__(self) -> int:
        return len(self.source)


@dataclass(frozen=True)
class Routes:
    """Links that a list of (source GPU, target GPU) pairs crosses: one row for each link of each pair, in no order.

    pair: index of the pair.  link: link number.  share: part of the pair's bytes on that link (below 1 where traffic
    is spread over parallel spines).  latency_s: one entry for each pair, the sum over the hops of one path.
    """

    pair: Ints
    link: Ints
    share: Floats
    latency_s: Floats


class Fabric(Hashable, Protocol):
    """A built topology: integer tables at run time, a NetworkX graph on demand. Hashed by identity."""

    @property
    def num_gpus(self) -> int:
        """GPUs of the topology, numbered 0 .. num_gpus - 1."""
        ...

    @property
    def gpus_per_node(self) -> int:
        """GPUs that reach each other over NVLink: GPU i lives on node i // gpus_per_node."""
        ...

    @property
    def links(self) -> Links:
        """Every directed link."""
        ...

    def node_of(self, gpus: Ints) -> Ints:
        """Node of each GPU: its server, or its rack where a whole rack is one NVLink domain."""
        ...

    def routes(self, source: Ints, target: Ints) -> Routes:
        """Route of each pair; arrays of equal length (pairs,). A pair of equal GPUs crosses no link."""
        ...

    def node_names(self) -> list[str]:
        """Name of each node by number: `gpu0`, `nvswitch0`, `nic0`, `leaf0`, `spine0`."""
        ...


@dataclass(frozen=True, eq=False)
class Derived:
    """What a Fabric that changes the links or routes of another one has in common with it. A subclass adds `links` and
    `routes`."""

    whole: Fabric

    @property
    def num_gpus(self) -> int:
        """As in the whole fabric."""
        return self.whole.num_gpus

    @property
    def gpus_per_node(self) -> int:
        """As in the whole fabric."""
        return self.whole.gpus_per_node

    def node_of(self, gpus: Ints) -> Ints:
        """As in the whole fabric."""
        return self.whole.node_of(gpus)

    def node_names(self) -> list[str]:
        """As in the whole fabric."""
        return self.whole.node_names()


class FabricSpec(Sourced):
    """Numbers of a topology file. Each family subclasses it with its own fields and a `build()`."""

    chosen: ClassVar[frozenset[str]] = frozenset({"nodes", "racks"})

    def build(self) -> Fabric:
        """Tables of links and routes."""
        raise NotImplementedError


class Calibrated(FabricSpec):
    """A family that NCCL's measured collectives can stand for; without `nccl`, only links and latencies count."""

    nccl: Nccl | None = None


FABRICS: Registry[type[FabricSpec]] = Registry("fabric family", "sim.spec.fabrics")


def graph(fabric: Fabric) -> nx.DiGraph:
    """The fabric as a NetworkX graph; its nodes are named as `node_names` says.

    Nodes carry `kind` (gpu, nvswitch, nic, leaf, spine) and `server`, the number of the node that they are built into
    (None for leaf and spine switches). Edges carry bytes_per_s, wire_bytes_per_s, latency_s and tier.
    """
    import networkx as nx  # noqa: PLC0415 - slow to import, and only pictures, tests and exports ask for a graph

    names = fabric.node_names()
    links = fabric.links
    is_gpu_up = (links.source < fabric.num_gpus) & (links.target >= fabric.num_gpus)
    server_by_node = dict(enumerate(fabric.node_of(np.arange(fabric.num_gpus)).tolist()))
    ups = zip(links.target[is_gpu_up].tolist(), fabric.node_of(links.source[is_gpu_up]).tolist(), strict=True)
    server_by_node.update(ups)
    built = nx.DiGraph()
    for number, name in enumerate(names):
        built.add_node(name, kind=name.rstrip("0123456789"), server=server_by_node.get(number))
    columns = (links.source, links.target, links.bytes_per_s, links.wire_bytes_per_s, links.latency_s, links.tier)
    for source, target, rate, wire, latency, tier in zip(*(column.tolist() for column in columns), strict=True):
        built.add_edge(
            names[source],
            names[target],
            bytes_per_s=rate,
            wire_bytes_per_s=wire,
            latency_s=latency,
            tier=links.tiers[tier],
        )
    return built
