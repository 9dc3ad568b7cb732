"""The folded cluster: equal to a plain refinement of the full graph, for every family of fabrics."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Any

import networkx as nx
import numpy as np
import pytest

from sim.spec.quotient import quotient
from sim.spec.topology import FABRICS, Derived, Fabric, Links, Routes, graph

GB = 1e9
PORT = {"bandwidth": 100 * GB, "efficiency": 0.5, "latency": 1e-6}
NETWORK = {
    "nic": {"bandwidth": 20 * GB, "efficiency": 0.5, "latency": 4e-6},
    "pcie": {"bandwidth": 60 * GB, "efficiency": 0.5, "latency": 2e-6},
    "spine": {"count": 2, "oversubscription": 2, "efficiency": 0.5, "latency": 0.5e-6},
    "core": {"count": 2, "oversubscription": 1, "efficiency": 0.5, "latency": 0.5e-6},
    **dict.fromkeys(("nvlink", "host", "link", "local_link", "global_link"), PORT),
}

PLANES = {"nodes": 4, "gpus_per_node": 2, "nics_per_gpu": 2, "nodes_per_unit": 2}
GROUPS = {
    "gpus_per_node": 2,
    "nics_per_node": 1,
    "nodes_per_router": 2,
    "routers_per_group": 3,
    "cables_per_pair": 1,
}
TREE = {
    "nodes": [{"id": f"{kind}{n}", "kind": kind} for kind, count in (("gpu", 4), ("hub", 3)) for n in range(count)],
    "edges": [
        {"source": f"{kind}{n}", "target": f"hub{above}", **PORT}
        for kind, n, above in [*(("gpu", n, n // 2) for n in range(4)), ("hub", 0, 2), ("hub", 1, 2)]
    ],
}

SHAPES: dict[str, list[dict[str, Any]]] = {
    "single_node": [{"gpus_per_node": 1}, {"gpus_per_node": 8}],
    "rail_optimized": [
        {"nodes": 4, "gpus_per_node": 3, "nodes_per_unit": 2},
        {"nodes": 5, "gpus_per_node": 2, "nodes_per_unit": 2},
        {"nodes": 7, "gpus_per_node": 4, "nodes_per_unit": 4},
        {"nodes": 1, "gpus_per_node": 4, "nodes_per_unit": 8},
    ],
    "fat_tree": [
        {"nodes": 4, "gpus_per_node": 4, "nics_per_node": 2, "nodes_per_leaf": 2},
        {"nodes": 7, "gpus_per_node": 6, "nics_per_node": 3, "nodes_per_leaf": 3},
        {"nodes": 3, "gpus_per_node": 4, "nics_per_node": 1, "nodes_per_leaf": 2},
    ],
    "nvl72": [
        {"racks": 2, "trays_per_rack": 3, "gpus_per_tray": 2, "racks_per_unit": 1},
        {"racks": 3, "trays_per_rack": 2, "gpus_per_tray": 4, "racks_per_unit": 2},
    ],
    "three_tier": [
        {"nodes": 8, "gpus_per_node": 2, "nics_per_node": 2, "nodes_per_leaf": 2, "leaves_per_pod": 2},
        {"nodes": 7, "gpus_per_node": 4, "nics_per_node": 2, "nodes_per_leaf": 2, "leaves_per_pod": 3},
    ],
    "multi_plane": [
        {**PLANES, "ports_per_nic": 2, "rails_share_planes": True},
        {**PLANES, "ports_per_nic": 1, "rails_share_planes": False, "nodes": 5},
    ],
    "torus": [
        {"shape": (4, 3), "wrap_around": (True, True)},
        {"shape": (4, 3, 2), "wrap_around": (False, True, True)},
    ],
    "ring": [{"gpus": 7}],
    "fully_connected": [{"gpus": 6}],
    "dragonfly": [{**GROUPS, "nodes": 18}, {**GROUPS, "nodes": 11}],
    "pcie_hosts": [
        {"nodes": 4, "gpus_per_node": 4, "gpus_per_switch": 2, "nics_per_node": 1, "nodes_per_leaf": 2},
        {"nodes": 3, "gpus_per_node": 8, "gpus_per_switch": 2, "nics_per_node": 4, "nodes_per_leaf": 2},
    ],
    "graph": [{"gpus_per_node": 2, "graph": TREE}],
}
"""Even fabrics, and odd ones: an odd number of nodes, a last leaf that is half empty."""


def build(family: str, **shape: Any) -> Fabric:
    own = FABRICS[family].model_fields
    fields: dict[str, Any] = {key: value for key, value in NETWORK.items() if key in own}
    unsourced = {*FABRICS[family].chosen, "wrap_around", "rails_share_planes"}
    sourced = [key for key in {**fields, **shape} if key not in unsourced]
    return FABRICS[family](name=family, sources=dict.fromkeys(sourced, "this test"), **fields, **shape).build()


@dataclass(frozen=True, eq=False)
class Slowed(Derived):
    """A fabric some of whose links are at half their rate."""

    links: Links

    def routes(self, source: np.ndarray, target: np.ndarray) -> Routes:
        return self.whole.routes(source, target)


def slowed(fabric: Fabric, chosen: np.ndarray) -> Slowed:
    rate = fabric.links.bytes_per_s.copy()
    rate[chosen] /= 2
    return Slowed(fabric, replace(fabric.links, bytes_per_s=rate))


def sort_of(edge: dict[str, Any]) -> tuple[Hashable, ...]:
    return edge["bytes_per_s"], edge["wire_bytes_per_s"], edge["latency_s"], edge["tier"]


def plain_refinement(built: nx.DiGraph) -> dict[str, int]:
    """Class of each node; the number of a class is that of its first member among all classes."""
    own: dict[str, Hashable] = dict(built.nodes(data="kind"))
    while True:
        found = {
            node: (
                own[node],
                frozenset(
                    Counter((own[to], sort_of(edge)) for _, to, edge in built.out_edges(node, data=True)).items()
                ),
                frozenset(Counter((own[at], sort_of(edge)) for at, _, edge in built.in_edges(node, data=True)).items()),
            )
            for node in built
        }
        numbers: dict[Hashable, int] = {}
        finer = {node: numbers.setdefault(signature, len(numbers)) for node, signature in found.items()}
        if len(numbers) == len(set(own.values())):
            return finer
        own = dict(finer)


def check_quotient_is_the_refinement_of_the_full_graph(fabric: Fabric) -> None:
    built, folded = graph(fabric), quotient(fabric)
    own = plain_refinement(built)
    names = list(dict.fromkeys(own.values()))
    first = {number: next(node for node in built if own[node] == number) for number in names}
    assert list(folded) == [first[number] for number in names]
    sizes = Counter(own.values())
    kind = built.nodes(data="kind")
    assert dict(folded.nodes(data="count")) == {first[number]: sizes[number] for number in names}
    assert dict(folded.nodes(data="kind")) == {first[number]: kind[first[number]] for number in names}
    totals = Counter((first[own[a]], first[own[b]], sort_of(edge)) for a, b, edge in built.edges(data=True))
    assert Counter({(a, b, sort_of(edge)): edge["total"] for a, b, edge in folded.edges(data=True)}) == totals
    assert folded.number_of_edges() == len(totals)
    for node in built:
        each = Counter((first[own[to]], sort_of(edge)) for _, to, edge in built.out_edges(node, data=True))
        mine = folded.out_edges(first[own[node]], data=True)
        assert Counter({(to, sort_of(edge)): edge["count"] for _, to, edge in mine}) == each


def test_every_family_has_shapes_here():
    assert set(SHAPES) == set(FABRICS)


@pytest.mark.parametrize(("family", "shape"), [(name, shape) for name, shapes in SHAPES.items() for shape in shapes])
def test_the_quotient_is_the_refinement_of_the_full_graph(family: str, shape: dict[str, int]):
    check_quotient_is_the_refinement_of_the_full_graph(build(family, **shape))


@pytest.mark.parametrize("family", sorted(SHAPES))
@pytest.mark.parametrize("seed", range(4))
def test_slow_links_split_exactly_what_they_touch(family: str, seed: int):
    fabric = build(family, **SHAPES[family][0 if family != "single_node" else 1])
    chosen = np.random.default_rng(seed).integers(0, len(fabric.links), 1 + seed)
    check_quotient_is_the_refinement_of_the_full_graph(slowed(fabric, chosen))


def test_a_rail_optimized_cluster_folds_to_one_node_a_kind():
    folded = quotient(build("rail_optimized", nodes=4, gpus_per_node=3, nodes_per_unit=2))
    assert dict(folded.nodes(data="count")) == {"gpu0": 12, "nvswitch0": 4, "nic0": 12, "leaf0": 6, "spine0": 2}
    (up,) = folded.get_edge_data("leaf0", "spine0").values()
    (down,) = folded.get_edge_data("spine0", "leaf0").values()
    assert (up["count"], down["count"], up["total"], down["total"]) == (2, 6, 12, 12)


def test_a_last_leaf_that_is_half_empty_is_another_class():
    folded = quotient(build("fat_tree", nodes=3, gpus_per_node=4, nics_per_node=1, nodes_per_leaf=2))
    count = dict(folded.nodes(data="count"))
    assert (count["gpu0"], count["gpu8"], count["leaf0"], count["leaf1"]) == (8, 4, 1, 1)


def test_a_pair_of_classes_has_an_edge_for_each_sort_of_links():
    """Each leaf has one slow and one fast link up, each spine one of each down: leaves stay alike, and so do spines."""
    fabric = build("fat_tree", nodes=2, gpus_per_node=1, nics_per_node=1, nodes_per_leaf=1)
    names = fabric.node_names()
    slow = {("leaf0", "spine0"), ("spine0", "leaf0"), ("leaf1", "spine1"), ("spine1", "leaf1")}
    ends = zip(fabric.links.source.tolist(), fabric.links.target.tolist(), strict=True)
    chosen = np.array([number for number, (a, b) in enumerate(ends) if (names[a], names[b]) in slow])
    folded = quotient(slowed(fabric, chosen))
    assert dict(folded.nodes(data="count")) == {"gpu0": 2, "nvswitch0": 2, "nic0": 2, "leaf0": 2, "spine0": 2}
    up = folded.get_edge_data("leaf0", "spine0").values()
    assert sorted((edge["bytes_per_s"] / GB, edge["count"], edge["total"]) for edge in up) == [
        (1.25, 1, 2),
        (2.5, 1, 2),
    ]


def test_a_cluster_of_131072_gpus_folds_in_a_second():
    fabric = build("rail_optimized", nodes=16_384, gpus_per_node=8, nodes_per_unit=32)
    start = time.process_time()
    folded = quotient(fabric)
    assert time.process_time() - start < 1.0
    assert dict(folded.nodes(data="count")) == {
        "gpu0": 131_072,
        "nvswitch0": 16_384,
        "nic0": 131_072,
        "leaf0": 4_096,
        "spine0": 2,
    }
