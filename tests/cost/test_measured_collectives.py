"""Lone collectives against nccl-tests' sweeps: in a node ai-dynamo/aiconfigurator, systems/data (Apache-2.0), medians
of 64 MB to 512 MB; between nodes NVIDIA/nccl-tests issue 309 and coreweave/nccl-tests."""

from __future__ import annotations

import csv
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
import yaml

from sim.cost.network_time import lone_call
from sim.spec.network import Network
from sim.spec.topology import FABRICS, Fabric

HERE = Path(__file__).parent
GPUS = ("a100", "h100", "h200", "b200")
TOLERANCE = {"a100": 0.035, "h100": 0.05, "h200": 0.05, "b200": 0.061}
"""Measured 3.3, 4.8, 4.95 and 6.0 %, rounded up."""

HUGE = (
    # GPU, bytes, bus rate of an all_reduce of 8 GPUs in the switches, GB/s; stas00/ml-engineering network/README.md
    ("h100", 2**34, 480.0),  # of H200, which has the same NVLink and NVSwitches
    ("h200", 2**33, 473.1),
    ("h200", 2**34, 480.0),
    ("b200", 2**33, 838.0),
)

BETWEEN = (
    # nodes, bytes, bus rate of an all_reduce on DGX H100 with 8 x 400 Gbit/s, GB/s
    (2, 2**24, 169.7),
    (2, 2**27, 336.3),
    (2, 2**30, 448.9),
    (2, 2**34, 469.2),
    (4, 2**24, 125.2),
    (4, 2**27, 262.5),
    (4, 2**30, 358.1),
    (4, 2**34, 365.8),
    (12, 2**29, 356.0),
    (12, 2**31, 380.7),
    (12, 2**33, 386.6),
)


def topology(name: str, **overrides: object) -> Fabric:
    fields = yaml.safe_load((HERE.parents[1] / "topologies" / f"{name}.yaml").read_text())
    return FABRICS[fields.pop("fabric")](**fields | overrides).build()


def errors(gpu: str) -> list[float]:
    fabric = topology(f"single-node-{gpu}")
    found = []
    with (HERE / "measured_collectives.csv").open() as file:
        for row in csv.DictReader(file):
            if row["gpu"] == gpu:
                members, nbytes = np.arange(int(row["gpus"]))[None], float(row["size_bytes"])
                time_s = float(lone_call(row["op"], nbytes, members, fabric, Network()).time_s[0])
                found.append(time_s / (float(row["time_us"]) * 1e-6) - 1)
    return found


@pytest.mark.parametrize("gpu", GPUS)
def test_large_calls_in_a_node_take_what_was_measured(gpu: str) -> None:
    found = errors(gpu)
    assert len(found) >= 44
    assert fmean(abs(error) for error in found) < TOLERANCE[gpu]


@pytest.mark.parametrize(("gpu", "nbytes", "measured"), HUGE)
def test_reductions_in_the_switches_still_gain_above_512_mb(gpu: str, nbytes: int, measured: float) -> None:
    """Fitted to; a straight line through the calls up to 512 MB is 20 to 28 % too slow."""
    time_s = float(
        lone_call("all_reduce", nbytes, np.arange(8)[None], topology(f"single-node-{gpu}"), Network()).time_s[0]
    )
    assert 2 * 7 / 8 * nbytes / time_s == pytest.approx(measured * 1e9, rel=0.02)


def test_there_is_no_bias_over_all_gpus() -> None:
    assert fmean(error for gpu in GPUS for error in errors(gpu)) == pytest.approx(0.005, abs=0.005)


def test_calls_between_nodes_take_what_was_measured() -> None:
    """Two and four nodes are what the lines were fitted to, twelve are not; mean 3.9 %, largest 11.2 %."""
    found = []
    for nodes, nbytes, measured in BETWEEN:
        members = np.arange(8 * nodes)[None]
        time_s = float(lone_call("all_reduce", nbytes, members, topology("dgx-h100", nodes=nodes), Network()).time_s[0])
        found.append(measured * 1e9 / (2 * (8 * nodes - 1) / (8 * nodes) * nbytes / time_s) - 1)
    assert fmean(map(abs, found)) < 0.05
    assert max(map(abs, found)) < 0.12
