"""Groups that communicate at once on one fabric, and links that others load: closed forms, and what holds for any."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import simpy
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sim.cost.collectives import ALGORITHMS
from sim.engine.network import SharedNetwork, lone_rates, rivals
from sim.engine.sharing import fair_rates
from sim.program.flows import Flows, FlowType, flows, members_of
from sim.program.fold import fold
from sim.spec.background import loaded
from sim.spec.layout import Layout, coordinates
from sim.spec.topology import FABRICS, Fabric

GB = 1e9
DATA = FlowType("dp_reduce", "all_reduce", "dp_cp", "ring")
TENSOR = FlowType("tp", "all_gather", "tp", "ring")
FAST = 1000 * GB


def fat_tree(nodes: int, gpus: int, nics: int, **rates: float) -> Fabric:
    """One leaf; ports are as fast as `rates` says, FAST otherwise, and have no latency."""
    fields: dict[str, Any] = {
        port: {"bandwidth": rates.get(port, FAST), "efficiency": 1.0, "latency": 0.0}
        for port in ("nvlink", "pcie", "nic")
    }
    fields["spine"] = {"count": 1, "oversubscription": 1, "efficiency": 1.0, "latency": 0.0}
    shape = {"gpus_per_node": gpus, "nics_per_node": nics, "nodes_per_leaf": nodes}
    sources = dict.fromkeys([*shape, *(f"{port}.{key}" for port, of in fields.items() for key in of)], "this test")
    return FABRICS["fat_tree"](name="tree", nodes=nodes, sources=sources, **shape, **fields).build()


def layout(tp: int, dp: int) -> Layout:
    return Layout(tp=tp, dp=dp, order="tp-cp-ep-dp-pp", schedule="1f1b")


def unlimited(found: Flows) -> Flows:
    """Flows that links alone bound."""
    return replace(found, limit_per_s=np.full(len(found), np.inf))


def ends(found: Flows, nbytes: dict[FlowType, float]) -> dict[FlowType, list[float]]:
    """When each flow ends, where all start to move at once. nbytes: message of each type."""
    env = simpy.Environment()
    network = SharedNetwork(env, found, rivals(found))
    ended: dict[FlowType, list[float]] = {kind: [] for kind in found.types}
    network.on_end = lambda flow: ended[found.types[found.type[flow]]].append(env.now)
    for flow, work in enumerate(found.work_per_byte.tolist()):
        network.start(flow, nbytes[found.types[found.type[flow]]] * work, flow)
    env.run()
    return ended


@pytest.mark.parametrize("is_folded", [False, True])
@pytest.mark.parametrize("nics", [8, 4, 2, 1])
def test_eight_rings_through_fewer_nics_take_as_many_times_as_long(nics: int, is_folded: bool) -> None:
    """A ring of two moves 2 (2 - 1) / 2 = 1 byte a byte each way: 50 GB at 50 GB/s, over 8 / nics."""
    placed = layout(tp=8, dp=2)
    found = flows([DATA], placed, fat_tree(2, 8, nics, nic=50 * GB))
    if is_folded:
        found = fold(coordinates(placed, "pp"), found).flows
    assert len(found) == (1 if is_folded else 8)
    assert ends(found, {DATA: 50 * GB})[DATA] == pytest.approx([8 / nics] * len(found), rel=1e-12)


@pytest.mark.parametrize("is_folded", [False, True])
@pytest.mark.parametrize(
    ("nic", "tensor_s", "data_s"),
    [
        # Data parallelism runs at its NICs' 16 of 40 GB/s, tensor parallelism at the 24 that NVLink has left.
        pytest.param(16 * GB, 24 / 24, 48 / 16, id="data is bound by NICs"),
        # Both at half of NVLink until the first ends; then the other is bound by its NICs.
        pytest.param(30 * GB, 24 / 20, 24 / 20 + (48 - 24) / 30, id="both are bound by NVLink"),
    ],
)
def test_tensor_inside_and_data_across_share_nvlink(
    nic: float, tensor_s: float, data_s: float, is_folded: bool
) -> None:
    """Two nodes of four GPUs. Data: four members, two on a node, so two rings with 2 x 3 / 4 / 2 = 0.75 bytes a byte on
    every NVLink port and every NIC. Tensor: pairs, 1 / 2 byte a byte on every NVLink port."""
    placed = layout(tp=2, dp=4)
    found = unlimited(flows([TENSOR, DATA], placed, fat_tree(2, 4, 4, nvlink=40 * GB, nic=nic)))
    if is_folded:
        found = fold(coordinates(placed, "pp"), found).flows
    ended = ends(found, {TENSOR: 24 / 0.5 * GB, DATA: 48 / 0.75 * GB})
    assert ended[TENSOR] == pytest.approx([tensor_s] * (1 if is_folded else 4))
    assert ended[DATA] == pytest.approx([data_s] * (1 if is_folded else 2))


def test_tensor_inside_and_data_across_do_not_meet_where_data_leaves_over_its_nics() -> None:
    placed = layout(tp=4, dp=2)
    found = flows([TENSOR, DATA], placed, fat_tree(2, 4, 4, nvlink=40 * GB, nic=16 * GB))
    assert rivals(found) == [()] * len(found)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.75])
def test_a_background_load_of_all_nics_stretches_a_ring_by_what_it_leaves(share: float) -> None:
    placed, whole = layout(tp=8, dp=2), fat_tree(2, 8, 8, nic=50 * GB)
    found = flows([DATA], placed, loaded(whole, {"nic": share}))
    assert ends(found, {DATA: 50 * GB})[DATA] == pytest.approx([1 / (1 - share)] * 8)
    assert len(fold(coordinates(placed, "pp"), found).representative) == 1


def test_a_loaded_cable_slows_the_group_that_crosses_it_and_splits_its_ranks_off() -> None:
    """NIC 1 of node 0 is used by the ring of ranks 1 and 9 alone; it keeps a quarter, the others half."""
    placed, whole = layout(tp=8, dp=2), fat_tree(2, 8, 8, nic=50 * GB)
    found = flows([DATA], placed, loaded(whole, {"nic": 0.5, "leaf0-nic1": 0.75}))
    assert sorted(ends(found, {DATA: 50 * GB})[DATA]) == pytest.approx([2.0] * 7 + [4.0])
    folding = fold(coordinates(placed, "pp"), found)
    assert folding.multiplicity.tolist() == [14, 2]
    assert np.flatnonzero(folding.rank_class == 1).tolist() == [1, 9]


@given(st.floats(1, 100), st.floats(0.01, 0.5), st.floats(0.1, 10))
def test_a_background_load_is_a_flow_of_fixed_demand(capacity: float, share: float, load: float) -> None:
    """Beside one flow, a flow gets what it asks for up to half of the link."""
    link = np.zeros(2, dtype=np.int64)
    rate = fair_rates(
        np.arange(2), link, np.full(2, load), np.array([capacity]), np.array([np.inf, capacity * share / load])
    )
    left = fair_rates(link[:1], link[:1], np.array([load]), np.array([capacity * (1 - share)]), np.array([np.inf]))
    assert rate[0] == pytest.approx(left[0], rel=1e-9)


PORTS = ("nvlink", "pcie", "nic")


@st.composite
def lone_collectives(draw: st.DrawFn) -> tuple[FlowType, Layout, dict[str, Any]]:
    """One group of all GPUs of a cluster, an algorithm that runs there, and the ports of the cluster."""
    nodes, gpus = draw(st.integers(1, 4)), draw(st.sampled_from([1, 2, 4, 8]))
    assume(nodes * gpus > 1)
    op = draw(st.sampled_from(["all_reduce", "all_gather", "reduce_scatter", "broadcast", "all_to_all"]))
    name = draw(st.sampled_from([name for name, algorithm in ALGORITHMS.items() if op in algorithm.ops]))
    ports = {
        port: {"bandwidth": draw(st.floats(1, 1000)) * GB, "efficiency": 1.0, "latency": draw(st.floats(0, 1e-4))}
        for port in PORTS
    }
    shape = {
        "nodes": nodes,
        "gpus_per_node": gpus,
        "nics_per_node": draw(st.sampled_from([nics for nics in (1, 2, 4, 8) if nics <= gpus])),
        "nodes_per_leaf": draw(st.integers(1, 4)),
        "spine": {"count": draw(st.integers(1, 3)), "oversubscription": 1, "efficiency": 1.0, "latency": 1e-6},
        **ports,
    }
    return FlowType("dp_reduce", op, "dp_cp", name), layout(tp=1, dp=nodes * gpus), shape


def built(shape: dict[str, Any]) -> Fabric:
    keys = ["gpus_per_node", "nics_per_node", "nodes_per_leaf"]
    keys += [f"{port}.{key}" for port in (*PORTS, "spine") for key in shape[port]]
    return FABRICS["fat_tree"](name="tree", sources=dict.fromkeys(keys, "this test"), **shape).build()


def lone_s(kind: FlowType, placed: Layout, fabric: Fabric, nbytes: float) -> float:
    """Time of a message when its group has the fabric to itself, as the engine pays it."""
    found = flows([kind], placed, fabric)
    return float((found.latency_s + nbytes * found.work_per_byte / lone_rates(found)).max())


def runs(kind: FlowType, placed: Layout, fabric: Fabric) -> bool:
    return ALGORITHMS[kind.algorithm].applies(members_of(placed, kind.group), fabric)


@settings(deadline=None)
@given(lone_collectives(), st.sampled_from(PORTS), st.floats(1, 10), st.floats(0, 1), st.sampled_from([0.0, 1e4, 1e9]))
def test_more_bandwidth_or_less_latency_never_slows_a_lone_collective(
    case: tuple[FlowType, Layout, dict[str, Any]], port: str, faster: float, sooner: float, nbytes: float
) -> None:
    kind, placed, shape = case
    fabric = built(shape)
    assume(runs(kind, placed, fabric))
    before_s = lone_s(kind, placed, fabric, nbytes)
    for key, factor in (("bandwidth", faster), ("latency", sooner)):
        better = built(shape | {port: shape[port] | {key: shape[port][key] * factor}})
        assert lone_s(kind, placed, better, nbytes) <= before_s * (1 + 1e-12)


@settings(deadline=None)
@given(lone_collectives(), st.floats(1e3, 1e10))
def test_more_bytes_are_never_faster_and_no_lone_collective_beats_its_bound(
    case: tuple[FlowType, Layout, dict[str, Any]], nbytes: float
) -> None:
    """Bound: a member sends 2 (n - 1) / n bytes a byte in an all_reduce, and (n - 1) / n in the others, over all its
    ports together; to a broadcast the root alone sends, all of it."""
    kind, placed, shape = case
    fabric = built(shape)
    assume(runs(kind, placed, fabric))
    once_s, twice_s = (lone_s(kind, placed, fabric, size) for size in (nbytes, 2 * nbytes))
    assert once_s < twice_s <= 2 * once_s
    size = placed.dp
    assert size is not None
    least = {"all_reduce": 2 * (size - 1) / size, "broadcast": 1.0}.get(kind.op, (size - 1) / size)
    ports = fabric.links.bytes_per_s[fabric.links.source == 0].sum()
    assert once_s >= nbytes * least / ports * (1 - 1e-12)


@settings(deadline=None)
@given(lone_collectives(), st.sampled_from(PORTS), st.floats(0.01, 0.95))
def test_a_background_load_never_speeds_a_lone_collective_up(
    case: tuple[FlowType, Layout, dict[str, Any]], port: str, share: float
) -> None:
    kind, placed, shape = case
    fabric = built(shape)
    assume(runs(kind, placed, fabric) and port in fabric.links.tiers)
    whole_s = lone_s(kind, placed, fabric, 1e9)
    with_others_s = lone_s(kind, placed, loaded(fabric, {port: share}), 1e9)
    assert whole_s * (1 - 1e-12) <= with_others_s <= whole_s / (1 - share) * (1 + 1e-12)
