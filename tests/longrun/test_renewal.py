"""Closed forms of checkpointing: the optimum, its approximations, and published figures."""

import math

import pytest
from scipy.optimize import minimize_scalar

from sim.longrun.predict import LLAMA3, OTHERS, predicted_count
from sim.longrun.renewal import (
    daly_interval_s,
    ettr,
    exact_interval_s,
    meta_ettr,
    segment_time_s,
    without_checkpoints,
    young_interval_s,
)
from sim.longrun.validate import llama3_ettr, rows

RATIOS = [1e-5, 1e-4, 1e-3, 1e-2, 0.03, 0.1]


@pytest.mark.parametrize("ratio", RATIOS)
def test_no_interval_beats_the_exact_one(ratio: float) -> None:
    best = minimize_scalar(
        lambda log: segment_time_s(math.exp(log), 1.0, ratio, 0.1) / math.exp(log), bounds=(-12, 2), method="bounded"
    )
    assert exact_interval_s(1.0, ratio) == pytest.approx(math.exp(best.x), rel=1e-3)
    assert ettr(exact_interval_s(1.0, ratio), 1.0, ratio, 0.1) >= (1 - 1e-12) / best.fun


@pytest.mark.parametrize("ratio", RATIOS)
def test_daly_is_within_a_twentieth_of_a_percent_of_the_exact_optimum(ratio: float) -> None:
    assert daly_interval_s(1.0, ratio) == pytest.approx(exact_interval_s(1.0, ratio), rel=5e-4)


@pytest.mark.parametrize(("ratio", "percent"), [(0.001, 1.5), (0.01, 4.9), (0.1, 16.7)])
def test_young_is_too_long_by_so_much(ratio: float, percent: float) -> None:
    off = young_interval_s(1.0, ratio) / exact_interval_s(1.0, ratio) - 1
    assert 100 * off == pytest.approx(percent, abs=0.06)


def test_daly_saves_no_more_often_than_it_fails_where_a_checkpoint_takes_that_long() -> None:
    assert daly_interval_s(10.0, 20.0) == 10.0


def test_without_checkpoints_is_the_limit_of_ever_shorter_intervals() -> None:
    assert ettr(1e-9, 700.0, 0.0, 60.0) == pytest.approx(without_checkpoints(700.0, 60.0), rel=1e-6)


def test_what_never_ends_keeps_nothing_and_what_costs_nothing_keeps_all() -> None:
    assert ettr(1e9, 1.0, 0.0, 0.0) == 0.0
    assert ettr(0.0, 1.0, 0.0, 0.0) == 1.0
    assert ettr(0.0, 3.0, 0.0, 0.0, 1.0) == pytest.approx(0.75)


def test_the_linear_form_agrees_where_little_is_lost_and_breaks_where_much_is() -> None:
    assert meta_ettr(300, 6646.0, 0, 300) == pytest.approx(ettr(300, 6646.0, 0, 300), abs=0.005)
    assert ettr(420, 811.0, 0, 300) - meta_ettr(420, 811.0, 0, 300) > 0.1


@pytest.mark.parametrize("row", [row for row in rows() if not row.hidden], ids=lambda row: row.name)
def test_a_published_share_is_met_within_three_points(row) -> None:
    assert abs(row.error) <= 0.03


def test_rows_with_hidden_inputs_are_shown_and_not_met() -> None:
    hidden = [row for row in rows() if row.hidden]
    assert len(hidden) == 2
    assert all(row.error > 0.03 for row in hidden)


@pytest.mark.parametrize(("restart_min", "block_s"), [(2, 48), (5, 33), (10, 14.5), (15, 3.3)])
def test_llama_3_keeps_nine_tenths_exactly_up_to_this_cost(restart_min: float, block_s: float) -> None:
    assert llama3_ettr(block_s, 60 * restart_min) > 0.9
    assert llama3_ettr(1.03 * block_s, 60 * restart_min) < 0.9


def test_other_clusters_predict_the_interruptions_of_llama_3() -> None:
    predicted = predicted_count([cluster.rate for cluster in OTHERS], LLAMA3.node_days / 1000)
    assert LLAMA3 not in OTHERS
    assert predicted.low < LLAMA3.count < predicted.high
    assert predicted.median / 2 < LLAMA3.count < 2 * predicted.median


def test_more_alike_clusters_predict_a_narrower_interval() -> None:
    wide = predicted_count([1.0, 4.0, 16.0], 100.0)
    narrow = predicted_count([3.0, 4.0, 16 / 3], 100.0)
    assert wide.median == pytest.approx(narrow.median)
    assert wide.low < narrow.low < narrow.high < wide.high


def test_a_habit_of_500_steps_costs_llama_3_at_least_six_points() -> None:
    mtbf_s = 54 * 86400 / 419
    assert ettr(500 * 6.24, mtbf_s, 6.0, 300.0) < 0.845
    assert ettr(exact_interval_s(mtbf_s, 6.0), mtbf_s, 6.0, 300.0) > 0.9
