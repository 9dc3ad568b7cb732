"""Every fabric family: what is connected to what, and the routes over it, against closed forms at small sizes."""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
from pydantic import ValidationError

from sim.spec.fabrics.graph import Shortest
from sim.spec.sourced import numbers
from sim.spec.topology import FABRICS, Fabric, FabricSpec, Routes, graph

GB = 1e9
PORT = {"bandwidth": 100 * GB, "efficiency": 0.5, "latency": 1e-6}
NIC = {"bandwidth": 20 * GB, "efficiency": 0.5, "latency": 4e-6}
PCIE = {"bandwidth": 60 * GB, "efficiency": 0.5, "latency": 2e-6}
SPINE = {"count": 2, "oversubscription": 2, "efficiency": 0.5, "latency": 0.5e-6}

SMALL: dict[str, dict[str, object]] = {
    "single_node": {"gpus_per_node": 4},
    "rail_optimized": {"nodes": 4, "gpus_per_node": 3, "nodes_per_unit": 2, "pxn": False},
    "fat_tree": {"nodes": 4, "gpus_per_node": 4, "nics_per_node": 2, "nodes_per_leaf": 2},
    "nvl72": {"racks": 2, "trays_per_rack": 3, "gpus_per_tray": 2, "racks_per_unit": 1},
    "three_tier": {"nodes": 4, "gpus_per_node": 2, "nics_per_node": 1, "nodes_per_leaf": 1, "leaves_per_pod": 2},
    "multi_plane": {
        "nodes": 4,
        "gpus_per_node": 2,
        "nics_per_gpu": 1,
        "ports_per_nic": 2,
        "nodes_per_unit": 2,
        "rails_share_planes": True,
        "pxn": False,
    },
    "torus": {"shape": (4, 3), "wrap_around": (True, True)},
    "ring": {"gpus": 6},
    "fully_connected": {"gpus": 5},
    "dragonfly": {
        "nodes": 12,
        "gpus_per_node": 2,
        "nics_per_node": 1,
        "nodes_per_router": 1,
        "routers_per_group": 4,
        "cables_per_pair": 2,
    },
    "pcie_hosts": {"nodes": 4, "gpus_per_node": 4, "gpus_per_switch": 2, "nics_per_node": 1, "nodes_per_leaf": 2},
    "graph": {
        "gpus_per_node": 2,
        "graph": {
            "nodes": [
                *({"id": f"{kind} {n}", "kind": kind} for kind in ("switch", "gpu") for n in range(4)),
                {"id": "far", "kind": "gpu"},
                {"id": "farther", "kind": "gpu"},
            ],
            "edges": [
                {"source": source, "target": target, **PORT}
                for source, target in (
                    ("gpu 0", "switch 0"),
                    ("gpu 1", "switch 0"),
                    ("gpu 2", "switch 3"),
                    ("gpu 3", "switch 3"),
                    ("switch 0", "switch 1"),
                    ("switch 0", "switch 2"),
                    ("switch 1", "switch 3"),
                    ("switch 3", "switch 2"),
                    ("switch 3", "far"),
                    ("far", "farther"),
                )
            ],
        },
    },
}

VARIANTS: dict[str, tuple[str, dict[str, object]]] = {
    **{family: (family, {}) for family in SMALL},
    "one pod": ("three_tier", {"leaves_per_pod": 4}),
    "uneven pods": ("three_tier", {"nodes": 5, "core": SPINE | {"count": 3}}),
    "two NICs a GPU": ("multi_plane", {"nics_per_gpu": 2}),
    "planes of rails": ("multi_plane", {"rails_share_planes": False, "pxn": True, "nics_per_gpu": 2}),
    "3-D torus": ("torus", {"shape": (4, 3, 2), "wrap_around": (True, True, True)}),
    "mesh": ("torus", {"shape": (3, 4, 2), "wrap_around": (False, True, False)}),
    "line": ("torus", {"shape": (1, 5), "wrap_around": (True, False)}),
    "two in a ring": ("ring", {"gpus": 2}),
    "one GPU": ("fully_connected", {"gpus": 1}),
    "two cables for three routers": ("dragonfly", {"nodes": 17, "routers_per_group": 3, "nics_per_node": 2}),
    "one group": ("dragonfly", {"nodes": 3}),
    "NICs on PCIe switches": ("pcie_hosts", {"nics_per_node": 4}),
    "one PCIe switch": ("pcie_hosts", {"gpus_per_switch": 4, "nics_per_node": 2}),
    "hashed rails": ("rail_optimized", {"routing": "ecmp"}),
    "hashed cores": ("three_tier", {"routing": "ecmp", "ecmp_seed": 3}),
    "hashed planes": ("multi_plane", {"routing": "ecmp", "nics_per_gpu": 2}),
    "hashed cables": ("dragonfly", {"routing": "ecmp"}),
    "adaptive": ("fat_tree", {"routing": "adaptive"}),
}
"""What the tests of every family run on: routes are shortest, so rails without PXN."""

