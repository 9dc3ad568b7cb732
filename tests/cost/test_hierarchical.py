"""Two levels of rings against closed forms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from sim.cost.collectives import ALGORITHMS
from sim.cost.network_time import lone_time_s
from sim.spec.topology import FABRICS, Fabric

GB = 1e9
NVLINK_STEP_S = 1.9e-6
NETWORK_STEP_S = 14e-6


def cluster(name: str, **overrides: object) -> Fabric:
    fields = yaml.safe_load((Path(__file__).parents[2] / "topologies" / f"{name}.yaml").read_text())
    return FABRICS[fields.pop("fabric")](**fields | overrides).build()


NVLINK = 450 * GB * 0.82
NIC = 50 * GB * 0.96


@pytest.mark.parametrize("num_nodes", [2, 3, 8])
@pytest.mark.parametrize(("op", "rounds"), [("all_reduce", 2), ("all_gather", 1), ("reduce_scatter", 1)])
def test_both_levels_run_at_once_and_the_slower_one_decides(num_nodes, op, rounds):
    fabric = cluster("dgx-h100", nodes=num_nodes)
    pattern = ALGORITHMS["hierarchical"].pattern(op, np.arange(8 * num_nodes)[None], fabric)
    nbytes = 2e9
    inside_s = rounds * 7 / 8 * nbytes / NVLINK
    between_s = rounds * (num_nodes - 1) / num_nodes * nbytes / 8 / NIC
    steps_s = rounds * (7 * NVLINK_STEP_S + (num_nodes - 1) * NETWORK_STEP_S)
    expected = steps_s + max(inside_s, between_s)
    assert lone_time_s(pattern, nbytes, fabric) == pytest.approx([expected], rel=1e-9)


def test_rings_between_nodes_stay_on_their_rails():
    fabric = cluster("dgx-h100", nodes=3)
    pattern = ALGORITHMS["hierarchical"].pattern("all_reduce", np.arange(24)[None], fabric)
    assert "spine" not in {fabric.links.tiers[tier] for tier in fabric.links.tier[pattern.link]}


def test_the_slowest_of_the_rings_between_nodes_decides_the_latency():
    fabric = cluster("dgx-h100", nodes=2, pxn=False)
    pattern = ALGORITHMS["hierarchical"].pattern("all_reduce", np.array([[0, 1, 2, 8, 9, 11]]), fabric)
    # GPUs 2 and 11 are on different rails.
    expected = 2 * (2 * NVLINK_STEP_S + NETWORK_STEP_S + 2 * 0.3e-6)
    assert pattern.latency_s == pytest.approx([expected])


def test_gpus_that_share_a_nic_share_its_rate():
    fabric = cluster("fat-tree-a100-4nic", nodes=2)
    pattern = ALGORITHMS["hierarchical"].pattern("all_gather", np.arange(16)[None], fabric)
    expected = 7 * NVLINK_STEP_S + NETWORK_STEP_S + 2 * (1 / 2 / 8) * 4e9 / (25 * GB * 0.92)
    assert lone_time_s(pattern, 4e9, fabric) == pytest.approx([expected], rel=1e-9)


@pytest.mark.parametrize(
    "members",
    [
        [list(range(8))],  # one node
        [[0, 8, 16]],  # one member on each node
        [[0, 1, 8]],  # unequal counts
        [[0, 1, 8, 9], [0, 1, 2, 3]],  # groups that are placed differently
    ],
)
def test_it_needs_equal_shares_of_several_nodes(members):
    fabric = cluster("dgx-h100", nodes=3)
    assert not ALGORITHMS["hierarchical"].applies(np.array(members), fabric)
    assert ALGORITHMS["hierarchical"].applies(np.array([[0, 1, 8, 9]]), fabric)
