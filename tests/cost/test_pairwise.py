"""The direct all_to_all against closed forms and measurements."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from sim.cost.collectives import ALGORITHMS
from sim.cost.collectives.pairwise import PAIRS_AT_ONCE
from sim.cost.network_time import lone_time_s
from sim.spec.topology import FABRICS, Fabric

GB = 1e9
NVLINK_STEP_S = 1.9e-6
NETWORK_STEP_S = 14e-6


def cluster(name: str, **overrides: object) -> Fabric:
    fields = yaml.safe_load((Path(__file__).parents[2] / "topologies" / f"{name}.yaml").read_text())
    return FABRICS[fields.pop("fabric")](**fields | overrides).build()


def pairwise_s(fabric: Fabric, members: np.ndarray, nbytes: float) -> np.ndarray:
    return lone_time_s(ALGORITHMS["pairwise"].pattern("all_to_all", members, fabric), nbytes, fabric)


def test_inside_a_node_every_gpu_sends_all_but_its_own_part():
    expected = 7 / 8 * 1e9 / (450 * GB * 0.82) + NVLINK_STEP_S
    time_s = pairwise_s(cluster("single-node-h100"), np.arange(8)[None], 1e9)
    assert time_s == pytest.approx([expected], rel=1e-9)


def test_across_nodes_the_nic_carries_what_goes_to_other_nodes():
    fabric = cluster("dgx-h100", nodes=4, pxn=False)
    longest_s = NETWORK_STEP_S + 2 * 0.3e-6  # over a spine
    expected = 24 / 32 * 1e9 / (50 * GB * 0.96) + longest_s
    assert pairwise_s(fabric, np.arange(32)[None], 1e9) == pytest.approx([expected], rel=1e-9)


def test_an_oversubscribed_spine_slows_what_crosses_it():
    fabric = cluster("fat-tree-h100-2to1", nodes=8)
    # Of the 64 parts of each of the 32 GPUs of a leaf, 32 go up to spines that carry half the rate of the NICs.
    expected = 32 * (32 / 64) * 1e9 / (32 * 50 * GB / 2 * 0.96) + NETWORK_STEP_S + 2 * 0.3e-6
    assert pairwise_s(fabric, np.arange(64)[None], 1e9) == pytest.approx([expected], rel=1e-9)


def test_many_groups_are_priced_like_each_alone():
    fabric = cluster("dgx-h100", nodes=320)
    members = np.arange(2560).reshape(-1, 64)
    assert members.size * 63 > PAIRS_AT_ONCE
    assert pairwise_s(fabric, members, 1e8) == pytest.approx(np.full(40, pairwise_s(fabric, members[:1], 1e8)[0]))


@pytest.mark.parametrize(
    ("name", "nbytes", "measured", "tolerance"),
    [
        ("dgx-h100", 2**30, 90.88, 0.03),  # microsoft/mscclpp perf_ndmv5.jsonl, 2 nodes
        ("dgx-a100", 2**30, 43.63, 0.03),  # microsoft/mscclpp perf_ndmv4.jsonl, 2 nodes
        ("dgx-a100", 2**30, 39.93, 0.10),  # argonne-lcf/alcf-nccl-tests results_sophia, 2 nodes, NCCL
    ],
)
def test_measured_bus_bandwidth_on_two_nodes(name, nbytes, measured, tolerance):
    time_s = pairwise_s(cluster(name, nodes=2), np.arange(16)[None], nbytes)[0]
    assert 15 / 16 * nbytes / time_s == pytest.approx(measured * GB, rel=tolerance)
