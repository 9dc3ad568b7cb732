"""Published runs have sources and scenarios that load; hours follow from steps and failures."""

from __future__ import annotations

import pytest

from sim.decide import recovery
from sim.decide.published import SCENARIOS, hours_table, predicted, published_runs
from sim.decide.vectors import vectors_table
from sim.simulation import load
from sim.spec.parameters import parameters

PLAYED = [run for run in published_runs() if run.phases]


@pytest.mark.parametrize("run", published_runs(), ids=lambda run: run.model)
def test_a_run_has_a_source_and_a_utilisation_that_can_be(run):
    assert "arXiv" in run.source or "MODEL_CARD" in run.source
    peak = {"a100-80gb-sxm": 312e12, "h100-sxm": 989e12, "h800-sxm": 989e12}[run.gpu]
    used = 6 * run.parameters * run.tokens / (run.gpu_hours * 3600 * peak)
    assert (0.3 if run.bound == "exact" else 0.1) < used < 0.55


@pytest.mark.parametrize("run", PLAYED, ids=lambda run: run.model)
def test_the_phases_of_a_run_hold_its_tokens_and_its_model(run):
    assert sum(tokens for _, tokens in run.phases) == pytest.approx(run.tokens)
    assert run.bound == "exact"
    for name, _ in run.phases:
        scenario = load(SCENARIOS / f"{name}.yaml")
        assert scenario.gpu.name == run.gpu
        assert parameters(scenario.model).active == pytest.approx(run.parameters, rel=0.02)


def test_every_scenario_of_a_run_is_played_and_says_what_is_assumed():
    names = {path.stem for path in SCENARIOS.glob("*.yaml")}
    assert names == {name for run in PLAYED for name, _ in run.phases}
    for path in SCENARIOS.glob("*.yaml"):
        assert path.read_text().startswith("# ")


def test_hours_are_steps_over_the_time_that_trains():
    (run,) = [run for run in PLAYED if run.model == "Llama 2 7B"]
    found = predicted(run)
    steps = 2e12 / (1024 * 4096)
    mtbf = recovery.mtbf_s(6.5, 128)
    cost = parameters(found.steps[0].scenario.model).total * 14 / 57.5e9
    share = recovery.training_share(recovery.best_interval_s(mtbf, cost), mtbf, cost, 600.0)
    assert found.gpu_hours == pytest.approx(steps * found.steps[0].step_time_s * 1024 / 3600 / share, rel=1e-9)
    assert abs(found.error) < 0.20
    assert "of 1 runs" in hours_table([found]).note


def test_every_law_is_in_the_table_of_vectors_within_what_is_allowed():
    for row in vectors_table().rows:
        assert abs(row[5]) <= row[6]
