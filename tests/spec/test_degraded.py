"""Degraded and broken cables: rates in both directions, traffic around what is broken, and where there is no way."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.errors import SimError
from sim.spec.degraded import BROKEN_BYTES_PER_S, Degraded, cables, degraded
from sim.spec.fabrics.graph import Shortest
from sim.spec.fabrics.routing import Hashed
from sim.spec.topology import FABRICS, Fabric, Routes

SPINES = 4
PORT = {"bandwidth": 100e9, "efficiency": 0.5, "latency": 1e-6}


def rails(nodes: int = 4, spines: int = SPINES, gpus: int = 2, nodes_per_unit: int = 2, **routing: object) -> Fabric:
    """Four nodes of two GPUs, two nodes a unit: leaf u x 2 + r is rail r of unit u; GPU i has NIC i. Without PXN."""
    fields = {
        "pxn": False,
        **routing,
        "nodes": nodes,
        "gpus_per_node": gpus,
        "nodes_per_unit": nodes_per_unit,
        **dict.fromkeys(("nvlink", "pcie", "nic"), PORT),
        "spine": {"count": spines, "oversubscription": 1, "efficiency": 0.5, "latency": 1e-6},
    }
    ports = ("nvlink", "pcie", "nic", "spine")
    sourced = ["gpus_per_node", "nodes_per_unit"]
    sourced += [f"{port}.{key}" for port in ports for key in fields[port]]
    return FABRICS["rail_optimized"](name="rails", sources=dict.fromkeys(sourced, "this test"), **fields).build()


WHOLE = rails()
NAMES = WHOLE.node_names()


def pair(fabric: Fabric, source: int, target: int) -> Routes:
    return fabric.routes(np.array([source]), np.array([target]))


def shares(fabric: Fabric, source: int, target: int) -> dict[str, float]:
    """Share of a pair's bytes on every link that it crosses."""
    routes = pair(fabric, source, target)
    ends = fabric.links.source[routes.link], fabric.links.target[routes.link]
    names = [f"{NAMES[low]}-{NAMES[high]}" for low, high in zip(*(end.tolist() for end in ends), strict=True)]
    return dict(zip(names, routes.share.tolist(), strict=True))


def refusal(fabric: Fabric, links: dict[str, float], source: int, target: int) -> list[str]:
    with pytest.raises(SimError) as caught:
        pair(degraded(fabric, links), source, target)
    return [str(problem) for problem in caught.value.problems]


def mistakes(*links: str) -> list[str]:
    with pytest.raises(SimError) as caught:
        degraded(WHOLE, dict.fromkeys(links, 0.5))
    return [str(problem) for problem in caught.value.problems]


def test_a_fabric_without_conditions_is_itself():
    assert degraded(WHOLE, {}) is WHOLE


@pytest.mark.parametrize("name", ["gpu3-nvswitch1", "gpu3-nic3", "nic3-leaf1", "leaf1-spine2"])
def test_a_cable_keeps_its_share_in_both_directions_and_either_order_of_its_ends(name):
    first, second = name.split("-")
    for called in (name, f"{second}-{first}"):
        links = degraded(WHOLE, {called: 0.25}).links
        changed = np.flatnonzero(links.bytes_per_s != WHOLE.links.bytes_per_s)
        assert sorted(NAMES[end] for end in links.source[changed]) == sorted((first, second))
        assert links.bytes_per_s[changed] == pytest.approx(0.25 * WHOLE.links.bytes_per_s[changed])
        assert (links.wire_bytes_per_s == WHOLE.links.wire_bytes_per_s).all()
        assert cables(WHOLE, [called])[called] == tuple(cables(WHOLE, [name])[name][:: 1 if called == name else -1])


def test_a_degraded_cable_moves_no_traffic():
    fabric = degraded(WHOLE, {"leaf0-spine1": 0.01, "gpu0-nic0": 0.5})
    assert shares(fabric, 0, 4) == shares(WHOLE, 0, 4)


