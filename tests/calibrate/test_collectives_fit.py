"""Constants of NCCL from calls whose lines are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from sim.calibrate.collectives import Measured, fit
from sim.cost.network_time import lone_call
from sim.errors import SimError
from sim.spec.network import Network
from sim.spec.topology import FABRICS, Calibrated

SIZES = 2 ** np.arange(10, 30)
OPS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")


def topology(name: str) -> Calibrated:
    fields = yaml.safe_load((Path(__file__).parents[2] / "topologies" / f"{name}.yaml").read_text())
    spec = FABRICS[fields.pop("fabric")](**fields)
    assert isinstance(spec, Calibrated)
    return spec


def calls(spec: Calibrated, nodes: int, gpus: tuple[int, ...], slower: float = 1.0) -> list[Measured]:
    """What the topology itself says, as if measured."""
    fabric = (spec.model_copy(update={"nodes": nodes}) if nodes > 1 else spec).build()
    rows = []
    for op in OPS:
        for count in gpus:
            members = (np.arange(nodes)[:, None] * fabric.gpus_per_node + np.arange(count // nodes)).reshape(1, -1)
            for nbytes in SIZES.tolist():
                time_s = float(lone_call(op, nbytes, members, fabric, Network()).time_s[0])
                rows.append(Measured(op, nbytes, count, nodes, slower * time_s))
    return rows


@pytest.mark.parametrize("name", ["single-node-a100", "single-node-h100"])
def test_lines_come_back_from_the_calls_that_they_make(name):
    spec = topology(name)
    assert spec.nccl is not None
    fitted = fit(calls(spec, 1, (2, 4, 8)), spec.model_copy(update={"nccl": None}), spec.nccl.generation)
    assert fitted.error_frac < 0.005
    assert fitted.nvlink_efficiency == pytest.approx(spec.model_dump()["nvlink"]["efficiency"], rel=0.01)
    assert fitted.nccl.nvlink.ll.launch_s == pytest.approx(spec.nccl.nvlink.ll.launch_s, rel=0.02)
    assert fitted.nccl.nvlink.ll.bytes_per_s == pytest.approx(spec.nccl.nvlink.ll.bytes_per_s, rel=0.02)
    assert fitted.nccl.nvlink.simple.steps == pytest.approx(spec.nccl.nvlink.simple.steps, rel=0.05)
    assert fitted.nccl.network is None
    if spec.nccl.nvls_chunk_s is not None:
        assert fitted.nccl.nvls_chunk_s == pytest.approx(spec.nccl.nvls_chunk_s, rel=0.05)


def test_switches_that_reduce_stay_so():
    spec = topology("single-node-a100")
    assert spec.nccl is not None
    sharp = spec.model_copy(update={"nccl": spec.nccl.model_copy(update={"sharp": True})})
    assert fit(calls(spec, 1, (2, 4)), sharp).nccl.sharp


def test_lines_between_nodes_come_back_too():
    spec = topology("dgx-a100")
    rows = calls(spec, 1, (2, 4, 8)) + calls(spec, 2, (16,)) + calls(spec, 4, (32,))
    fitted = fit(rows, spec)
    assert fitted.num_calls == len(rows)
    assert fitted.error_frac < 0.005
    assert fitted.nccl.network is not None
    assert spec.nccl is not None
    assert spec.nccl.network is not None
    assert fitted.nccl.network.ll128.steps == pytest.approx(spec.nccl.network.ll128.steps, rel=0.05)
    assert fitted.nic_efficiency == pytest.approx(0.92, rel=0.02)


def test_slower_calls_make_a_slower_wire_and_longer_launches():
    spec = topology("single-node-a100")
    fitted = fit(calls(spec, 1, (2, 4, 8), slower=1.25), spec)
    assert spec.nccl is not None
    assert fitted.nvlink_efficiency == pytest.approx(0.79 / 1.25, rel=0.02)
    assert fitted.nccl.nvlink.ll.launch_s == pytest.approx(1.25 * spec.nccl.nvlink.ll.launch_s, rel=0.05)


def test_a_topology_without_lines_needs_to_know_its_generation():
    spec = topology("single-node-a100")
    with pytest.raises(SimError, match=r"which generation of GPUs\? \(got none, allowed ampere, hopper, blackwell\)"):
        fit(calls(spec, 1, (2,)), spec.model_copy(update={"nccl": None}))


def test_more_gpus_than_the_topology_has_are_refused():
    spec = topology("single-node-a100")
    with pytest.raises(SimError, match=r"single-node-a100: too few GPUs \(got 16 on 2 nodes, allowed 8\)"):
        fit([Measured("all_reduce", 2**20, 16, 2, 1e-4)], spec)