PORTS = {"nic": NIC, "pcie": PCIE, "spine": SPINE, "core": SPINE}


def spec(family: str, **overrides: object) -> FabricSpec:
    own = FABRICS[family].model_fields
    ports = [key for key in own if key in (*PORTS, "nvlink", "host", "link", "local_link", "global_link")]
    fields: dict[str, object] = {"name": family, **{key: PORTS.get(key, PORT) for key in ports}, **SMALL[family]}
    fields |= overrides
    nested = [f"{port}.{key}" for port in ports for key in fields[port]]
    unsourced = (*ports, *FABRICS[family].chosen, "name", "routing", "pxn", "rails_share_planes", "wrap_around")
    flat = [key for key in fields if key not in unsourced]
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


@pytest.fixture(params=VARIANTS)
def fabric(request: pytest.FixtureRequest) -> Fabric:
    family, overrides = VARIANTS[request.param]
    return spec(family, **overrides).build()


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
        # A dragonfly crosses one cable between groups, also where two of them would save the local hops.
        tiers = {fabric.links.tiers[tier] for tier in fabric.links.tier[routes.link[rows]].tolist()}
        allowed = 1 if "global" in tiers else 0
        longer = routes.share[rows].sum() - hops[f"gpu{start}"][f"gpu{end}"]
        assert -1e-9 < longer < allowed + 1e-9
        sum_s = (routes.share[rows] * fabric.links.latency_s[routes.link[rows]]).sum()
        assert routes.latency_s[pair] == pytest.approx(sum_s)


def test_a_gpu_reaches_itself_without_a_link(fabric):
    gpus = np.arange(fabric.num_gpus)
    routes = fabric.routes(gpus, gpus)
    assert len(routes.link) == 0
    assert (routes.latency_s == 0).all()


@pytest.mark.parametrize(
    "family", ["single_node", "rail_optimized", "fat_tree", "nvl72", "three_tier", "multi_plane", "dragonfly"]
)
def test_gpus_of_a_node_use_only_nvlink_and_those_of_two_nodes_never(family):
    fabric = spec(family).build()
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


def path_names(fabric: Fabric, source: int, target: int) -> dict[str, float]:
    """Share of a pair's bytes on every link that it crosses, by the names of its ends."""
    routes = fabric.routes(np.array([source]), np.array([target]))
    names = fabric.node_names()
    ends = zip(*(column[routes.link].tolist() for column in (fabric.links.source, fabric.links.target)), strict=True)
    return {
        f"{names[start]}-{names[end]}": share for (start, end), share in zip(ends, routes.share.tolist(), strict=True)
    }


@pytest.mark.parametrize(
    "name",
    [
        name
        for name, (family, changes) in VARIANTS.items()
        if family in ("rail_optimized", "fat_tree", "nvl72", "three_tier", "multi_plane", "graph")
        and changes.get("routing") != "ecmp"
    ],
)
def test_routes_between_nodes_split_evenly_at_each_switch_over_all_shortest_paths(name):
    """Against a walk that knows nothing of families, over the links without NVLink."""
    family, changes = VARIANTS[name]
    fabric = spec(family, **changes).build()
    source, target = all_pairs(fabric)
    is_asked = fabric.node_of(source) != fabric.node_of(target)
    if name == "planes of rails":
        is_asked &= source % fabric.gpus_per_node == target % fabric.gpus_per_node
    source, target = source[is_asked], target[is_asked]
    assert loads_of(fabric.routes(source, target), fabric) == pytest.approx(
        loads_of(shortest(fabric, "nvlink", source, target), fabric), rel=1e-12
    )


