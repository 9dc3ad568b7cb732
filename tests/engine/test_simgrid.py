"""SimGrid as judge: rates and ends of flows are those of its max-min solver (model CM02, all corrections off)."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simpy

from sim.engine.network import SharedNetwork, rivals
from sim.engine.sharing import fair_rates
from sim.program.flows import Flows, FlowType
from sim.spec.topology import FABRICS

SIMGRID = importlib.util.find_spec("simgrid")

needs_simgrid = pytest.mark.skipif(
    SIMGRID is None,
    reason="simgrid, which judges how links are shared, is not installed: pip install '.[judge]'",
)

JUDGE = Path(__file__).with_name("simgrid_judge.py")
CONFIRMED = Path(__file__).with_name("simgrid_rates.npz")
"""Rates of `a_thousand()` that SimGrid 4.1 confirmed to 1e-6, one platform after the other, bytes/s; written by
`python tests/engine/test_simgrid.py` where SimGrid is installed. Its source takes a quarter of an hour to build."""
PLATFORMS = 1000
MAX_HOSTS = 64
BATCH = 50
SAME = 1e-6
NO_LIMIT = 1e18
GB = 1e9


@dataclass(frozen=True)
class Case:
    """Flows on links. Rows (flow, link, load), bytes on the link per byte; capacity and limit in bytes/s."""

    flow: np.ndarray
    link: np.ndarray
    load: np.ndarray
    capacity: np.ndarray
    limit: np.ndarray

    def rates(self) -> np.ndarray:
        return fair_rates(self.flow, self.link, self.load, self.capacity, self.limit)


def drawn(rng: np.random.Generator, max_load: int) -> Case:
    """Any flows on any links; some are limited by themselves. Loads are whole numbers up to `max_load`."""
    num_flows, num_links = int(rng.integers(1, MAX_HOSTS + 1)), int(rng.integers(1, 40))
    routes = [
        rng.choice(num_links, int(rng.integers(1, min(num_links, 6) + 1)), replace=False) for _ in range(num_flows)
    ]
    flow, link = np.repeat(np.arange(num_flows), [len(route) for route in routes]), np.concatenate(routes)
    # Few values, so that links also fill at the same level.
    capacity = rng.choice([5.0, 10.0, 25.0, 50.0, rng.uniform(1, 100)], num_links) * GB
    limit = np.where(rng.random(num_flows) < 0.3, rng.uniform(0.1, 50, num_flows) * GB, NO_LIMIT)
    return Case(flow, link, rng.integers(1, max_load + 1, len(flow)).astype(float), capacity, limit)


def on_a_fat_tree(rng: np.random.Generator) -> Case:
    """Pairs of GPUs of a cluster of up to 64, with NICs that two of them share and one spine."""
    nodes = int(rng.integers(2, MAX_HOSTS // 4 + 1))
    port: dict[str, Any] = {"efficiency": 1.0, "latency": 0.0}
    fields: dict[str, Any] = {
        "nvlink": {**port, "bandwidth": 100 * GB},
        "pcie": {**port, "bandwidth": 30 * GB},
        "nic": {**port, "bandwidth": float(rng.uniform(5, 50)) * GB},
        "spine": {**port, "count": 1, "oversubscription": int(rng.integers(1, 5))},
    }
    shape = {"nodes": nodes, "gpus_per_node": 4, "nics_per_node": 2, "nodes_per_leaf": int(rng.integers(1, 5))}
    sourced = [*shape, *(f"{name}.{key}" for name, of in fields.items() for key in of)]
    sourced.remove("nodes")
    fabric = FABRICS["fat_tree"](name="tree", sources=dict.fromkeys(sourced, "this test"), **shape, **fields).build()
    num_flows = int(rng.integers(1, MAX_HOSTS + 1))
    source = rng.integers(0, fabric.num_gpus, num_flows)
    target = (source + rng.integers(1, fabric.num_gpus, num_flows)) % fabric.num_gpus
    routes = fabric.routes(source, target)
    assert (routes.share == 1).all()
    return Case(routes.pair, routes.link, routes.share, fabric.links.bytes_per_s, np.full(num_flows, NO_LIMIT))


def judged(cases: list[Case], sizes: list[np.ndarray]) -> list[np.ndarray]:
    """When SimGrid ends each flow, s after all began to move. sizes: bytes of each flow, whole numbers."""
    platforms = [
        {
            "capacity": case.capacity.tolist(),
            "flows": [
                {
                    "links": np.repeat(case.link[mine], case.load[mine].astype(int)).tolist(),
                    "limit": float(case.limit[number]),
                    "nbytes": int(size[number]),
                }
                for number in range(len(size))
                for mine in [case.flow == number]
            ],
        }
        for case, size in zip(cases, sizes, strict=True)
    ]
    return [np.array(ends) for first in range(0, len(cases), BATCH) for ends in ended(platforms[first : first + BATCH])]


def ended(platforms: list[dict[str, Any]]) -> list[list[float]]:
    """What the judge says. A process takes time by the square of its platforms, so that it gets few."""
    assert SIMGRID is not None
    assert SIMGRID.origin is not None
    # SimGrid's wheel has its library beside its module, where the loader does not look for it.
    library = str(Path(SIMGRID.origin).parent)
    done = subprocess.run(  # noqa: S603 - our own script
        [sys.executable, str(JUDGE)],
        input=json.dumps(platforms),
        env=os.environ | {"LD_LIBRARY_PATH": os.pathsep.join([library, os.environ.get("LD_LIBRARY_PATH", "")])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: list[list[float]] = json.loads(done.stdout)
    return found


def check_rates(cases: list[Case]) -> None:
    """Each flow gets the bytes that it moves in a second at our rate: with the same rates all end after one second,
    and no rate changes before."""
    sizes = [np.round(case.rates()) for case in cases]
    for ends, case in zip(judged(cases, sizes), cases, strict=True):
        assert len(ends) == len(case.limit)
        assert np.abs(ends - 1).max() < SAME


def a_thousand() -> list[Case]:
    """Drawn platforms, each other one a fat tree."""
    rng = np.random.default_rng(1)
    return [drawn(rng, 1) if number % 2 else on_a_fat_tree(rng) for number in range(PLATFORMS)]


def test_rates_are_those_that_simgrid_confirmed() -> None:
    found = np.concatenate([case.rates() for case in a_thousand()])
    assert found == pytest.approx(np.load(CONFIRMED)["rates"], rel=SAME)


@needs_simgrid
def test_rates_are_those_of_simgrid_on_a_thousand_drawn_platforms() -> None:
    cases = a_thousand()
    assert sum(len(np.unique(case.rates().round())) > 3 for case in cases) > PLATFORMS / 2
    check_rates(cases)


@needs_simgrid
def test_rates_are_those_of_simgrid_where_flows_load_links_several_times() -> None:
    rng = np.random.default_rng(2)
    check_rates([drawn(rng, 4) for _ in range(200)])


@needs_simgrid
def test_a_wrong_rate_is_noticed() -> None:
    """Two flows on a link of 10 GB/s: 4 and 6 GB do not both end after a second."""
    index = np.zeros(2, dtype=np.int64)
    case = Case(np.arange(2), index, np.ones(2), np.array([10 * GB]), np.full(2, NO_LIMIT))
    (ends,) = judged([case], [np.array([4 * GB, 6 * GB])])
    assert ends == pytest.approx([0.8, 1.0], rel=SAME)


def ends_of(case: Case, sizes: np.ndarray) -> np.ndarray:
    """When our network ends each flow, all having started at once."""
    count = len(sizes)
    everything = Flows(
        types=(FlowType("tp", "all_reduce", "tp", "ring"),),
        type=np.zeros(count, dtype=np.int64),
        latency_s=np.zeros(count),
        work_per_byte=np.ones(count),
        limit_per_s=case.limit,
        row_flow=case.flow,
        row_link=case.link,
        row_load=case.load,
        member_flow=np.arange(count),
        member_rank=np.arange(count),
        member_role=np.zeros(count, dtype=np.int64),
        link_bytes_per_s=case.capacity,
        link_count=np.ones(len(case.capacity), dtype=np.int64),
        link_tier=np.zeros(len(case.capacity), dtype=np.int64),
        tiers=("wire",),
    )
    env = simpy.Environment()
    network = SharedNetwork(env, everything, rivals(everything))
    ended = np.full(count, np.nan)

    def note(flow: int) -> None:
        ended[flow] = env.now

    network.on_end = note
    for flow, size in enumerate(sizes.tolist()):
        network.start(flow, size, flow)
    env.run()
    return ended


@needs_simgrid
def test_flows_of_any_sizes_end_when_simgrid_ends_them() -> None:
    """Rates are settled again whenever one ends, in the engine's network and in SimGrid's."""
    rng = np.random.default_rng(3)
    cases = [drawn(rng, 1) if number % 2 else on_a_fat_tree(rng) for number in range(200)]
    sizes = [np.round(rng.uniform(0.1, 10, len(case.limit)) * GB) for case in cases]
    for ends, case, size in zip(judged(cases, sizes), cases, sizes, strict=True):
        assert ends == pytest.approx(ends_of(case, size), rel=SAME)


if __name__ == "__main__":
    thousand = a_thousand()
    check_rates(thousand)
    np.savez_compressed(CONFIRMED, rates=np.concatenate([case.rates() for case in thousand]))
