"""The critical path is a chain of the program that adds up to the step."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from sim.results.critical_path import critical_path
from sim.simulation import load, run

SMALL = str(Path(__file__).parents[1] / "small.yaml")
LAYOUTS: dict[str, dict[str, object]] = {
    "data parallel": {"layout.dp": 16, "layout.zero": 2},
    "pipeline": {"layout.pp": 4, "layout.zero": 1},
    "tensor and pipeline": {"layout.tp": 4, "layout.pp": 2, "layout.sequence_parallel": True},
    "zero bubble": {"layout.pp": 4, "layout.schedule": "zb_h1"},
    "zero 3": {"layout.dp": 16, "layout.zero": 3},
    "a slow GPU": {"layout.pp": 2, "conditions.gpus": {9: 0.7}},
    "a slow host": {"layout.tp": 8, "stack.host": {"kernel": "20 us", "collective": "20 us", "graph": "20 us"}},
}


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("fidelity", ["fused", "folded", "full"])
def test_its_parts_add_up_to_the_step_in_every_fidelity(name: str, fidelity: str):
    simulation = run(load(SMALL, LAYOUTS[name]), fidelity)
    path = critical_path(simulation.timeline)
    step_s = simulation.result.lone_step_s
    assert path.step_s == pytest.approx(step_s, rel=1e-9)
    assert sum(path.seconds_by_pp_rank.values()) == pytest.approx(step_s, rel=1e-9)
    assert all(seconds >= -1e-9 * step_s for seconds in path.seconds_by_cause.values())


@pytest.mark.parametrize("name", LAYOUTS)
def test_each_operation_waits_for_the_one_before_it(name: str):
    timeline = run(load(SMALL, LAYOUTS[name])).timeline
    program, nodes = timeline.program, critical_path(timeline).nodes
    edges = set(zip(program.source.tolist(), program.target.tolist(), strict=True))
    assert all(pair in edges for pair in itertools.pairwise(nodes))
    assert timeline.end_s[nodes[-1]] == timeline.step_s
    assert (np.diff(timeline.end_s[list(nodes)]) >= 0).all()


def test_a_slow_stage_is_where_the_path_runs():
    slow = {"layout.pp": 2, "conditions.gpus": dict.fromkeys(range(8, 16), 0.5)}
    path = critical_path(run(load(SMALL, slow)).timeline)
    assert path.seconds_by_pp_rank[1] > 2 * path.seconds_by_pp_rank[0]


def test_a_slow_host_is_on_the_path():
    path = critical_path(run(load(SMALL, LAYOUTS["a slow host"])).timeline)
    assert path.seconds_by_cause["host_launch"] > 0