def loads_of(routes: Routes, fabric: Fabric) -> np.ndarray:
    """Share of each pair's bytes on each link, (pairs, links)."""
    loads = np.zeros((len(routes.latency_s), len(fabric.links)))
    np.add.at(loads, (routes.pair, routes.link), routes.share)
    return loads


def shortest(fabric: Fabric, without: str, source: np.ndarray, target: np.ndarray) -> Routes:
    """Routes of fewest hops over all links but those of one tier."""
    links = fabric.links
    kept = np.flatnonzero([links.tiers[tier] != without for tier in links.tier.tolist()])
    columns = ("source", "target", "bytes_per_s", "wire_bytes_per_s", "latency_s", "tier")
    links = replace(links, **{name: getattr(links, name)[kept] for name in columns})
    routes = Shortest(links, len(fabric.node_names())).routes(source, target)
    return replace(routes, link=kept[routes.link])


def test_pods_have_spines_and_spines_of_one_number_share_their_cores():
    built = graph(spec("three_tier").build())
    assert kinds(built) == {"gpu": 8, "nvswitch": 4, "nic": 4, "leaf": 4, "spine": 4, "core": 4}
    assert edge_kinds(built)["leaf", "spine"] == 4 * 2
    assert edge_kinds(built)["spine", "core"] == 4 * 2
    assert set(built.successors("leaf2")) == {"nic2", "spine2", "spine3"}
    assert set(built.successors("core1")) == {"spine0", "spine2"}


def test_each_tier_is_oversubscribed_by_its_own_factor():
    core = SPINE | {"count": 4, "oversubscription": 3}
    links = spec("three_tier", nodes_per_leaf=2, nodes=8, core=core).build().links
    rate = {tier: links.wire_bytes_per_s[links.tier == number] for number, tier in enumerate(links.tiers)}
    assert rate["spine"] == pytest.approx(2 * 20 * GB / 2 / 2)
    assert rate["core"] == pytest.approx(2 * rate["spine"][0] / 3 / 4)


def test_a_plane_shares_no_switch_with_another_one():
    built = graph(spec("multi_plane").build())
    assert kinds(built) == {"gpu": 8, "nvswitch": 4, "nic": 8, "leaf": 8, "spine": 4}
    switches = built.subgraph(node for node, kind in built.nodes(data="kind") if kind in ("leaf", "spine"))
    assert sorted(map(len, nx.strongly_connected_components(switches))) == [4 + 2, 4 + 2]
    assert set(built.successors("nic3")) == {"gpu3", "leaf2", "leaf3"}


def test_rails_with_planes_of_their_own_meet_over_nvlink_alone():
    built = graph(spec("multi_plane", rails_share_planes=False, pxn=True, ports_per_nic=1).build())
    assert kinds(built) == {"gpu": 8, "nvswitch": 4, "nic": 8, "leaf": 4, "spine": 4}
    built.remove_nodes_from([f"nvswitch{node}" for node in range(4)])
    assert sorted(map(len, nx.strongly_connected_components(built))) == [12, 12]


def test_bytes_of_a_gpu_use_all_its_ports_evenly():
    shares = path_names(spec("multi_plane", nics_per_gpu=2).build(), 0, 2)
    assert {name: share for name, share in shares.items() if name.startswith(("gpu0", "nic"))} == {
        "gpu0-nic0": 0.5,
        "gpu0-nic1": 0.5,
        **{f"nic{port // 2}-leaf{port}": 0.25 for port in range(4)},
        "nic4-gpu2": 0.5,
        "nic5-gpu2": 0.5,
    }


@pytest.mark.parametrize(
    ("shape", "wrap_around", "num_links"),
    [((4, 3), (True, True), 48), ((4, 3), (False, False), 2 * (9 + 8)), ((4, 4, 4), (True, True, True), 6 * 64)],
)
def test_a_torus_has_a_link_each_way_along_each_dimension(shape, wrap_around, num_links):
    fabric = spec("torus", shape=shape, wrap_around=wrap_around).build()
    assert len(fabric.links) == num_links
    assert fabric.gpus_per_node == shape[0]


def test_a_torus_goes_along_x_first_and_the_shorter_way_around():
    """(0, 0) to (3, 1) in 4 x 3: one hop back over the edge, then one along y."""
    assert path_names(spec("torus").build(), 0, 7) == {"gpu0-gpu3": 1.0, "gpu3-gpu7": 1.0}


