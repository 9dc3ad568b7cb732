from __future__ import annotations

import pytest

import sim
from sim.study.executors.here import Here
from sim.study.play import Outcome, lost
from sim.study.store import Store
from sim.study.sweep import estimate, plan, state_of_points, sweep


class Counting:
    """Plays here, and counts what it was given."""

    num_workers = 1

    def __init__(self) -> None:
        self.keys: list[str] = []

    def play(self, tasks):
        for task in tasks:
            self.keys.append(task.key)
            yield from Here().play(iter([task]))


class Crashing:
    """A place where every worker dies."""

    num_workers = 1

    def play(self, tasks):
        return (lost(task, "it died") for task in tasks)


@pytest.fixture
def store(tmp_path):
    def tell(message: str) -> None:
        raise AssertionError(message)

    opened = Store(tmp_path / "results.sqlite", tell)
    yield opened
    opened.close()


def by_index(rows):
    return sorted(rows, key=lambda row: row.index)


def test_every_point_has_a_row_and_impossible_ones_say_why(points):
    rows = by_index(sweep(plan(points())))
    assert [row.values for row in rows] == [{"training.micro_batch": size} for size in (1, 3, 4)]
    assert [row.status for row in rows] == ["done", "impossible", "done"]
    assert "global_batch = 8 is no multiple of dp * micro_batch = 2 * 3 = 6" in rows[1].error


def test_a_row_has_the_numbers_of_a_run_to_the_bit(points):
    first, _, last = points()
    rows = by_index(sweep(plan([first, last])))
    for row, point in zip(rows, (first, last), strict=True):
        expected = sim.simulate(point.scenario).to_dict()
        del expected["scenario"]
        assert row.result["step_time_s"] == expected["step_time_s"]
        assert row.result["breakdown_s"] == expected["breakdown_s"]
        assert row.result.keys() == expected.keys()


def test_what_cannot_be_played_stands_beside_what_can(points):
    swept = "sweep: {product: {network.algorithms.all_gather: [ring, hierarchical]}}\n"
    good, bad = by_index(sweep(plan(points(swept))))
    assert (good.status, bad.status) == ("done", "failed")
    assert "hierarchical does not run in these groups" in bad.error


def test_a_bug_that_one_point_meets_is_told_and_the_others_are_played(points, monkeypatch):
    real = sim.simulation.simulate

    def simulate(scenario, fidelity):
        assert scenario.training.micro_batch != 4, "a bug"
        return real(scenario, fidelity)

    monkeypatch.setattr("sim.study.play.simulate", simulate)
    rows = by_index(sweep(plan(points())))
    assert [row.status for row in rows] == ["done", "impossible", "crashed"]
    assert "AssertionError: a bug" in rows[2].error


def test_points_of_one_scenario_are_played_once(points):
    swept = "sweep: {product: {layout.dp: [2, null], name: [first, second]}}\n"
    executor = Counting()
    rows = by_index(sweep(plan(points(swept)), executor=executor))
    assert len(executor.keys) == 1
    assert [row.index for row in rows] == [0, 1, 2, 3]
    assert len({row.packed for row in rows}) == 1


def test_what_is_stored_is_not_played_again_and_says_the_same(points, store):
    fresh = by_index(sweep(plan(points()), store))
    executor = Counting()
    again = by_index(sweep(plan(points()), store, executor))
    assert executor.keys == []
    assert [row.packed for row in again] == [row.packed for row in fresh]
    assert [row.is_stored for row in again] == [True, False, True]


def test_a_larger_sweep_plays_only_what_is_new(points, store):
    list(sweep(plan(points()), store))
    executor = Counting()
    list(sweep(plan(points("sweep: {product: {training.micro_batch: [1, 2, 4]}}\n")), store, executor))
    assert len(executor.keys) == 1


def test_each_fidelity_is_kept_on_its_own_and_says_the_same_time(points, store):
    fused = by_index(sweep(plan(points()), store))
    full = by_index(sweep(plan(points(), "full"), store))
    assert [row.is_stored for row in full] == [False] * 3
    assert [row.result["step_time_s"] for row in full if row.packed] == pytest.approx(
        [row.result["step_time_s"] for row in fused if row.packed], rel=1e-9
    )


def test_a_failure_is_kept_and_a_crash_is_tried_again(points, store):
    swept = "sweep: {product: {network.algorithms.all_gather: [hierarchical]}}\n"
    list(sweep(plan(points(swept)), store))
    (failed,) = sweep(plan(points(swept)), store)
    assert (failed.status, failed.is_stored) == ("failed", True)
    crashed = [row.status for row in sweep(plan(points()), store, Crashing())]
    assert sorted(crashed) == ["crashed", "crashed", "impossible"]
    assert sorted(row.status for row in sweep(plan(points()), store)) == ["done", "done", "impossible"]


def test_a_point_is_in_the_store_before_its_row_is_given(points, store):
    planned = plan(points())
    for row in sweep(planned, store):
        if row.packed is not None:
            key = next(key for key, indices in planned.wanted.items() if row.index in indices)
            assert store.has(key, "fused")


def test_a_point_that_another_process_plays_meanwhile_is_not_played_again(points, store):
    planned = plan(points())

    class Meanwhile(Counting):
        def play(self, tasks):
            list(sweep(plan(points()), store))
            yield from super().play(tasks)

    executor = Meanwhile()
    rows = by_index(sweep(planned, store, executor))
    assert executor.keys == []
    assert [row.status for row in rows] == ["done", "impossible", "done"]


def test_the_state_of_points_is_told_without_playing_any(points, store):
    list(sweep(plan(points()[:1]), store))
    states = state_of_points(plan(points()), store)
    assert [state.kind for state in states] == ["stored", "impossible", "to play"]
    assert "no multiple" in states[1].text


def test_an_estimate_is_a_mean_of_points_that_were_timed(points, monkeypatch):
    swept = "sweep: {product: {training.global_batch: {first: 8, last: 160, step: 8}}}\n"
    planned = plan(points(swept))
    taken = iter([9.0, *range(1, 9)])

    def play(task):
        return Outcome(task.key, "done", "", float(next(taken)), None, "")

    monkeypatch.setattr("sim.study.sweep.play", play)
    assert estimate(planned, list(planned.wanted), limit_s=100.0) == (4.5, 8)
