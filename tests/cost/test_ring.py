"""Rings against closed forms and measurements."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from sim.cost.collectives import ALGORITHMS
from sim.cost.collectives.ring import ring_orders
from sim.cost.network_time import lone_time_s
from sim.spec.topology import FABRICS, Fabric

GB = 1e9
NVLINK_STEP_S = 1.9e-6
NETWORK_STEP_S = 14e-6


def cluster(name: str, **overrides: object) -> Fabric:
    fields = yaml.safe_load((Path(__file__).parents[2] / "topologies" / f"{name}.yaml").read_text())
    return FABRICS[fields.pop("fabric")](**fields | overrides).build()


def ring_s(fabric: Fabric, op: str, members: np.ndarray, nbytes: float) -> np.ndarray:
    return lone_time_s(ALGORITHMS["ring"].pattern(op, members, fabric), nbytes, fabric)


def bus_bytes_per_s(fabric: Fabric, op: str, nbytes: float) -> float:
    """What nccl-tests prints as busbw for all GPUs."""
    n = fabric.num_gpus
    rounds = 2 * (n - 1) if op == "all_reduce" else n - 1
    return rounds / n * nbytes / ring_s(fabric, op, np.arange(n)[None], nbytes)[0]


@pytest.mark.parametrize("n", [2, 3, 8])
@pytest.mark.parametrize(("op", "rounds"), [("all_reduce", 2), ("all_gather", 1), ("reduce_scatter", 1)])
def test_a_ring_on_one_node_takes_its_rounds_of_shards_and_steps(n, op, rounds):
    nbytes = 3e8
    expected = rounds * (n - 1) * (nbytes / n / (450 * GB * 0.82) + NVLINK_STEP_S)
    time_s = ring_s(cluster("single-node-h100"), op, np.arange(n)[None], nbytes)
    assert time_s == pytest.approx([expected], rel=1e-9)


def test_a_broadcast_passes_the_whole_message_down_the_ring_once():
    expected = 3e8 / (450 * GB * 0.82) + 7 * NVLINK_STEP_S
    assert ring_s(cluster("single-node-h100"), "broadcast", np.arange(8)[None], 3e8) == pytest.approx([expected])


def test_one_member_on_each_node_is_bound_by_its_nic():
    members = np.arange(0, 32, 8)[None]
    expected = 6 * (1e9 / 4 / (50 * GB * 0.96) + NETWORK_STEP_S)
    time_s = ring_s(cluster("dgx-h100", nodes=4), "all_reduce", members, 1e9)
    assert time_s == pytest.approx([expected], rel=1e-9)


def test_two_nodes_use_all_their_nics_equally_and_stay_on_the_rails():
    fabric = cluster("dgx-h100", nodes=2)
    pattern = ALGORITHMS["ring"].pattern("all_reduce", np.arange(16)[None], fabric)
    tier = np.array(fabric.links.tiers)[fabric.links.tier[pattern.link]]
    # 8 rings carry 1 / 8 each; every NIC sends in one of them and receives in one.
    assert pattern.bytes_per_byte[tier == "nic"] == pytest.approx(np.full(2 * 16, 2 * 15 / 16 / 8))
    assert not (tier == "spine").any()


def test_an_odd_number_of_nodes_changes_rails_once_around():
    fabric = cluster("dgx-h100", nodes=3, pxn=False)
    pattern = ALGORITHMS["ring"].pattern("all_gather", np.arange(24)[None], fabric)
    tier = np.array(fabric.links.tiers)[fabric.links.tier[pattern.link]]
    # 8 rings with 1 / 8 each, one hop over the spines in every ring: up and down again.
    assert pattern.bytes_per_byte[tier == "spine"].sum() == pytest.approx(2 * 23 / 24)
    assert pattern.bytes_per_byte[tier == "nic"] == pytest.approx(np.full(2 * 24, 23 / 24 / 8))


def test_two_nodes_pay_two_network_steps_each_time_around():
    fabric = cluster("dgx-h100", nodes=2)
    latency_s = ALGORITHMS["ring"].pattern("all_reduce", np.arange(16)[None], fabric).latency_s
    assert latency_s == pytest.approx([2 * 15 / 16 * (14 * NVLINK_STEP_S + 2 * NETWORK_STEP_S)])


def test_the_slowest_of_the_rings_decides_the_latency():
    fabric = cluster("dgx-h100", nodes=2, pxn=False)
    # Rings 1 and 2 go from GPU 2 to GPU 11, another rail, in one of their network steps; ring 0 does not.
    latency_s = ALGORITHMS["ring"].pattern("all_reduce", np.array([[0, 1, 2, 8, 9, 11]]), fabric).latency_s
    around_s = 4 * NVLINK_STEP_S + 2 * NETWORK_STEP_S + 2 * 0.3e-6
    assert latency_s == pytest.approx([2 * 5 / 6 * around_s])


def test_even_nodes_are_passed_backwards_and_odd_ones_forwards_from_the_ring_s_own_member():
    orders = ring_orders(np.arange(6).reshape(1, 2, 3))
    assert orders.tolist() == [[[0, 2, 1, 4, 5, 3], [1, 0, 2, 5, 3, 4], [2, 1, 0, 3, 4, 5]]]


def test_members_in_any_order_make_the_same_ring_through_the_nodes():
    fabric = cluster("dgx-h100", nodes=4)
    members = np.arange(0, 32, 8)
    in_order = ring_s(fabric, "all_reduce", members[None], 1e9)
    assert ring_s(fabric, "all_reduce", members[None, [2, 0, 3, 1]], 1e9) == pytest.approx(in_order)


@pytest.mark.parametrize(
    ("name", "nodes", "op", "nbytes", "measured", "tolerance"),
    [
        # stas00/ml-engineering network/README.md, NVLS off (8 x H200, 8 x B200)
        ("single-node-h200", None, "all_reduce", 2**34, 367.2, 0.02),
        ("single-node-h200", None, "all_gather", 2**34, 361.4, 0.04),
        ("single-node-b200", None, "all_reduce", 2**33, 682.2, 0.05),
        # argonne-lcf/alcf-nccl-tests results_sophia, DGX A100 with 8 x HDR
        ("dgx-a100", 2, "all_gather", 2**30, 177.4, 0.05),
        ("dgx-a100", 2, "reduce_scatter", 2**30, 177.4, 0.05),
        ("dgx-a100", 2, "all_reduce", 2**30, 178.2, 0.05),
        # NVIDIA/nccl-tests issue 309, HGX H100 with 8 x NDR
        ("dgx-h100", 4, "all_reduce", 2**30, 358.1, 0.05),
        ("dgx-h100", 4, "all_reduce", 2**34, 365.8, 0.06),
        # microsoft/mscclpp perf_ndmv5.jsonl, HGX H100 with 8 x NDR (not NCCL, which takes NVLSTree there)
        ("dgx-h100", 2, "all_reduce", 3 * 2**30, 377.7, 0.03),
        # NVIDIA/nccl-tests issue 100, HGX A100 with 4 x HDR
        ("fat-tree-a100-4nic", 2, "all_reduce", 2**33, 91.0, 0.02),
    ],
)
def test_measured_bus_bandwidth(name, nodes, op, nbytes, measured, tolerance):
    fabric = cluster(name) if nodes is None else cluster(name, nodes=nodes)
    assert bus_bytes_per_s(fabric, op, nbytes) == pytest.approx(measured * GB, rel=tolerance)