def test_halfway_around_both_directions_take_half():
    assert path_names(spec("torus").build(), 1, 3 + 4) == {
        **dict.fromkeys(("gpu1-gpu2", "gpu2-gpu3", "gpu1-gpu0", "gpu0-gpu3"), 0.5),
        "gpu3-gpu7": 1.0,
    }


def test_a_torus_under_uniform_traffic_loads_all_links_of_a_dimension_alike():
    """Mean distance in a ring of 4 is 1: 16 x 16 pairs, 16 x 2 links in each of two dimensions."""
    fabric = spec("torus", shape=(4, 4)).build()
    routes = fabric.routes(*all_pairs(fabric))
    assert np.bincount(routes.link, weights=routes.share) == pytest.approx(np.full(64, 16 * 16 / 32))


def test_groups_of_a_dragonfly_are_joined_by_cables_on_different_routers():
    built = graph(spec("dragonfly").build())
    assert kinds(built) == {"gpu": 24, "nvswitch": 12, "nic": 12, "router": 12}
    far = [(a, b) for a, b, tier in built.edges(data="tier") if tier == "global"]
    assert len(far) == 2 * 3 * 2
    for group in range(3):
        for peer in {0, 1, 2} - {group}:
            ends = [a for a, b in far if int(a[6:]) // 4 == group and int(b[6:]) // 4 == peer]
            assert len(set(ends)) == len(ends) == 2
    assert {built.degree(f"router{router}") for router in range(12)} == {2 * (3 + 1 + 1)}


@pytest.mark.parametrize("name", ["dragonfly", "two cables for three routers", "hashed cables"])
def test_a_dragonfly_crosses_one_cable_between_groups_and_the_routers_that_save_local_hops(name):
    family, changes = VARIANTS[name]
    described = spec(family, **changes)
    fabric = described.build()
    size = changes.get("routers_per_group", 4)
    source, target = all_pairs(fabric)
    router = source // 2, target // 2
    routes = fabric.routes(source, target)
    hops = {
        tier: np.bincount(
            routes.pair,
            weights=routes.share * (fabric.links.tier[routes.link] == fabric.links.tiers.index(tier)),
            minlength=len(source),
        )
        for tier in ("local", "global")
    }
    is_far = router[0] // size != router[1] // size
    assert hops["global"] == pytest.approx(is_far.astype(float))
    assert hops["local"][~is_far] == pytest.approx((router[0] != router[1])[~is_far].astype(float))
    built = graph(fabric)
    cables = [(int(a[6:]), int(b[6:])) for a, b, tier in built.edges(data="tier") if tier == "global"]
    for pair in np.flatnonzero(is_far).tolist():
        start, end = int(router[0][pair]), int(router[1][pair])
        between = [(a, b) for a, b in cables if (a // size, b // size) == (start // size, end // size)]
        assert hops["local"][pair] == pytest.approx(min((a != start) + (b != end) for a, b in between))


def test_four_gpus_share_a_nic_behind_the_root_complex():
    fabric = spec("pcie_hosts").build()
    assert path_names(fabric, 0, 1) == dict.fromkeys(("gpu0-pcieswitch0", "pcieswitch0-gpu1"), 1.0)
    assert set(path_names(fabric, 3, 4)) == {
        *("gpu3-pcieswitch1", "pcieswitch1-root0", "root0-nic0", "nic0-leaf0"),
        *("leaf0-nic1", "nic1-root1", "root1-pcieswitch2", "pcieswitch2-gpu4"),
    }
    nics = {name for gpu in range(4) for name in path_names(fabric, gpu, 4) if name.startswith("nic0-")}
    assert nics == {"nic0-leaf0"}


def test_nics_of_pcie_switches_are_reached_without_the_root_complex():
    fabric = spec("pcie_hosts", nics_per_node=2).build()
    assert not any("root" in name for name in path_names(fabric, 0, 6))
    assert "pcieswitch1-nic1" in path_names(fabric, 2, 6)


@pytest.mark.parametrize(
    ("family", "overrides", "expected"),
    [
        ("three_tier", {"nic": NIC | {"bandwidth": 30 * GB}}, 2 * 15 * GB / 2 / 2),
        ("three_tier", {"core": SPINE | {"oversubscription": 1}}, 2 * 10 * GB / 2),
        ("multi_plane", {}, 8 * 10 * GB / 2),
        ("torus", {"shape": (4, 4)}, 2 * 4 * 50 * GB),
        ("torus", {"shape": (4, 4, 4), "wrap_around": (True, True, False)}, 16 * 50 * GB),
        ("ring", {}, 2 * 50 * GB),
        ("fully_connected", {"gpus": 6}, 9 * 50 * GB),
        ("dragonfly", {"nodes": 8, "nic": PORT}, 2 * 50 * GB),
        ("pcie_hosts", {}, 2 * 10 * GB / 2),
        ("pcie_hosts", {"nodes": 1}, 50 * GB),
    ],
)
def test_bisection_of_other_families_equals_its_closed_form(family, overrides, expected):
    assert bisection_bytes_per_s(spec(family, **overrides).build()) == pytest.approx(expected)


BIG = {
    "three_tier": {"nodes": 2048, "gpus_per_node": 8, "nics_per_node": 8, "nodes_per_leaf": 2, "leaves_per_pod": 192},
    "multi_plane": {"nodes": 2048, "gpus_per_node": 8, "nodes_per_unit": 32},
    "torus": {"shape": (32, 32, 16), "wrap_around": (True, True, True)},
    "ring": {"gpus": 16_384},
    "dragonfly": {"nodes": 4096, "gpus_per_node": 4, "nodes_per_router": 8, "routers_per_group": 16},
    "pcie_hosts": {"nodes": 2048, "gpus_per_node": 8, "nodes_per_leaf": 16},
}


@pytest.mark.parametrize("family", BIG)
@pytest.mark.parametrize("routing", ["spread", "ecmp"])
def test_other_families_build_sixteen_thousand_gpus_fast(family, routing):
    changes = {"routing": routing} if "routing" in FABRICS[family].model_fields else {}
    described = spec(family, **BIG[family] | changes)
    start = time.perf_counter()
    fabric = described.build()
    source = np.arange(fabric.num_gpus)
    fabric.routes(source, (source + 8) % fabric.num_gpus)
    assert time.perf_counter() - start < 0.5
    assert fabric.num_gpus == 16_384


@pytest.mark.parametrize(
    ("family", "overrides", "message"),
    [
        ("three_tier", {"nics_per_node": 3}, "got 3 NICs for 2 GPUs"),
        ("three_tier", {"core": SPINE | {"count": 10**9}}, "too many links between 4 leaves"),
        ("multi_plane", {"rails_share_planes": False}, "pxn must be true"),
        ("multi_plane", {"ports_per_nic": 10**9}, "too many GPUs"),
        ("torus", {"shape": (4, 3, 2)}, r"wrap_around needs a value for each dimension \(got 2 for 3\)"),
        ("torus", {"shape": (2**15, 2**15)}, "too many GPUs"),
        ("torus", {"shape": (4,)}, "at least 2"),
        ("ring", {"gpus": 2**21}, "too many GPUs"),
        ("fully_connected", {"gpus": 3000}, "got 3000 GPUs, allowed up to 2048"),
        ("dragonfly", {"cables_per_pair": 5}, "got 5 cables for 4 routers"),
        ("dragonfly", {"nics_per_node": 3}, "got 3 NICs for 2 GPUs"),
        ("pcie_hosts", {"gpus_per_switch": 3}, r"gpus_per_switch must divide gpus_per_node \(got 3 for 4 GPUs\)"),
        ("pcie_hosts", {"gpus_per_node": 12, "gpus_per_switch": 6, "nics_per_node": 3}, "got 3 NICs for 2 switches"),
        ("fat_tree", {"routing": "flood"}, "'spread', 'adaptive' or 'ecmp'"),
        ("fat_tree", {"ecmp_seed": 1}, "ecmp_seed has no effect with routing: spread"),
        ("graph", {"gpus_per_node": 4}, r"gpus_per_node must divide the GPUs of the graph \(got 4 of 6\)"),
    ],
)
def test_impossible_numbers_of_other_families_are_refused(family, overrides, message):
    with pytest.raises(ValidationError, match=message):
        spec(family, **overrides)


def hashed(**changes: object) -> tuple[Fabric, Fabric]:
    """Rails with eight spines, and the same with a hash."""
    shape = {"nodes": 32, "gpus_per_node": 4, "nodes_per_unit": 4, "spine": SPINE | {"count": 8}}
    whole, one = (spec("rail_optimized", **shape, **more) for more in ({}, {"routing": "ecmp", **changes}))
    return whole.build(), one.build()


def test_a_hash_sends_all_bytes_of_a_pair_over_one_of_its_paths():
    whole, one = hashed()
    source, target = all_pairs(whole)
    spread, chosen = loads_of(whole.routes(source, target), whole), loads_of(one.routes(source, target), one)
    assert set(chosen[chosen > 0]) == {1.0}
    assert (spread[chosen > 0] > 0).all()
    assert chosen.sum(axis=1) == pytest.approx(spread.sum(axis=1))
    assert one.routes(source, target).latency_s == pytest.approx(whole.routes(source, target).latency_s)


def test_a_pair_takes_the_same_path_whoever_is_asked_with_it():
    _, one = hashed()
    source, target = all_pairs(one)
    all_loads = loads_of(one.routes(source, target), one)
    some = np.random.default_rng(0).permutation(len(source))[:50]
    assert (loads_of(one.routes(source[some], target[some]), one) == all_loads[some]).all()


def test_hashed_pairs_collide_as_balls_in_bins():
    """Eight flows of a leaf onto eight spines: the fullest has 2.6 of them in the mean; with seven or more 1 % do."""
    draws = np.random.default_rng(0).integers(0, 8, (100_000, 4))
    expected = np.mean([np.bincount(draw, minlength=8).max() for draw in draws[:20_000]])
    fullest = []
    for seed in range(40):
        _, one = hashed(ecmp_seed=seed)
        source = np.arange(one.num_gpus)
        loads = loads_of(one.routes(source, (source + 16) % one.num_gpus), one).sum(axis=0)
        spine = one.links.tiers.index("spine")
        up = (one.links.tier == spine) & (one.links.source < one.links.target)
        fullest.append(loads[up].reshape(-1, 8).max(axis=1).mean())
    assert np.mean(fullest) == pytest.approx(expected, rel=0.03)


def test_pairs_on_a_spine_are_as_many_as_a_fair_draw_gives():
    _, one = hashed()
    loads = loads_of(one.routes(*all_pairs(one)), one).sum(axis=0)
    used = loads[one.links.tier == one.links.tiers.index("spine")]
    pairs = 8 * used.mean()
    assert used.std() == pytest.approx(np.sqrt(pairs * 1 / 8 * 7 / 8), rel=0.15)


def test_another_seed_is_another_hash_and_no_seed_is_zero():
    (_, none), (_, zero), (_, one) = hashed(), hashed(ecmp_seed=0), hashed(ecmp_seed=1)
    source, target = all_pairs(none)
    loads = [loads_of(fabric.routes(source, target), fabric) for fabric in (none, zero, one)]
    assert (loads[0] == loads[1]).all()
    assert not (loads[0] == loads[2]).all()


def test_gpus_that_share_their_nics_share_their_path():
    fabric = spec("fat_tree", routing="ecmp", spine=SPINE | {"count": 16}).build()
    paths = [{n: s for n, s in path_names(fabric, a, b).items() if "spine" in n} for a in (0, 1) for b in (8, 9)]
    assert len(paths[0]) == 2
    assert all(path == paths[0] for path in paths)


def test_ports_of_a_gpu_are_hashed_each_for_itself():
    fabric = spec("multi_plane", routing="ecmp", nics_per_gpu=2, spine=SPINE | {"count": 8}).build()
    shares = path_names(fabric, 0, 4)
    assert sorted(share for name, share in shares.items() if "spine" in name) == [0.25] * 8


def test_adaptive_routing_is_the_even_spread():
    fabrics = [spec("fat_tree", routing=routing).build() for routing in ("spread", "adaptive")]
    source, target = all_pairs(fabrics[0])
    loads = [loads_of(fabric.routes(source, target), fabric) for fabric in fabrics]
    assert (loads[0] == loads[1]).all()


@pytest.mark.parametrize(
    ("family", "shape"), [("rail_optimized", {}), ("multi_plane", {}), ("multi_plane", {"rails_share_planes": False})]
)
def test_pxn_goes_over_nvlink_to_the_rail_of_the_target_and_changes_no_other_pair(family, shape):
    with_pxn = spec(family, **shape, pxn=True).build()
    without = spec(family, pxn=False).build()
    source, target = all_pairs(with_pxn)
    size = with_pxn.gpus_per_node
    changes_rail = (source // size != target // size) & (source % size != target % size)
    loads = loads_of(with_pxn.routes(source, target), with_pxn)
    if with_pxn.num_gpus == without.num_gpus and not shape:
        stays = ~changes_rail
        plain = loads_of(without.routes(source[stays], target[stays]), without)
        assert (loads[stays] == plain).all()
    proxy = source // size * size + target % size
    for first, second in ((source, proxy), (proxy, target)):
        part = loads_of(with_pxn.routes(first[changes_rail], second[changes_rail]), with_pxn)
        loads[changes_rail] -= part
    assert loads[changes_rail] == pytest.approx(0)


def test_pxn_keeps_rails_of_a_unit_off_the_spines():
    shares = path_names(spec("rail_optimized", pxn=True).build(), 0, 4)
    assert list(shares.values()) == [1.0] * 6
    assert set(shares) == {
        *("gpu0-nvswitch0", "nvswitch0-gpu1", "gpu1-nic1", "nic1-leaf1", "leaf1-nic4", "nic4-gpu4"),
    }


def test_rails_have_pxn_by_default_as_nccl():
    assert FABRICS["rail_optimized"].model_fields["pxn"].default is True
    assert FABRICS["multi_plane"].model_fields["pxn"].default is True


def test_a_pxn_step_takes_one_step_of_nvlink_longer():
    routes = [spec("rail_optimized", pxn=pxn).build().routes(np.array([0]), np.array([4])) for pxn in (True, False)]
    assert routes[0].latency_s == pytest.approx([2 * 1e-6 + 12e-6])
    assert routes[1].latency_s == pytest.approx([12e-6 + 2 * 0.5e-6])


DIAMOND = SMALL["graph"]["graph"]


def test_a_graph_numbers_gpus_in_the_order_of_the_file_and_every_kind_from_zero():
    fabric = spec("graph").build()
    assert fabric.node_names() == [*(f"gpu{n}" for n in range(6)), *(f"switch{n}" for n in range(4))]
    assert fabric.links.tiers == ("gpu_switch", "switch_switch", "gpu_gpu")
    assert len(fabric.links) == 2 * len(DIAMOND["edges"])


def test_a_graph_splits_bytes_over_equal_paths_and_passes_through_gpus():
    fabric = spec("graph").build()
    shares = path_names(fabric, 0, 5)
    halves = ("switch0-switch1", "switch1-switch3", "switch0-switch2", "switch2-switch3")
    assert shares == {
        "gpu0-switch0": 1.0,
        **dict.fromkeys(halves, 0.5),
        "switch3-gpu4": 1.0,
        "gpu4-gpu5": 1.0,
    }


def test_a_directed_graph_has_the_links_that_stand_in_it():
    ring = {
        "directed": True,
        "nodes": [{"id": str(n), "kind": "gpu"} for n in range(3)],
        "edges": [{"source": str(n), "target": str((n + 1) % 3), **PORT, "tier": "loop"} for n in range(3)],
    }
    fabric = spec("graph", gpus_per_node=3, graph=ring).build()
    assert path_names(fabric, 0, 2) == {"gpu0-gpu1": 1.0, "gpu1-gpu2": 1.0}
    assert fabric.links.tiers == ("loop",)


def changed(key: str, place: int, **values: object) -> dict[str, object]:
    """The diamond with values of one node or edge changed; None leaves one out."""
    rows = [dict(row) for row in DIAMOND[key]]
    rows[place] = {name: value for name, value in (rows[place] | values).items() if value is not None}
    return DIAMOND | {key: rows}


MISTAKES = [
    (changed("nodes", 4, kind="GPU 4"), "node 'gpu 0': kind: .*got 'GPU 4'"),
    (changed("nodes", 4, kind=None), "node 'gpu 0': kind: missing (allowed id, kind)"),
    (changed("nodes", 4, colour="red"), "node 'gpu 0': colour: unknown attribute"),
    (changed("edges", 2, bandwidth="12 parsecs"), "edge 'gpu 2' to 'switch 3': bandwidth: got '12 parsecs'"),
    (changed("edges", 2, bandwidth=None), "edge 'gpu 2' to 'switch 3': bandwidth: missing"),
    (changed("edges", 2, latency="-1 us"), "edge 'gpu 2' to 'switch 3': latency: got '-1 us'"),
    (changed("edges", 2, efficiency=1.5), "edge 'gpu 2' to 'switch 3': efficiency: .*got 1.5"),
]
WRONG = [
    (changed("edges", 2, target="switch 9"), "edge 'gpu 2' to 'switch 9': target is no node"),
    (changed("edges", 2, target="gpu 2"), "joins a node to itself"),
    (changed("edges", 2, source="gpu 3"), "edge 'gpu 3' to 'switch 3': stands twice"),
    (changed("nodes", 5, id="gpu 0"), "node 'gpu 0' stands twice"),
    (DIAMOND | {"edges": DIAMOND["edges"][:-1]}, "the graph is in parts: node 'farther'"),
    (DIAMOND | {"nodes": DIAMOND["nodes"][:4], "edges": []}, "no node is a GPU (got kinds switch, allowed kind 'gpu')"),
]


@pytest.mark.parametrize(("wrong", "message"), WRONG)
def test_a_wrong_graph_is_refused_by_node_and_edge(wrong, message):
    with pytest.raises(ValidationError) as caught:
        spec("graph", graph=wrong)
    assert message in str(caught.value)


@pytest.mark.parametrize("suffix", ["json", "graphml"])
@pytest.mark.parametrize("key", ["links", "edges"])
def test_a_graph_is_read_from_a_file(suffix, key, tmp_path):
    path = tmp_path / f"own.{suffix}"
    write(DIAMOND, path, key)
    read, inline = spec("graph", graph=str(path)), spec("graph")
    assert read.graph.nodes == inline.graph.nodes
    assert cables_of(read) == cables_of(inline)
    assert "own" not in read.model_dump_json()


def cables_of(described: FabricSpec) -> set[tuple[frozenset[str], float, float, float]]:
    edges = described.graph.edges
    return {(frozenset((e.source, e.target)), e.bytes_per_s, e.latency_s, e.efficiency) for e in edges}


@pytest.mark.parametrize("suffix", ["json", "graphml"])
@pytest.mark.parametrize(("wrong", "message"), MISTAKES)
def test_a_mistake_in_a_file_names_file_node_or_edge_and_attribute(suffix, wrong, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(wrong, tmp_path / f"own.{suffix}", "links")
    with pytest.raises(ValidationError) as caught:
        spec("graph", graph=f"own.{suffix}")
    told = str(caught.value).replace("edge 'switch 3' to 'gpu 2'", "edge 'gpu 2' to 'switch 3'")
    for part in message.split(".*"):
        assert part in told
    assert f"own.{suffix}: " in told


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("own.yaml", "", "allowed a path that ends with .graphml or .json"),
        ("none.json", None, "no such file (got 'none.json'"),
        ("own.json", "{", "own.json: no JSON"),
        ("own.json", "[]", "own.json: wrong type (got list"),
        ("own.json", '{"nodes": [1]}', "own.json: nodes: missing or of a wrong type"),
        ("own.json", '{"nodes": []}', "own.json: edges: missing"),
        ("own.json", '{"vertices": []}', "own.json: unknown attribute (got 'vertices'"),
        ("own.json", '{"nodes": [], "edges": [], "directed": 1}', "own.json: directed: wrong type (got 1"),
        ("own.graphml", "<graphml", "own.graphml: no GraphML"),
        ("own.graphml", "<html/>", "own.graphml: no GraphML"),
    ],
)
def test_a_file_that_is_no_graph_is_refused(name, content, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(ValidationError) as caught:
        spec("graph", graph=name)
    assert message in str(caught.value)


def write(described: dict[str, object], path: Path, key: str) -> None:
    """As JSON by hand, as GraphML by NetworkX."""
    if path.suffix == ".json":
        path.write_text(json.dumps({"nodes": described["nodes"], key: described["edges"]}))
        return
    built = nx.Graph()
    for node in described["nodes"]:
        built.add_node(node["id"], **{name: value for name, value in node.items() if name != "id"})
    for edge in described["edges"]:
        ends = ("source", "target")
        built.add_edge(edge["source"], edge["target"], **{n: value for n, value in edge.items() if n not in ends})
    nx.write_graphml(built, path)
