"""From step to step in a steady run."""

from __future__ import annotations

import numpy as np
import pytest

from sim.results.steady import own_spans
from sim.simulation import Simulation, load, run

BASE = "tests/small.yaml"
PIPELINE = ["layout.pp=4", "layout.dp=4", "layout.zero=0", "layout.schedule=zb_h2", "training.global_batch=32"]


def play(*settings: str) -> Simulation:
    return run(load(BASE, settings))


def test_with_a_global_norm_a_step_of_its_own_and_one_of_many_are_equally_long() -> None:
    result = play(*PIPELINE).result
    assert result.step_time_s == pytest.approx(result.lone_step_s, rel=5e-3)


@pytest.mark.parametrize("setting", ["training.grad_norm=post_validation", "training.clip_grad=false"])
def test_without_it_a_step_takes_the_longest_span_of_a_rank(setting: str) -> None:
    simulation = play(*PIPELINE, setting)
    result = simulation.result
    begins, ends = own_spans(simulation.timeline)
    assert result.step_time_s == float((ends - begins).max())
    assert result.step_time_s < 0.99 * result.lone_step_s
    for parts in result.breakdown_s_by_rank.values():
        assert sum(parts.values()) == pytest.approx(result.step_time_s, rel=1e-9)


def test_repeated_after_its_step_time_no_rank_begins_before_it_has_ended() -> None:
    simulation = play(*PIPELINE, "training.clip_grad=false")
    begins, ends = own_spans(simulation.timeline)
    assert np.all(begins + simulation.result.step_time_s >= ends - 1e-12)


def test_post_validation_keeps_the_norm_of_each_stage_and_costs_no_more_than_the_barrier() -> None:
    none, stage, world = (
        play(*PIPELINE, setting).result
        for setting in ("training.clip_grad=false", "training.grad_norm=post_validation", "training.grad_norm=global")
    )
    assert none.step_time_s < stage.step_time_s < world.step_time_s
