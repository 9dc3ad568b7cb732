"""Figures over a set of results."""

from __future__ import annotations

import math
import re
from functools import partial
from itertools import pairwise

import matplotlib.pyplot as plt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.report.figures.style import picture
from sim.report.points import Point, ranked
from sim.report.sets import SET_FIGURES
from sim.report.sets.importance import shares
from sim.report.sets.pareto import front, million_tokens
from sim.report.sets.scaling import _strong, _weak, curves
from sim.report.sets.waterfall import differences

NAMES = ["heatmap", "importance", "parallel", "pareto", "scaling", "waterfall"]
TOKENS = 2**20


def point(tp=1, pp=1, gpus=64, *, speed=None, batch=128, memory=40.0, fits=True, **more) -> Point:
    """A result whose speed falls with tp and pp."""
    each = speed if speed is not None else 1000.0 / (1 + 0.2 * math.log2(tp) + 0.05 * math.log2(pp))
    step_s = batch * 4096 / (each * gpus)
    answers = {
        "step_time_s": step_s,
        "tokens_per_s": each * gpus,
        "tokens_per_s_per_gpu": each,
        "peak_bytes": memory * 2**30,
        "usd_per_token": 2.0 / 3600 / each,
        "tokens_per_j": each / 600,
        "mfu": each / 2500,
    }
    settings = {"model": "m", "layout.tp": tp, "layout.pp": pp, "num_gpus": gpus}
    settings |= {"training.global_batch": batch, "training.seq_len": 4096}
    breakdown_s = {"gemm": 0.5 * step_s, "exposed_tp": 0.3 * step_s, "bubble": 0.2 * step_s}
    return Point(f"tp{tp}-pp{pp}-{gpus}", settings, answers | more, fits, breakdown_s)


GRID = ranked(
    [
        *(point(tp, pp, memory=80 / tp / pp, fits=tp * pp > 1) for tp in (1, 2, 4) for pp in (1, 2, 4)),
        point(2, 2, 128, batch=128, speed=800.0),
        point(2, 2, 128, batch=256, speed=950.0),
    ]
)


def test_these_figures_of_sets_exist():
    assert list(SET_FIGURES) == NAMES
    assert len({figure.place for figure in SET_FIGURES.values()}) == len(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_figure_of_a_set_is_drawn_the_same_twice(name):
    figure = SET_FIGURES[name]
    points = GRID if name != "waterfall" else [point(2, 1), point(4, 1), *GRID]
    assert figure.applies(points)
    one, two = (picture(partial(figure.draw, points)) for _ in range(2))
    assert one == two
    assert "<text" in one.svg, "text is not selectable"


@pytest.mark.parametrize("name", NAMES)
def test_axes_of_a_figure_of_a_set_have_labels(name):
    points = GRID if name != "waterfall" else [point(2, 1), point(4, 1), *GRID]
    canvas = SET_FIGURES[name].draw(points)
    labels = [text for axes in canvas.axes for text in (axes.get_xlabel(), axes.get_ylabel()) if text]
    assert labels
    assert any(axes.get_title(loc="left") or axes.get_title() for axes in canvas.axes)
    units = r"\((GiB|s|ms|%|GPUs|stages|US dollars|kWh)\)|tokens/s|GPUs"
    assert all(re.search(units, label) for label in labels), labels
    plt.close("all")


@pytest.mark.parametrize("name", NAMES)
def test_a_figure_that_has_nothing_to_say_is_left_out(name):
    assert not SET_FIGURES[name].applies([point()])


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), min_size=1, max_size=30))
def test_the_front_is_what_nothing_beats(pairs):
    costs, speeds = [float(cost) for cost, _ in pairs], [float(speed) for _, speed in pairs]
    kept = front(costs, speeds)
    for index in range(len(pairs)):
        beaten = any(costs[k] <= costs[index] and speeds[k] >= speeds[index] for k in kept)
        assert beaten
    for one, two in pairwise(kept):
        assert costs[one] < costs[two]
        assert speeds[one] < speeds[two]


def test_cost_is_money_where_all_have_a_price_else_energy():
    priced, free = point(), point()
    free = Point(free.name, free.settings, {k: v for k, v in free.answers.items() if k != "usd_per_token"}, True, {})
    unit, costs = million_tokens([priced])
    assert (unit, costs) == ("US dollars", [pytest.approx(2.0 / 3600 / 1000 * 1e6)])
    unit, costs = million_tokens([priced, free])
    assert (unit, costs) == ("kWh", [pytest.approx(1e6 * 0.6 / 3.6e6)] * 2)


def test_importance_of_independent_factors_adds_up_to_one():
    # log speed = a(tp) + b(pp) over a full grid: the first-order indices are Var(a) and Var(b) over their sum.
    points = [point(tp, pp, speed=math.exp(1.0 * (tp == 2) + 0.5 * (pp == 2))) for tp in (1, 2) for pp in (1, 2)]
    found = dict(shares(points))
    assert found == {"layout.tp": pytest.approx(0.8), "layout.pp": pytest.approx(0.2)}


def test_a_setting_without_effect_explains_nothing():
    points = [point(tp, pp, speed=float(tp)) for tp in (1, 2) for pp in (1, 2)]
    assert dict(shares(points))["layout.pp"] == pytest.approx(0.0)


def test_a_waterfall_adds_up_to_the_difference_of_the_steps():
    best, other = point(1), point(4)
    changes = differences(best, other)
    assert sum(changes.values()) == pytest.approx(other.answers["step_time_s"] - best.answers["step_time_s"])
    assert list(changes) == ["GEMM", "TP", "bubble"]


def test_results_of_different_work_have_no_waterfall():
    assert not SET_FIGURES["waterfall"].applies([point(batch=128), point(2, batch=256)])


def test_scaling_takes_the_fastest_that_fits_of_each_size():
    points = [*GRID, point(1, 1, 128, batch=128, speed=5000.0, fits=False)]
    (strong,) = curves(points, _strong).values()
    (weak,) = curves(points, _weak).values()
    best = max(each.answers["tokens_per_s_per_gpu"] for each in GRID if each.fits and each.settings["num_gpus"] == 64)
    assert strong == [(64, best), (128, 800.0)]
    assert weak == [(64, best), (128, 950.0)]