def test_a_share_of_one_changes_nothing():
    fabric = degraded(WHOLE, {"leaf0-spine1": 1.0})
    assert (fabric.links.bytes_per_s == WHOLE.links.bytes_per_s).all()


def test_a_broken_link_can_be_divided_by_and_is_crossed_by_nothing():
    fabric = degraded(WHOLE, {"leaf0-spine1": 0.0})
    assert isinstance(fabric, Degraded)
    assert fabric.links.bytes_per_s[fabric.is_broken].tolist() == [BROKEN_BYTES_PER_S] * 2
    source, target = (each.ravel() for each in np.indices((8, 8)))
    assert not fabric.is_broken[fabric.routes(source, target).link].any()


@pytest.mark.parametrize("leaf", [0, 2])
def test_the_paths_over_a_broken_spine_link_vanish_up_and_down_and_the_others_take_their_share(leaf):
    """GPU 0 is under leaf 0, GPU 4 under leaf 2: the path over spine 1 is lost, at whichever end it breaks."""
    left = shares(degraded(WHOLE, {f"leaf{leaf}-spine1": 0.0}), 0, 4)
    expected = {"gpu0-nic0": 1.0, "nic0-leaf0": 1.0, "leaf2-nic4": 1.0, "nic4-gpu4": 1.0}
    for spine in (0, 2, 3):
        expected |= {f"leaf0-spine{spine}": 1 / 3, f"spine{spine}-leaf2": 1 / 3}
    assert left == pytest.approx(expected, rel=1e-12)


def test_a_pair_that_does_not_cross_the_broken_link_is_as_before():
    fabric = degraded(WHOLE, {"leaf0-spine1": 0.0})
    routes = fabric.routes(np.array([0, 1, 0, 2]), np.array([4, 5, 2, 3]))
    whole = WHOLE.routes(np.array([1, 0, 2]), np.array([5, 2, 3]))
    kept = routes.pair > 0
    rows = sorted(zip(routes.pair[kept] - 1, routes.link[kept], routes.share[kept], strict=True))
    assert rows == sorted(zip(whole.pair, whole.link, whole.share, strict=True))
    assert (routes.latency_s[1:] == whole.latency_s).all()


