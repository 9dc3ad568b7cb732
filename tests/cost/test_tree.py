"""Double binary trees against closed forms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from sim.cost.collectives import ALGORITHMS
from sim.cost.collectives.tree import tree_parents
from sim.cost.network_time import lone_time_s
from sim.spec.topology import FABRICS, Fabric

GB = 1e9
NVLINK_STEP_S = 1.9e-6
NETWORK_STEP_S = 14e-6


def cluster(name: str, **overrides: object) -> Fabric:
    fields = yaml.safe_load((Path(__file__).parents[2] / "topologies" / f"{name}.yaml").read_text())
    return FABRICS[fields.pop("fabric")](**fields | overrides).build()


def latency_s(fabric: Fabric, op: str, members: np.ndarray) -> float:
    return float(ALGORITHMS["tree"].pattern(op, members, fabric).latency_s[0])


@pytest.mark.parametrize("num_nodes", range(1, 40))
def test_both_trees_reach_every_node_in_log2_steps(num_nodes):
    for parents in tree_parents(num_nodes).tolist():
        assert parents.count(-1) == 1
        assert max(np.bincount(np.array(parents) + 1, minlength=2)[1:]) <= 2
        for node in range(num_nodes):
            depth = 0
            while parents[node] >= 0:
                node, depth = parents[node], depth + 1  # noqa: PLW2901 - climbs to the root
            assert depth <= num_nodes.bit_length()


def test_the_second_tree_of_an_odd_number_of_nodes_is_the_first_shifted_by_one():
    assert tree_parents(5).tolist() == [[-1, 2, 4, 2, 0], [1, -1, 3, 0, 3]]


@pytest.mark.parametrize("num_nodes", [2, 4, 6, 8, 32])
def test_with_an_even_number_of_nodes_each_node_has_children_in_one_tree_only(num_nodes):
    first, second = (set(parents[parents >= 0].tolist()) for parents in tree_parents(num_nodes))
    assert not first & second - {0, num_nodes - 1}
    assert first | second == set(range(num_nodes))


@pytest.mark.parametrize("num_nodes", [2, 3, 5, 8])
def test_every_message_of_an_all_reduce_moves_twice_to_all_members_but_one(num_nodes):
    fabric = cluster("dgx-h100", nodes=num_nodes)
    pattern = ALGORITHMS["tree"].pattern("all_reduce", np.arange(8 * num_nodes)[None], fabric)
    leaves_a_gpu = fabric.links.source[pattern.link] < fabric.num_gpus
    assert pattern.bytes_per_byte[leaves_a_gpu].sum() == pytest.approx(2 * (8 * num_nodes - 1))


@pytest.mark.parametrize("num_nodes", [4, 6, 8, 64])
def test_a_nic_sends_at_most_twice_the_message(num_nodes):
    fabric = cluster("dgx-h100", nodes=num_nodes)
    pattern = ALGORITHMS["tree"].pattern("all_reduce", np.arange(0, 8 * num_nodes, 8)[None], fabric)
    assert pattern.bytes_per_byte.max() == pytest.approx(2)


def test_an_all_reduce_on_one_node_is_two_chains_of_each_channel():
    fabric = cluster("single-node-h100")
    pattern = ALGORITHMS["tree"].pattern("all_reduce", np.arange(8)[None], fabric)
    expected = 2 * 7 / 8 * 3e8 / (450 * GB * 0.82) + 2 * 7 * NVLINK_STEP_S
    assert lone_time_s(pattern, 3e8, fabric) == pytest.approx([expected], rel=1e-9)


@pytest.mark.parametrize(("num_nodes", "depth"), [(2, 1), (4, 2), (8, 3), (32, 5)])
def test_latency_is_the_chain_and_log2_of_the_nodes_twice(num_nodes, depth):
    fabric = cluster("dgx-h100", nodes=num_nodes)
    whole = latency_s(fabric, "all_reduce", np.arange(8 * num_nodes)[None])
    assert whole == pytest.approx(2 * (7 * NVLINK_STEP_S + depth * NETWORK_STEP_S))
    rail = latency_s(fabric, "all_reduce", np.arange(0, 8 * num_nodes, 8)[None])
    assert rail == pytest.approx(2 * depth * NETWORK_STEP_S)


def test_a_broadcast_passes_the_root_s_chain_the_tree_and_a_chain():
    fabric = cluster("dgx-h100", nodes=2)
    expected = (7 + 7) * NVLINK_STEP_S + NETWORK_STEP_S
    assert latency_s(fabric, "broadcast", np.arange(16)[None]) == pytest.approx(expected)


def test_every_member_but_the_root_of_a_broadcast_receives_the_message_once():
    fabric = cluster("dgx-h100", nodes=3, pxn=False)
    members = np.roll(np.arange(24), -13)
    pattern = ALGORITHMS["tree"].pattern("broadcast", members[None], fabric)
    received = np.bincount(
        fabric.links.target[pattern.link], weights=pattern.bytes_per_byte, minlength=fabric.num_gpus
    )[: fabric.num_gpus]
    expected = np.ones(24)
    expected[members[0]] = 0
    assert received == pytest.approx(expected)
