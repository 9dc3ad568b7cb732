"""Every fabric family: what is connected to what, and the routes over it, against closed forms at small sizes."""

from __future__ import annotations

import time
from collections import Counter
from itertools import pairwise

import networkx as nx
import numpy as np
import pytest
from pydantic import ValidationError

from sim.spec.sourced import numbers
from sim.spec.topology import FABRICS, Fabric, FabricSpec, graph

GB = 1e9
PORT = {"bandwidth": 100 * GB, "efficiency": 0.5, "latency": 1e-6}
NIC = {"bandwidth": 20 * GB, "efficiency": 0.5, "latency": 4e-6}
PCIE = {"bandwidth": 60 * GB, "efficiency": 0.5, "latency": 2e-6}
SPINE = {"count": 2, "oversubscription": 2, "efficiency": 0.5, "latency": 0.5e-6}

SMALL = {
    "single_node": {"gpus_per_node": 4},
    "rail_optimized": {"nodes": 4, "gpus_per_node": 3, "nodes_per_unit": 2},
    "fat_tree": {"nodes": 4, "gpus_per_node": 4, "nics_per_node": 2, "nodes_per_leaf": 2},
    "nvl72": {"racks": 2, "trays_per_rack": 3, "gpus_per_tray": 2, "racks_per_unit": 1},
}


def spec(family: str, **overrides: object) -> FabricSpec:
    fields: dict[str, object] = {"name": family, "nvlink": PORT, **SMALL[family]}
    if family != "single_node":
        fields |= {"nic": NIC, "pcie": PCIE, "spine": SPINE}
    fields |= overrides
    ports = ("nvlink", "nic", "pcie", "spine")
    nested = [f"{port}.{key}" for port in ports if port in fields for key in fields[port]]
    flat = [key for key in fields if key not in (*ports, "name", "nodes", "racks")]
    return FABRICS[family](sources=dict.fromkeys([*flat, *nested], "this test"), **fields)


def all_pairs(fabric: Fabric) -> tuple[np.ndarray, np.ndarray]:
    gpus = np.arange(fabric.num_gpus)
    return np.repeat(gpus, len(gpus)), np.tile(gpus, len(gpus))


def kinds(built: nx.DiGraph) -> Counter:
    return Counter(kind for _, kind in built.nodes(data="kind"))


def edge_kinds(built: nx.DiGraph) -> Counter:
    kind = built.nodes(data="kind")
    return Counter((kind[source], kind[target]) for source, target in built.edges)


def bisection_bytes_per_s(fabric: Fabric) -> float:
    """Maximum flow from the first half of the GPUs to the other."""
    built = graph(fabric)
    for gpu in range(fabric.num_gpus):
        if gpu < fabric.num_gpus // 2:
            built.add_edge("first", f"gpu{gpu}")
        else:
            built.add_edge(f"gpu{gpu}", "second")
    return nx.maximum_flow_value(built, "first", "second", capacity="bytes_per_s")


@pytest.fixture(params=sorted(SMALL))
def fabric(request: pytest.FixtureRequest) -> Fabric:
    return spec(request.param).build()


def test_every_family_is_tested_here():
    assert set(SMALL) == set(FABRICS)


def test_a_fabric_is_strongly_connected(fabric):
    assert nx.is_strongly_connected(graph(fabric))