@given(st.sets(st.tuples(st.integers(0, 3), st.integers(0, SPINES - 1)), min_size=1))
@settings(deadline=None)
def test_bytes_take_every_path_that_is_left_evenly_or_there_is_none(broken):
    """Against the definition, pair by pair: a spine serves two leaves where its cables to both hold."""
    fabric = degraded(WHOLE, {f"leaf{leaf}-spine{spine}": 0.0 for leaf, spine in broken})
    for source in range(8):
        for target in range(8):
            leaves = [gpu // 4 * 2 + gpu % 2 for gpu in (source, target)]
            crosses = source // 2 != target // 2 and leaves[0] != leaves[1]
            over = [s for s in range(SPINES) if not {(leaf, s) for leaf in leaves} & broken]
            if crosses and not over:
                with pytest.raises(SimError, match=f"gpu{source} has no other way to gpu{target}"):
                    pair(fabric, source, target)
                continue
            found = {name: share for name, share in shares(fabric, source, target).items() if "spine" in name}
            expected = {f"leaf{leaves[0]}-spine{s}": 1 / len(over) for s in over}
            expected |= {f"spine{s}-leaf{leaves[1]}": 1 / len(over) for s in over}
            assert found == pytest.approx(expected if crosses else {}, rel=1e-12)


@pytest.mark.parametrize(
    ("cable", "source", "target"),
    [
        ("gpu0-nvswitch0", 0, 1),
        ("gpu0-nvswitch0", 1, 0),
        ("gpu0-nic0", 0, 4),
        ("nic0-gpu0", 4, 0),
        ("nic0-leaf0", 0, 2),
    ],
)
def test_where_there_is_no_other_way_the_cable_and_the_pair_are_named(cable, source, target):
    assert refusal(WHOLE, {cable: 0.0}, source, target) == [
        f"conditions.links.{cable}: broken, and gpu{source} has no other way to gpu{target} (got 0, allowed > 0)"
    ]


def test_all_cables_that_cut_a_pair_are_named_and_no_other():
    links = dict.fromkeys([*(f"leaf0-spine{spine}" for spine in range(SPINES)), "leaf2-spine0", "gpu7-nic7"], 0.0)
    told = refusal(WHOLE, links, 0, 4)
    assert [line.split(": ")[0] for line in told] == [f"conditions.links.{name}" for name in list(links)[:-1]]
    links["nic4-leaf2"] = 0.0
    assert [line.split(": ")[0] for line in refusal(WHOLE, links, 0, 4)] == ["conditions.links.nic4-leaf2"]


def test_the_only_spine_has_no_substitute():
    (told,) = refusal(rails(spines=1), {"leaf0-spine0": 0.0}, 0, 4)
    assert told.startswith("conditions.links.leaf0-spine0: broken, and gpu0 has no other way to gpu4")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nic0", "wrong name of a cable (got 'nic0', allowed two ends such as gpu0-nvswitch0)"),
        ("gpu0-nic0-leaf0", "wrong name of a cable (got 'gpu0-nic0-leaf0', allowed two ends such as gpu0-nvswitch0)"),
        (
            "nics0-leaf0",
            (
                "no 'nics0' in the topology (got 'nics0-leaf0', allowed gpu0 .. gpu7, nvswitch0 .. nvswitch3, "
                "nic0 .. nic7, leaf0 .. leaf3, spine0 .. spine3, did you mean 'nic0'?)"
            ),
        ),
        (
            "leaf0-spine4",
            (
                "no 'spine4' in the topology (got 'leaf0-spine4', allowed gpu0 .. gpu7, nvswitch0 .. nvswitch3, "
                "nic0 .. nic7, leaf0 .. leaf3, spine0 .. spine3)"
            ),
        ),
        (
            "nic0-leaf1",
            "nic0 and leaf1 are not joined (got 'nic0-leaf1', allowed nic0-leaf0, did you mean 'nic0-leaf0'?)",
        ),
        ("gpu3-leaf1", "gpu3 and leaf1 are not joined (got 'gpu3-leaf1', allowed gpu3-nvswitch1, gpu3-nic3)"),
        (
            "spine0-nic0",
            (
                "spine0 and nic0 are not joined (got 'spine0-nic0', allowed spine0-leaf0, spine0-leaf1, spine0-leaf2, "
                "spine0-leaf3)"
            ),
        ),
        ("gpu0-gpu0", "gpu0 and gpu0 are not joined (got 'gpu0-gpu0', allowed gpu0-nvswitch0, gpu0-nic0)"),
    ],
)
def test_a_cable_that_does_not_exist_is_refused(name, message):
    assert mistakes(name) == [f"conditions.links.{name}: {message}"]


def test_a_cable_stands_once_whichever_end_is_first():
    assert mistakes("nic0-leaf0", "leaf0-nic0") == [
        "conditions.links.leaf0-nic0: the cable stands twice (got 'leaf0-nic0' and 'nic0-leaf0')"
    ]


def test_every_mistake_is_told():
    assert len(mistakes("nic0-leaf1", "nic0", "gpu0-nic0")) == 2


def test_a_broken_cable_of_a_large_cluster_costs_little():
    whole = rails(nodes=2048, gpus=8, nodes_per_unit=32, spines=8)
    source = np.arange(whole.num_gpus)
    target = np.roll(source, -8 * 32)
    start = time.perf_counter()
    routes = degraded(whole, {"leaf0-spine3": 0.0, "gpu5-nic5": 0.5}).routes(source, target)
    taken_s = time.perf_counter() - start
    assert np.bincount(routes.pair, weights=routes.share) == pytest.approx(6.0)
    assert taken_s < 1


