"""Every named cluster in `topologies/`."""

from __future__ import annotations

from pathlib import Path

import networkx as nx
import numpy as np
import pytest
import yaml

from sim.spec.topology import FABRICS, Calibrated, Fabric, FabricSpec, graph

FILES = sorted((Path(__file__).parents[2] / "topologies").glob("*.yaml"))
GB = 1e9


def topology(name: str, **overrides: object) -> FabricSpec:
    fields = yaml.safe_load((Path(__file__).parents[2] / "topologies" / f"{name}.yaml").read_text())
    return FABRICS[fields.pop("fabric")](**fields | overrides)


def two_nodes(name: str) -> Fabric:
    """The smallest cluster with a network."""
    spec = topology(name)
    if "nodes" in type(spec).model_fields:
        return topology(name, nodes=2).build()
    return topology(name).build()


@pytest.fixture(params=[path.stem for path in FILES])
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def bisection_bytes_per_s(fabric: Fabric) -> float:
    built = graph(fabric)
    half = fabric.num_gpus // 2
    built.add_edges_from(("first", f"gpu{gpu}") for gpu in range(half))
    built.add_edges_from((f"gpu{gpu}", "second") for gpu in range(half, fabric.num_gpus))
    return nx.maximum_flow_value(built, "first", "second", capacity="bytes_per_s")


def test_a_file_starts_with_a_comment_and_is_named_like_its_entry(name):
    text = (Path(__file__).parents[2] / "topologies" / f"{name}.yaml").read_text()
    assert text.startswith("# ")
    assert topology(name).name == name


def test_a_named_cluster_is_strongly_connected(name):
    assert nx.is_strongly_connected(graph(topology(name).build()))


def test_its_gpus_are_the_first_nodes(name):
    fabric = topology(name).build()
    names = fabric.node_names()
    assert [number for number, node in enumerate(names) if node.startswith("gpu")] == list(range(fabric.num_gpus))
    assert fabric.num_gpus % fabric.gpus_per_node == 0


def test_no_link_achieves_more_than_its_datasheet(name):
    links = topology(name).build().links
    assert (links.bytes_per_s > 0.7 * links.wire_bytes_per_s).all()
    assert (links.bytes_per_s < links.wire_bytes_per_s).all()


STEP_S = {"nvlink": 1.9e-6, "direct": 1.9e-6, "pcie": 2.5e-6}
"""NCCL's latency of a step inside a node, by what the GPUs hang on."""


@pytest.mark.parametrize("name", [path.stem for path in FILES if not path.stem.startswith("tpu")])
def test_a_step_takes_as_long_as_nccl_expects(name):
    fabric = two_nodes(name)
    target = np.array([1, fabric.gpus_per_node])
    is_there = target < fabric.num_gpus
    latency_s = fabric.routes(np.zeros_like(target[is_there]), target[is_there]).latency_s
    assert latency_s == pytest.approx(np.array([STEP_S[fabric.links.tiers[0]], 14e-6])[is_there])


def test_pcie_does_not_slow_the_nic_down(name):
    links = topology(name).build().links
    by_tier = {tier: links.bytes_per_s[links.tier == number] for number, tier in enumerate(links.tiers)}
    if "nic" in by_tier:
        assert by_tier["pcie"].min() > by_tier["nic"].max()


def test_estimates_are_told_apart_from_datasheets():
    assert "spine.latency" in topology("dgx-h100").estimated
    assert "nic.bandwidth" not in topology("dgx-h100").estimated


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("single-node-h100", 4 * 450 * GB * 0.82),
        ("single-node-a100", 4 * 300 * GB * 0.79),
        ("dgx-a100", 64 * 25 * GB * 0.92),
        ("dgx-h100", 64 * 50 * GB * 0.96),
        ("dgx-b200", 64 * 50 * GB * 0.96),
        ("fat-tree-a100-4nic", 4 * 25 * GB * 0.92),
        ("fat-tree-h100-2to1", 64 * 50 * GB * 0.96 / 2),
        ("gb200-nvl72", 72 * 50 * GB * 0.96),
    ],
)
def test_bisection_of_named_clusters(name, expected):
    assert bisection_bytes_per_s(topology(name).build()) == pytest.approx(expected)


def test_a_scenario_chooses_the_number_of_nodes():
    assert topology("dgx-h100", nodes=2048).build().num_gpus == 16_384


def test_what_collectives_achieve_reaches_the_links(name):
    spec = topology(name)
    if isinstance(spec, Calibrated):
        assert spec.build().links.nccl == spec.nccl