def test_ranks_are_contiguous_from_zero_and_fill_node_after_node(fabric):
    names = fabric.node_names()
    assert names[: fabric.num_gpus] == [f"gpu{rank}" for rank in range(fabric.num_gpus)]
    assert not any(name.startswith("gpu") for name in names[fabric.num_gpus :])
    servers = [graph(fabric).nodes[name]["server"] for name in names[: fabric.num_gpus]]
    assert servers == [rank // fabric.gpus_per_node for rank in range(fabric.num_gpus)]
    assert len(set(names)) == len(names)


def test_switches_and_nics_of_a_node_are_built_into_it_and_leaves_and_spines_into_none():
    server = graph(spec("fat_tree").build()).nodes(data="server")
    assert [server[f"nvswitch{node}"] for node in range(4)] == [0, 1, 2, 3]
    assert [server[f"nic{nic}"] for nic in range(8)] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert {server[name] for name in ("leaf0", "leaf1", "spine0", "spine1")} == {None}


def test_every_link_stands_once_and_has_its_way_back(fabric):
    pairs = list(zip(fabric.links.source.tolist(), fabric.links.target.tolist(), strict=True))
    assert len(set(pairs)) == len(pairs)
    assert set(pairs) == {(target, source) for source, target in pairs}


def test_edges_of_the_graph_carry_the_columns_of_the_links(fabric):
    built = graph(fabric)
    names = fabric.node_names()
    links = fabric.links
    assert built.number_of_edges() == len(links)
    for number in range(len(links)):
        edge = built.edges[names[links.source[number]], names[links.target[number]]]
        assert edge["bytes_per_s"] == links.bytes_per_s[number] == pytest.approx(0.5 * edge["wire_bytes_per_s"])
        assert edge["latency_s"] == links.latency_s[number]
        assert edge["tier"] == links.tiers[links.tier[number]]


def test_routes_are_connected_paths_from_source_to_target(fabric):
    source, target = all_pairs(fabric)
    routes = fabric.routes(source, target)
    links = fabric.links
    for pair in range(len(source)):
        rows = routes.link[routes.pair == pair]
        path = nx.DiGraph(list(zip(links.source[rows].tolist(), links.target[rows].tolist(), strict=True)))
        assert path.number_of_edges() == len(rows)
        if source[pair] != target[pair]:
            used = {edge for way in nx.all_simple_paths(path, source[pair], target[pair]) for edge in pairwise(way)}
            assert used == set(path.edges)


def test_bytes_that_enter_a_switch_on_a_route_leave_it_again(fabric):
    source, target = all_pairs(fabric)
    routes = fabric.routes(source, target)
    num_nodes = len(fabric.node_names())
    balance = np.zeros((len(source), num_nodes))
    np.add.at(balance, (routes.pair, fabric.links.source[routes.link]), routes.share)
    np.add.at(balance, (routes.pair, fabric.links.target[routes.link]), -routes.share)
    expected = np.zeros_like(balance)
    differ = np.flatnonzero(source != target)
    expected[differ, source[differ]] = 1
    expected[differ, target[differ]] = -1
    assert balance == pytest.approx(expected)


def test_routes_are_as_short_as_any_and_their_latency_is_the_sum_over_the_hops(fabric):
    built = graph(fabric)
    hops = dict(nx.all_pairs_shortest_path_length(built))
    source, target = all_pairs(fabric)
    routes = fabric.routes(source, target)
    for pair, (start, end) in enumerate(zip(source.tolist(), target.tolist(), strict=True)):
        rows = routes.pair == pair
        assert routes.share[rows].sum() == pytest.approx(hops[f"gpu{start}"][f"gpu{end}"])
        sum_s = (routes.share[rows] * fabric.links.latency_s[routes.link[rows]]).sum()
        assert routes.latency_s[pair] == pytest.approx(sum_s)


def test_a_gpu_reaches_itself_without_a_link(fabric):
    gpus = np.arange(fabric.num_gpus)
    routes = fabric.routes(gpus, gpus)
    assert len(routes.link) == 0
    assert (routes.latency_s == 0).all()


def test_gpus_of_a_node_use_only_nvlink_and_those_of_two_nodes_never(fabric):
    source, target = all_pairs(fabric)
    routes = fabric.routes(source, target)
    is_nvlink = fabric.links.tier[routes.link] == fabric.links.tiers.index("nvlink")
    is_local = fabric.node_of(source) == fabric.node_of(target)
    assert (is_nvlink == is_local[routes.pair]).all()


def test_a_single_node_is_a_star_of_gpus_around_one_switch():
    built = graph(spec("single_node", gpus_per_node=8).build())
    assert kinds(built) == {"gpu": 8, "nvswitch": 1}
    assert Counter(dict(built.out_degree()).values()) == {1: 8, 8: 1}


def test_rails_have_a_nic_for_each_gpu_and_a_leaf_for_each_rail_of_a_unit():
    built = graph(spec("rail_optimized", nodes=5).build())
    assert kinds(built) == {"gpu": 15, "nvswitch": 5, "nic": 15, "leaf": 9, "spine": 2}
    assert edge_kinds(built) == {
        ("gpu", "nvswitch"): 15,
        ("nvswitch", "gpu"): 15,
        ("gpu", "nic"): 15,
        ("nic", "gpu"): 15,
        ("nic", "leaf"): 15,
        ("leaf", "nic"): 15,
        ("leaf", "spine"): 18,
        ("spine", "leaf"): 18,
    }
    assert Counter(built.out_degree(f"leaf{leaf}") for leaf in range(9)) == {2 + 2: 6, 1 + 2: 3}
    assert set(built.successors("leaf4")) == {"nic7", "nic10", "spine0", "spine1"}


def test_fat_tree_nodes_share_nics_between_neighbours_and_hang_on_one_leaf():
    built = graph(spec("fat_tree", nodes=3).build())
    assert kinds(built) == {"gpu": 12, "nvswitch": 3, "nic": 6, "leaf": 2, "spine": 2}
    assert Counter(dict(built.out_degree()).values()) == {
        2: 12 + 2,  # GPUs (switch, NIC); spines (two leaves)
        3: 6,  # NICs: two GPUs and a leaf
        4: 3 + 1,  # switches with four GPUs; the half-empty leaf with two NICs and two spines
        6: 1,  # the full leaf: four NICs, two spines
    }
    assert set(built.predecessors("nic3")) == {"gpu6", "gpu7", "leaf0"}


def test_a_rack_is_one_nvlink_domain_whose_trays_repeat_the_rails():
    fabric = spec("nvl72", trays_per_rack=18, gpus_per_tray=4).build()
    built = graph(fabric)
    assert fabric.gpus_per_node == 72
    assert kinds(built) == {"gpu": 144, "nvswitch": 2, "nic": 144, "leaf": 8, "spine": 2}
    assert {built.out_degree(f"leaf{leaf}") for leaf in range(8)} == {18 + 2}
    assert set(built.successors("nic75")) == {"gpu75", "leaf7"}


def test_gpus_of_one_rail_and_unit_meet_at_the_leaf_and_others_cross_every_spine_evenly():
    fabric = spec("rail_optimized").build()
    routes = fabric.routes(np.array([0, 0, 0]), np.array([3, 4, 6]))
    assert np.bincount(routes.pair).tolist() == [4, 4 + 2 * 2, 4 + 2 * 2]
    assert sorted(routes.share[routes.pair == 1].tolist()) == [0.5] * 4 + [1.0] * 4
    assert routes.latency_s == pytest.approx([12e-6, 13e-6, 13e-6])


def test_oversubscription_divides_what_a_leaf_sends_up():
    links = spec("fat_tree", spine=SPINE | {"count": 5, "oversubscription": 4}).build().links
    is_up = links.tier == links.tiers.index("spine")
    assert links.wire_bytes_per_s[is_up] == pytest.approx(4 * 20 * GB / 4 / 5)


@pytest.mark.parametrize(
    ("family", "overrides", "expected"),
    [
        ("single_node", {}, 2 * 50 * GB),
        ("rail_optimized", {"spine": SPINE | {"oversubscription": 1}}, 6 * 10 * GB),
        ("rail_optimized", {}, 6 * 10 * GB / 2),
        ("rail_optimized", {"nodes_per_unit": 4}, 6 * 10 * GB),
        ("fat_tree", {"spine": SPINE | {"oversubscription": 1}}, 4 * 10 * GB),
        ("fat_tree", {"spine": SPINE | {"oversubscription": 4}}, 4 * 10 * GB / 4),
        ("fat_tree", {"nics_per_node": 4, "nic": NIC | {"bandwidth": 100 * GB}, "nodes_per_leaf": 4}, 8 * 30 * GB),
        ("nvl72", {}, 6 * 10 * GB / 2),
        ("nvl72", {"racks_per_unit": 2}, 6 * 10 * GB),
        ("nvl72", {"racks": 4, "racks_per_unit": 2}, 12 * 10 * GB / 2),
    ],
)
def test_bisection_is_the_narrowest_of_nics_pcie_and_uplinks_of_half_the_gpus(family, overrides, expected):
    assert bisection_bytes_per_s(spec(family, **overrides).build()) == pytest.approx(expected)


def test_sixteen_thousand_gpus_are_built_and_routed_fast():
    rails = spec("rail_optimized", nodes=2048, gpus_per_node=8, nodes_per_unit=32)
    start = time.perf_counter()
    fabric = rails.build()
    source = np.arange(100_000) % fabric.num_gpus
    routes = fabric.routes(source, (source + 8) % fabric.num_gpus)
    assert time.perf_counter() - start < 0.3
    assert fabric.num_gpus == 16_384
    assert len(fabric.links) == 6 * 16_384 + 2 * 512 * 2
    assert len(np.unique(routes.pair)) == 100_000


@pytest.mark.parametrize(
    ("family", "overrides", "message"),
    [
        ("fat_tree", {"nics_per_node": 3}, "got 3 NICs for 4 GPUs"),
        ("single_node", {"gpus_per_node": 2**20 + 1}, "allowed up to 1048576"),
        ("rail_optimized", {"nodes": 10**12}, "too many GPUs"),
        ("nvl72", {"racks": 10**12}, "too many GPUs"),
        ("fat_tree", {"spine": SPINE | {"count": 10**9}}, "too many links between 2 leaves and 1000000000 spines"),
        ("rail_optimized", {"spine": SPINE | {"count": 10**9}}, "too many links between 6 leaves"),
        ("nvl72", {"spine": SPINE | {"count": 10**9}}, "too many links between 4 leaves"),
        ("single_node", {"gpus_per_node": 0}, "greater than or equal to 1"),
        ("fat_tree", {"spine": SPINE | {"oversubscription": 0}}, "greater than 0"),
        ("single_node", {"nvlink": PORT | {"efficiency": 1.1}}, "less than or equal to 1"),
    ],
)
def test_impossible_numbers_are_refused(family, overrides, message):
    with pytest.raises(ValidationError, match=message):
        spec(family, **overrides)


def test_a_number_without_a_source_is_refused():
    fields = spec("single_node").model_dump(by_alias=True)
    del fields["sources"]["nvlink.latency"]
    with pytest.raises(ValidationError, match=r"no source for nvlink\.latency"):
        FABRICS["single_node"](**fields)


def test_a_source_or_estimate_of_no_number_is_refused():
    fields = spec("single_node").model_dump(by_alias=True)
    with pytest.raises(ValidationError, match=r"name nothing of .*: nvlink\.jitter"):
        FABRICS["single_node"](**fields | {"estimated": ["nvlink.jitter"]})
    with pytest.raises(ValidationError, match=r"name nothing of .*: nodes"):
        FABRICS["single_node"](**fields | {"sources": fields["sources"] | {"nodes": "a guess"}})


def test_numbers_are_named_by_the_keys_of_the_file():
    assert numbers(spec("single_node")) == {
        "gpus_per_node": 4,
        "nvlink.bandwidth": 100 * GB,
        "nvlink.efficiency": 0.5,
        "nvlink.latency": 1e-6,
    }