def family(name: str, **fields: object) -> Fabric:
    """A fabric of another family; every port is alike."""
    own = FABRICS[name].model_fields
    ports = {key: PORT for key in ("nvlink", "pcie", "nic", "host", "link", "local_link", "global_link") if key in own}
    tier = {"count": 2, "oversubscription": 1, "efficiency": 0.5, "latency": 1e-6}
    ports |= {key: tier for key in ("spine", "core") if key in own}
    counts = [key for key, value in fields.items() if isinstance(value, int) and key not in FABRICS[name].chosen]
    counts = [key for key in counts if not isinstance(fields[key], bool)]
    return FABRICS[name](name=name, sources=dict.fromkeys([*counts, *ports], "this test"), **ports, **fields).build()


THREE_TIERS = family("three_tier", nodes=4, gpus_per_node=1, nics_per_node=1, nodes_per_leaf=1, leaves_per_pod=2)
UPLINKS = [
    *(f"leaf{leaf}-spine{leaf // 2 * 2 + spine}" for leaf in range(4) for spine in range(2)),
    *(f"spine{spine}-core{spine % 2 * 2 + core}" for spine in range(4) for core in range(2)),
]


def loads(routes: Routes, fabric: Fabric) -> np.ndarray:
    """Share of each pair's bytes on each link, (pairs, links)."""
    found = np.zeros((len(routes.latency_s), len(fabric.links)))
    np.add.at(found, (routes.pair, routes.link), routes.share)
    return found


@given(st.sets(st.sampled_from(UPLINKS), min_size=1))
@settings(deadline=None)
def test_three_tiers_split_evenly_over_the_shortest_paths_that_are_left(broken):
    """Against a walk over the links that hold; where it finds only a longer way, there is none here."""
    fabric = degraded(THREE_TIERS, dict.fromkeys(broken, 0.0))
    assert isinstance(fabric, Degraded)
    kept = np.flatnonzero(~fabric.is_broken)
    columns = ("source", "target", "bytes_per_s", "wire_bytes_per_s", "latency_s", "tier")
    left = replace(fabric.links, **{name: getattr(fabric.links, name)[kept] for name in columns})
    whole = Shortest(fabric.links, len(fabric.node_names()))
    for source, target in itertools.permutations(range(4), 2):
        ends = np.array([source]), np.array([target])
        expected = Shortest(left, whole.num_nodes).routes(*ends)
        expected = replace(expected, link=kept[expected.link])
        hops, hops_whole = expected.share.sum(), whole.routes(*ends).share.sum()
        if hops < 1 or hops > hops_whole + 0.5:
            with pytest.raises(SimError, match=f"gpu{source} has no other way to gpu{target}"):
                fabric.routes(*ends)
        else:
            found = fabric.routes(*ends)
            assert loads(found, fabric) == pytest.approx(loads(expected, fabric), rel=1e-12)
            assert found.latency_s == pytest.approx(expected.latency_s)


def test_a_gpu_with_two_ports_sends_all_over_the_one_that_is_left():
    planes = family(
        "multi_plane",
        nodes=2,
        gpus_per_node=1,
        nics_per_gpu=2,
        ports_per_nic=1,
        nodes_per_unit=1,
        rails_share_planes=True,
    )
    names = planes.node_names()
    routes = pair(degraded(planes, {"nic1-leaf1": 0.0}), 0, 1)
    crossed = {names[end] for end in planes.links.target[routes.link].tolist()}
    assert crossed == {"nic0", "leaf0", "spine0", "spine1", "leaf2", "nic2", "gpu1"}
    assert np.bincount(routes.pair, weights=routes.share) == pytest.approx(6.0)


