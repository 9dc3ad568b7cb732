"""How long one collective's loads, lines and choice take beside bare loops: `make bench` times these."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from pytest_benchmark.fixture import BenchmarkFixture

from sim.cost.network_time import LoneCall, lone_call
from sim.spec.network import Network
from sim.spec.topology import FABRICS, Fabric

NODES = 128


def cluster() -> Fabric:
    fields = yaml.safe_load((Path(__file__).parents[2] / "topologies" / "dgx-h100.yaml").read_text())
    return FABRICS[fields.pop("fabric")](**fields | {"nodes": NODES}).build()


@pytest.mark.parametrize("op", ["all_reduce", "all_gather"])
def test_a_collective_of_1024_gpus_on_a_fresh_fabric(benchmark: BenchmarkFixture, op: str) -> None:
    members = np.arange(8 * NODES)[None]

    def priced(fabric: Fabric) -> LoneCall:
        return lone_call(op, 2**30, members, fabric, Network())

    call = benchmark.pedantic(priced, setup=lambda: ((cluster(),), {}), rounds=3)
    rounds = 2 if op == "all_reduce" else 1
    least_s = rounds * 1023 / 1024 * 2**30 / (8 * 50e9)
    assert call.time_s[0] > least_s
    if benchmark.stats is not None:
        benchmark.extra_info["part_of_50_ms"] = benchmark.stats["min"] / 0.05
