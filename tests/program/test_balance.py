"""Layers of each stage such that the slowest stage is as fast as possible."""

import itertools
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from sim.errors import SimError
from sim.program.balance import StageTimes, balanced, resolved, stage_times
from sim.program.shapes import shapes
from sim.program.stage import recomputed_units, units_of_stage
from sim.results.idle import pipeline_window
from sim.simulation import run, simulate
from sim.spec.conditions import built_fabric
from sim.spec.layout import layers_of_stages
from sim.spec.scenario import Scenario

Make = Callable[[dict[str, object]], Scenario]
Counts = tuple[int, ...]
WIDE = {"model.vocab": 512_000, "model.num_layers": 16, "layout.pp": 4}


def times(layers: list[float], first: float = 0.0, last: float = 0.0) -> StageTimes:
    sums = np.concatenate([[0.0], np.cumsum(layers)])
    between = sums[None, :] - sums[:, None]
    between[np.tril_indices(len(sums), -1)] = np.inf
    return StageTimes(between, first, last)


def stages_s(given_times: StageTimes, counts: Counts) -> list[float]:
    cuts = [0, *itertools.accumulate(counts)]
    found = [float(given_times.layers_s[start, end]) for start, end in itertools.pairwise(cuts)]
    found[0] += given_times.first_s
    found[-1] += given_times.last_s
    return found


def ways(layers: int, stages: int) -> Iterator[Counts]:
    """All ways to cut layers into stages, of which only the first and the last may be empty."""
    for cuts in itertools.combinations_with_replacement(range(layers + 1), stages - 1):
        ends = [0, *cuts, layers]
        counts = tuple(end - start for start, end in itertools.pairwise(ends))
        if all(counts[1:-1]):
            yield counts


@seed(0)
@settings(max_examples=200, deadline=None, database=None)
@given(st.lists(st.integers(1, 9), min_size=3, max_size=8), st.integers(1, 5), st.integers(0, 20), st.integers(0, 20))
def test_no_other_way_has_a_faster_slowest_stage_or_is_as_fast_and_more_even(
    layers: list[int], stages: int, first: int, last: int
) -> None:
    made = times([float(each) for each in layers], float(first), float(last))
    counts = balanced(made, stages)
    assert counts in list(ways(len(layers), stages))

    def key(way: Counts) -> tuple[float, float]:
        found = stages_s(made, way)
        return max(found), sum(each**2 for each in found)

    assert key(counts) == min(map(key, ways(len(layers), stages)))


def test_equal_layers_without_ends_are_divided_evenly() -> None:
    assert balanced(times([1.0] * 12), 4) == (3, 3, 3, 3)


def test_what_is_left_over_goes_to_later_stages_which_hold_fewer_microbatches() -> None:
    assert balanced(times([1.0] * 10), 4) == (2, 2, 3, 3)


def test_a_head_as_heavy_as_two_layers_takes_their_place() -> None:
    assert balanced(times([1.0] * 14, last=2.0), 4) == (4, 4, 4, 2)


def test_a_head_as_heavy_as_a_stage_is_alone() -> None:
    assert balanced(times([1.0] * 12, last=4.0), 4) == (4, 4, 4, 0)


def test_light_layers_that_come_first_are_packed_together() -> None:
    """Dense layers before MoE layers."""
    assert balanced(times([0.5, 0.5, 0.5, 0.5, 1.0, 1.0, 1.0, 1.0]), 3) == (4, 2, 2)


def test_the_listed_layers_are_what_the_scenario_then_holds(small: Make) -> None:
    scenario = small(WIDE | {"layout.stage_layers": "balanced"})
    listed = scenario.layout.stage_layers
    assert isinstance(listed, tuple)
    assert [len(stage) for stage in layers_of_stages(scenario.layout, 16)] == list(listed)
    assert resolved(scenario) is scenario
    assert listed[-1] < 4 < listed[1]


def test_it_is_faster_than_an_even_split_where_the_head_is_heavy(small: Make) -> None:
    even, by_cost = small(WIDE), small(WIDE | {"layout.stage_layers": "balanced"})
    found = stage_times(even, built_fabric(even))
    assert isinstance(by_cost.layout.stage_layers, tuple)
    assert max(stages_s(found, by_cost.layout.stage_layers)) < max(stages_s(found, (4, 4, 4, 4)))
    assert simulate(by_cost).step_time_s < simulate(even).step_time_s


def test_an_embedding_on_the_first_and_multi_token_prediction_on_the_last_stage_count(small: Make) -> None:
    without = small({"layout.pp": 2, "model.num_layers": 16, "layout.stage_layers": "balanced"})
    with_it = small({"layout.pp": 2, "model.num_layers": 16, "layout.stage_layers": "balanced", "model.mtp_layers": 2})
    layers, more = without.layout.stage_layers, with_it.layout.stage_layers
    assert isinstance(layers, tuple)
    assert isinstance(more, tuple)
    assert more[1] < layers[1] < layers[0]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"layout.tp": 8, "layout.sequence_parallel": True},
        {"layout.tp": 4, "training.overlap.tensor": False},
        {"layout.cp": 2, "training.recompute": "selective"},
        {"training.recompute": "full", "training.recompute_layers": 3},
        {"training.recompute": "full", "model.mtp_layers": 1},
        {"layout.ep": 4, "model.experts": {"num_experts": 8, "top_k": 2, "ffn_hidden": 512, "first_dense_layers": 2}},
    ],
)
def test_times_of_all_units_add_up_to_what_a_microbatch_takes(small: Make, changes: dict[str, object]) -> None:
    """Played with nothing beside: no slowdown, no data-parallel traffic before the end."""
    alone = {"topology.nodes": 1, "training.overlap.compute_slowdown": False, "training.overlap.grad_reduce": False}
    scenario = small(alone | {"training.global_batch": 8} | changes)
    scenario = small(alone | {"training.global_batch": scenario.layout.dp} | changes)
    played = run(scenario, "full")
    window = pipeline_window(played.timeline)
    found = stage_times(scenario, built_fabric(scenario))
    total = found.first_s + float(found.layers_s[0, -1]) + found.last_s
    assert window.end_s - window.start_s == pytest.approx(total, rel=1e-9)


def test_layers_that_run_again_count_for_the_first_ones_of_each_stage(small: Make) -> None:
    changes = {"topology": "single-node-h100", "training.recompute": "full", "training.recompute_layers": 2}
    scenario = small(changes)
    found = stage_times(scenario, built_fabric(scenario)).layers_s
    plain = stage_times(small({"topology": "single-node-h100"}), built_fabric(scenario)).layers_s
    again = found - np.where(np.isinf(found), 0.0, plain)
    forward = again[0, 1]
    assert forward > 0
    assert again[1, 2] == pytest.approx(forward)
    assert again[0, 2] == pytest.approx(2 * forward)
    assert again[0, 4] == pytest.approx(2 * forward)
    assert again[1, 4] == pytest.approx(2 * forward)
    order = list(reversed(units_of_stage(scenario, 0, shapes(scenario))))
    assert len(recomputed_units(order, scenario.training)) == 2


def test_too_few_layers_are_refused(small: Make) -> None:
    with pytest.raises(SimError, match=r"4 layers do not reach .* = 8 \* 1 - 2 = 6"):
        small({"layout.pp": 8, "layout.stage_layers": "balanced"})
