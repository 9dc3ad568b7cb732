"""The search finds what exhaustive play finds, over the layouts that the loader accepts."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import sim
from sim.errors import SimError
from sim.program.check import problems
from sim.program.memory import memory
from sim.spec import load as files
from sim.spec.scenario import Scenario
from sim.study.search import Found, constraint, goal_of, search
from sim.study.space import candidates, legal, orders, own_choice, parsed_axes, played_as, scenario_of

SMALL = str(Path(__file__).parents[1] / "small.yaml")
AXES = "tp,pp,vpp,zero,micro_batch,recompute"


@pytest.fixture(scope="module")
def small() -> Scenario:
    # Vocabulary and sequence are short so that a play takes milliseconds; 16 GPUs.
    return files.load(SMALL, {"training.global_batch": 16}, checks=[problems])


def found_over(scenario: Scenario, axes: str, **options: Any) -> Found:
    return search(scenario, goal_of(scenario, "step_time"), parsed_axes(axes), **options)


def brute_force(overrides: dict[str, object]) -> set[tuple[int, ...]]:
    """Layouts that the loader accepts of all combinations of small numbers, schedules as the search would have them."""
    found = set()
    for tp, pp, vpp, micro_batch in itertools.product(range(1, 5), range(1, 5), range(1, 4), range(1, 4)):
        changes = {
            "layout.tp": tp,
            "layout.pp": pp,
            "layout.vpp": vpp,
            "layout.sequence_parallel": tp > 1,
            "layout.schedule": "1f1b" if vpp == 1 else "interleaved_1f1b",
            "training.micro_batch": micro_batch,
        }
        try:
            sim.load(SMALL, overrides | changes)
        except SimError:
            continue
        found.add((tp, pp, vpp, micro_batch))
    return found


def test_the_space_is_what_a_brute_force_over_all_numbers_finds():
    overrides: dict[str, object] = {"training.global_batch": 8}
    scenario = files.load(SMALL, overrides | {"layout.tp": 2}, checks=[problems])
    ours = {
        (each.tp, each.pp, each.vpp, each.micro_batch)
        for each in candidates(scenario, parsed_axes("tp,pp,vpp,micro_batch"))
        if not isinstance(legal(scenario, each), str)
    }
    theirs = brute_force(overrides)
    assert len(theirs) > 10
    assert {each for each in ours if each[0] <= 4 and each[3] <= 3} == theirs


def test_the_optimum_and_the_proven_places_are_those_of_exhaustive_play(small: Scenario):
    axes = "tp=1:2:4:8,pp=1:2:4,zero=0:1:3,micro_batch=1:2,schedule=1f1b:gpipe"
    found = found_over(small, axes)
    steps = []
    for choice in candidates(small, parsed_axes(axes)):
        made = legal(small, choice)
        if not isinstance(made, str) and all(stage.fits for stage in memory(made)):
            steps.append(sim.simulate(made).step_time_s)
    assert found.is_proven
    assert found.gap == 0.0
    assert found.ranking[0].step_s == pytest.approx(min(steps), rel=1e-9)
    proven = [each.step_s for each in found.ranking[: found.num_proven]]
    distinct = sorted({round(step_s, 12) for step_s in steps})
    assert {round(step_s, 12) for step_s in proven} == set(distinct[: len({round(each, 12) for each in proven})])
    assert found.num_played < len(steps) / 2


def test_every_legal_layout_is_accounted_for(small: Scenario):
    found = found_over(small, AXES, constraints=[constraint("memory<0.2"), constraint("tp<=4")])
    left = found.pruned_by_bound + found.pruned_alone + found.excluded_by_memory + found.num_played
    assert left + len(found.unplayable) == found.legal
    assert found.excluded_by_axes > 0
    assert all(each.memory_frac < 0.2 and each.choice.tp <= 4 for each in found.ranking)
    assert all(each.bound_s <= each.step_s for each in found.ranking)


def test_several_processes_find_the_same(small: Scenario):
    axes = "tp=1:2,pp=1:2,zero=0:1"
    assert found_over(small, axes, workers=2) == found_over(small, axes)


def test_a_stopped_search_tells_the_gap_that_is_left(small: Scenario):
    whole, stopped = found_over(small, "tp,pp,zero"), found_over(small, "tp,pp,zero", max_plays=1)
    assert not stopped.is_proven
    assert stopped.gap is not None
    best_s = stopped.ranking[0].step_s
    assert whole.ranking[0].step_s >= best_s / (1 + stopped.gap) * (1 - 1e-9)


def test_what_is_played_alike_is_played_once(small: Scenario):
    # Without replicas ZeRO-0, 1 and 2 shard nothing.
    found = found_over(small, "tp=2:4,pp=4,zero=0:1:2")
    assert (found.candidates, found.legal, found.duplicates) == (6, 4, 2)
    keys = []
    for zero in (0, 1, 2):
        choice = next(iter(candidates(small, parsed_axes(f"tp=4,pp=4,zero={zero}"))))
        made = legal(small, choice)
        assert not isinstance(made, str)
        keys.append(played_as(made, choice))
        assert sim.simulate(made).step_time_s == pytest.approx(sim.simulate(scenario_of(small, choice)).step_time_s)
    assert len(set(keys)) == 1


def test_objectives_are_functions_of_the_step(small: Scenario):
    goal = goal_of(small, "cost", price=2.5)
    assert goal.value(36.0) == pytest.approx(16 * 0.01 * 2.5)
    assert goal_of(small, "tokens_per_s_per_gpu").value(2.0) == 16 * 1024 / 2.0 / 16
    with pytest.raises(SimError, match="price of a GPU-hour"):
        search(small, goal_of(small, "cost"), parsed_axes("tp"))


@given(st.permutations(["tp", "cp", "dp", "pp"]))
def test_every_order_of_split_axes_is_among_the_orders(axes: list[str]):
    assert "-".join(axes) in orders(2, 2, 1, 2, 2)


def test_there_are_as_many_orders_as_permutations_of_what_is_split():
    assert len(orders(2, 2, 4, 2, 2)) == math.factorial(4)
    assert len(orders(8, 1, 1, 8, 2)) == math.factorial(3)
    assert orders(1, 1, 1, 1, 1) == ("",)


def test_the_scenarios_own_point_gives_the_scenario_back():
    scenario = files.load("llama2-70b_128xh100_tp8-pp2-dp8", checks=[problems])
    assert scenario_of(scenario, own_choice(scenario)).layout == scenario.layout
    assert scenario_of(scenario, own_choice(scenario)).training == scenario.training


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tpp", "no such axis|unknown axis"),
        ("tp,tp=2", "tp stands twice"),
        ("tp=two", "tp is a whole number"),
        ("recompute=some", "recompute"),
    ],
)
def test_a_wrong_axis_is_told(text: str, message: str):
    with pytest.raises(SimError, match=message):
        parsed_axes(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("memory", "no constraint"),
        ("weight<1", "weight"),
        ("memory<much", "memory is a number"),
        ("schedule<1f1b", "schedule is a word"),
    ],
)
def test_a_wrong_constraint_is_told(text: str, message: str):
    with pytest.raises(SimError, match=message):
        constraint(text)
