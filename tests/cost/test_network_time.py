"""The time of a lone collective and the choice of its algorithm."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from sim.cost.collectives import Pattern
from sim.cost.network_time import choose, lone_time_s
from sim.errors import SimError
from sim.spec.topology import FABRICS, Fabric


def cluster(name: str, **overrides: object) -> Fabric:
    fields = yaml.safe_load((Path(__file__).parents[2] / "topologies" / f"{name}.yaml").read_text())
    return FABRICS[fields.pop("fabric")](**fields | overrides).build()


TWO_NODES = cluster("dgx-h100", nodes=2)
RAILS_OF_64 = cluster("dgx-h100", nodes=64)
ONE_RAIL = np.arange(0, 512, 8)[None]


def test_a_named_algorithm_is_taken_even_if_it_is_slow():
    assert choose("all_reduce", 1e3, ONE_RAIL, RAILS_OF_64, "ring") == "ring"


def test_auto_takes_trees_for_small_and_rings_for_large_messages_between_nodes():
    assert choose("all_reduce", 1e5, ONE_RAIL, RAILS_OF_64, "auto") == "tree"
    assert choose("all_reduce", 1e10, ONE_RAIL, RAILS_OF_64, "auto") == "ring"


def test_auto_runs_rings_on_two_whole_nodes_as_nccl_does():
    """A tree would load the NICs half as much there, but measured rates are the ring's."""
    assert choose("all_reduce", 1e9, np.arange(16)[None], TWO_NODES, "auto") == "ring"
    assert choose("all_gather", 1e9, np.arange(16)[None], TWO_NODES, "auto") == "ring"
    assert choose("all_reduce", 1e9, np.arange(16)[None], TWO_NODES, "hierarchical") == "hierarchical"


def test_auto_looks_at_the_slowest_group():
    spine = {"count": 4, "oversubscription": 32, "efficiency": 0.96, "latency": "0.3 us"}
    fabric = cluster("dgx-h100", nodes=16, nodes_per_unit=8, spine=spine)
    rail = np.arange(0, 128, 8)
    inside, across = rail[:8], rail[4:12]
    chosen = [choose("all_reduce", 1e7, np.stack(groups), fabric, "auto") for groups in ([inside], [across])]
    assert chosen == ["tree", "ring"]
    assert choose("all_reduce", 1e7, np.stack([inside, across]), fabric, "auto") == "ring"


@pytest.mark.parametrize(
    ("op", "name", "message"),
    [
        ("all_gather", "tree", r"tree is not an algorithm for it \(got 'tree', allowed auto, hierarchical, ring\)"),
        ("all_to_all", "ring", r"allowed auto, pairwise\)"),
        ("all_reduce", "rign", r"unknown collective algorithm \(got 'rign'.*did you mean 'ring'"),
    ],
)
def test_a_name_that_cannot_run_the_collective_is_refused(op, name, message):
    with pytest.raises(SimError, match=message):
        choose(op, 1e6, np.arange(16)[None], TWO_NODES, name)


def test_a_name_that_cannot_run_in_these_groups_is_refused():
    with pytest.raises(SimError, match=r"hierarchical does not run in these groups .*allowed auto, ring, tree\)"):
        choose("all_reduce", 1e6, np.arange(8)[None], TWO_NODES, "hierarchical")
    with pytest.raises(SimError, match=r"tree does not run in these groups .*allowed auto, ring\)"):
        choose("all_reduce", 1e6, np.arange(9)[None], TWO_NODES, "tree")


def test_a_message_takes_its_latency_and_the_time_on_its_slowest_link():
    pattern = Pattern(
        group=np.array([0, 0, 1]),
        link=np.array([0, 40, 40]),  # an NVLink at 369 GB/s and a NIC's PCIe link at 51.66
        bytes_per_byte=np.array([1.0, 0.1, 0.5]),
        latency_s=np.array([1e-6, 2e-6]),
    )
    expected = [1e-6 + 1e9 / (450e9 * 0.82), 2e-6 + 0.5e9 / (63e9 * 0.82)]
    assert lone_time_s(pattern, 1e9, TWO_NODES) == pytest.approx(expected, rel=1e-9)
