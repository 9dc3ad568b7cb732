"""What connects GPUs: directed links with a rate and a latency, and the routes over them.

A fabric family (one file each in `sim.spec.fabrics`) turns the numbers of a topology file into a `Fabric`.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from sim.registry import Registry
from sim.spec.quantity import Spec

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


class FabricSpec(Spec):
    """Numbers of a topology file. Each family subclasses it with its own fields and a `build()`.

    Every number has a line in `sources`, except how many nodes there are, which is the experiment's choice; those that
    nobody measured are named in `estimated`.
    """

    name: str
    sources: dict[str, str]
    estimated: Annotated[tuple[str, ...], Field(strict=False)] = ()

    @model_validator(mode="after")
    def _every_number_has_a_source(self) -> Self:
        keys = set(numbers(self))
        missing = sorted(keys - set(self.sources))
        if missing:
            raise ValueError(f"no source for {', '.join(missing)}")
        unknown = sorted((set(self.sources) | set(self.estimated)) - keys)
        if unknown:
            raise ValueError(f"sources or estimated name no number of this topology: {', '.join(unknown)}")
        return self

    def build(self) -> Fabric:
        """Tables of links and routes."""
        raise NotImplementedError


FABRICS: Registry[type[FabricSpec]] = Registry("fabric family", "sim.spec.fabrics")


def numbers(spec: FabricSpec) -> dict[str, float]:
    """Numbers of a topology that need a source, by the dotted key of its file: `gpus_per_node`, `nic.bandwidth`."""
    found: dict[str, float] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(f"{prefix}.{key}" if prefix else key, inner)
        else:
            found[prefix] = value

    walk("", spec.model_dump(by_alias=True, exclude={"name", "sources", "estimated", "nodes", "racks"}))
    return found


def graph(fabric: Fabric) -> nx.DiGraph:
    """The fabric as a NetworkX graph; its nodes are named as `node_names` says.

    Nodes carry `kind` (gpu, nvswitch, nic, leaf, spine) and `server`, the number of the node that they are built into
    (None for leaf and spine switches). Edges carry bytes_per_s, wire_bytes_per_s, latency_s and tier.
    """
    import networkx as nx  # noqa: PLC0415 - slow to import, and only pictures, tests and exports ask for a graph

    names = fabric.node_names()
    links = fabric.links
    is_gpu_up = links.source < fabric.num_gpus
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
