"""The renewal form: its optimum is one, Young's is near it, and published shares come out."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.decide.recovery import best_interval_s, mtbf_s, training_share


def test_a_failure_of_any_node_stops_the_job():
    """Llama 3: 3.79 in 1,000 node-days on 2,048 nodes is one in 3.09 hours."""
    assert mtbf_s(3.79, 2048) / 3600 == pytest.approx(3.09, abs=5e-3)


@given(st.floats(1e3, 1e7), st.floats(1e-4, 0.5), st.floats(0.01, 3))
def test_no_other_interval_trains_more(mtbf: float, cost_share: float, step: float):
    cost = cost_share * mtbf
    best = best_interval_s(mtbf, cost)
    least = training_share(best, mtbf, cost, 300.0)
    for factor in (math.exp(step), math.exp(-step)):
        assert training_share(best * factor, mtbf, cost, 300.0) < least


@pytest.mark.parametrize(("ratio", "off"), [(0.001, 0.015), (0.01, 0.049), (0.1, 0.167)])
def test_youngs_interval_is_longer_than_the_best(ratio: float, off: float):
    assert math.sqrt(2 * ratio) / best_interval_s(1.0, ratio) - 1 == pytest.approx(off, abs=1e-3)


@pytest.mark.parametrize(("minutes", "published"), [(60, 0.70), (5, 0.93)])
def test_metas_shares_for_16000_gpus(minutes: float, published: float):
    """arXiv 2410.21680: 6.5 failures in 1,000 node-days, 5 minutes to restart, checkpoints that cost little."""
    share = training_share(minutes * 60, mtbf_s(6.5, 2000), 1.0, 300.0)
    assert share == pytest.approx(published, abs=0.025)


def test_the_share_is_what_a_drawn_run_has():
    """Failures drawn from the exponential distribution, also while the job restarts."""
    mtbf, interval, cost, restart = 10_000.0, 1_500.0, 60.0, 400.0
    draw = np.random.default_rng(7)
    segments, clock_s = 4_000, 0.0
    for _ in range(segments):
        needed = interval + cost
        while (fails_s := draw.exponential(mtbf)) < needed:
            clock_s += fails_s
            needed = restart + interval + cost
        clock_s += needed
    assert segments * interval / clock_s == pytest.approx(training_share(interval, mtbf, cost, restart), rel=0.02)