def test_a_torus_goes_the_other_way_at_half_distance_and_nowhere_else():
    torus = family("torus", shape=(4, 3), wrap_around=(True, True))
    broken = degraded(torus, {"gpu0-gpu1": 0.0})
    routes = pair(broken, 0, 2)
    assert routes.share.tolist() == [1.0, 1.0]
    assert set(broken.links.target[routes.link].tolist()) == {3, 2}
    assert refusal(torus, {"gpu0-gpu1": 0.0}, 0, 1) == [
        "conditions.links.gpu0-gpu1: broken, and gpu0 has no other way to gpu1 (got 0, allowed > 0)"
    ]


@pytest.mark.parametrize(
    ("name", "fields", "cable", "target"),
    [
        ("ring", {"gpus": 5}, "gpu0-gpu1", 1),
        ("fully_connected", {"gpus": 3}, "gpu0-gpu1", 1),
        (
            "dragonfly",
            {
                "nodes": 4,
                "gpus_per_node": 1,
                "nics_per_node": 1,
                "nodes_per_router": 1,
                "routers_per_group": 2,
                "cables_per_pair": 1,
            },
            "router0-router1",
            1,
        ),
        (
            "pcie_hosts",
            {"nodes": 1, "gpus_per_node": 4, "gpus_per_switch": 2, "nics_per_node": 1, "nodes_per_leaf": 1},
            "pcieswitch0-root0",
            2,
        ),
    ],
)
def test_other_families_say_where_there_is_no_other_way(name, fields, cable, target):
    (told,) = refusal(family(name, **fields), {cable: 0.0}, 0, target)
    assert told.startswith(f"conditions.links.{cable}: broken, and gpu0 has no other way to gpu{target}")


def test_a_dragonfly_takes_the_other_cables_between_two_groups():
    shape = {"nodes": 6, "gpus_per_node": 1, "nics_per_node": 1, "nodes_per_router": 1, "routers_per_group": 3}
    fabric = family("dragonfly", **shape, cables_per_pair=2)
    names = fabric.node_names()

    def cables_used(some: Fabric) -> set[str]:
        """From router 2, which has no cable of its own, to router 5, which has none either."""
        links = some.links
        far = [link for link in pair(some, 2, 5).link.tolist() if links.tiers[links.tier[link]] == "global"]
        return {f"{names[links.source[link]]}-{names[links.target[link]]}" for link in far}

    both = cables_used(fabric)
    assert len(both) == 2
    for cable in both:
        assert cables_used(degraded(fabric, {cable: 0.0})) == both - {cable}


def test_a_hash_moves_only_pairs_that_lost_their_path_to_the_spines_that_are_left():
    whole = rails(nodes=8, routing="ecmp")
    broken = degraded(whole, {"leaf0-spine1": 0.0})
    assert isinstance(broken, Hashed)
    source, target = (each.ravel() for each in np.indices((16, 16)))
    before, after = (loads(fabric.routes(source, target), fabric) for fabric in (whole, broken))
    assert set(after[after > 0].tolist()) == {1.0}
    links = whole.links
    names = whole.node_names()
    lost = [
        link
        for link in range(len(links))
        if {names[links.source[link]], names[links.target[link]]} == {"leaf0", "spine1"}
    ]
    assert before[:, lost].any()
    assert not after[:, lost].any()
    spread = rails(nodes=8).routes(source, target)
    could = np.zeros(len(source), dtype=bool)
    could[spread.pair[np.isin(spread.link, lost)]] = True
    assert (before[~could] == after[~could]).all()
    assert after.sum(axis=1) == pytest.approx(before.sum(axis=1))


def test_a_broken_cable_of_pxn_is_gone_around_on_the_target_s_rail():
    fabric = rails(pxn=True)
    found = pair(degraded(fabric, {"leaf1-spine0": 0.0}), 0, 5)
    names = fabric.node_names()
    crossed = {names[end] for end in fabric.links.target[found.link].tolist()}
    assert crossed == {"nvswitch0", "gpu1", "nic1", "leaf1", "spine1", "spine2", "spine3", "leaf3", "nic5", "gpu5"}
