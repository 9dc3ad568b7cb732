"""The inference-aware optimum: published savings, limits, and where a smaller model has paid for its training."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.decide.law import LossLaw, Optimum
from sim.decide.laws import LAWS
from sim.decide.serving import Demand, Prices, cheapest, life_flop, life_usd, usd_per_flop, wins_from, wins_from_usd

LAW = LAWS["de_vries"]
assert isinstance(LAW, LossLaw)
PRICES = Prices(2e-18, 1.6e-18, 8e-17)


def chinchilla(parameters: float) -> Optimum:
    """The model of this size at which alpha A / N^alpha = beta B / D^beta."""
    tokens = (LAW.beta * LAW.B * parameters**LAW.alpha / (LAW.alpha * LAW.A)) ** (1 / LAW.beta)
    return Optimum(parameters, tokens)


def best_by_flop(at: Optimum, served: float) -> tuple[Optimum, float]:
    """The cheapest model with the same loss, and the share of FLOP that it saves."""
    demand = Demand(served, 0.25)
    found = cheapest(LAW, LAW.loss(at.parameters, at.tokens), lambda model: life_flop(model, demand))
    return found, 1 - life_flop(found, demand) / life_flop(at, demand)


@pytest.mark.parametrize(
    ("parameters", "served", "size", "more_data", "saved"),
    [
        (13e9, 2e12, 7.0e9, None, 0.174),
        (30e9, 1e13, 13.6e9, 2.84, 0.280),
        (70e9, 1e13, 41.6e9, 1.86, 0.119),
        (7e9, 1e11, 6.0e9, 1.18, None),
    ],
)
def test_sardanas_savings_are_reproduced(
    parameters: float, served: float, size: float, more_data: float | None, saved: float | None
):
    """arXiv 2401.00448: figure 1, section 2, table 2."""
    at = chinchilla(parameters)
    found, share = best_by_flop(at, served)
    assert found.parameters == pytest.approx(size, rel=6e-3)
    if more_data is not None:
        assert found.tokens / at.tokens == pytest.approx(more_data, abs=6e-3)
    if saved is not None:
        assert share == pytest.approx(saved, abs=6e-4)


def test_without_serving_the_cheapest_is_compute_optimal():
    at = chinchilla(30e9)
    found, saved = best_by_flop(at, 0.0)
    assert found.parameters == pytest.approx(at.parameters, rel=1e-3)
    assert saved == pytest.approx(0, abs=1e-6)


@given(st.floats(1e10, 1e14), st.floats(1.1, 10.0))
def test_more_demand_never_asks_for_a_larger_model(served: float, factor: float):
    at = chinchilla(30e9)
    assert best_by_flop(at, served * factor)[0].parameters <= best_by_flop(at, served)[0].parameters * (1 + 1e-6)


def test_a_limit_on_the_size_binds():
    at = chinchilla(30e9)
    found = cheapest(LAW, LAW.loss(at.parameters, at.tokens), lambda model: model.flop, 20e9)
    assert found.parameters == pytest.approx(20e9, rel=1e-6)


def test_a_limit_below_what_any_data_can_reach_is_refused():
    at = chinchilla(30e9)
    with pytest.raises(ValueError, match="needs more than"):
        cheapest(LAW, LAW.loss(at.parameters, at.tokens), lambda model: model.flop, 1e9)


def test_at_the_demand_from_which_the_smaller_wins_both_cost_the_same():
    larger = chinchilla(30e9)
    smaller = Optimum(15e9, LAW.tokens_for(LAW.loss(larger.parameters, larger.tokens), 15e9))
    demand = Demand(wins_from(larger, smaller), 0.25)
    assert life_flop(larger, demand) == pytest.approx(life_flop(smaller, demand), rel=1e-12)
    demand = Demand(wins_from_usd(larger, smaller, 0.25, PRICES), 0.25)
    assert life_usd(larger, demand, PRICES) == pytest.approx(life_usd(smaller, demand, PRICES), rel=1e-12)
    assert math.isinf(wins_from(smaller, larger))


def test_dollars_of_a_flop():
    """$3.6 an hour is a tenth of a cent a second: for 5e14 FLOP of a GPU that does half of 1e15."""
    assert usd_per_flop(3.6, 1e15, 0.5) == pytest.approx(1e-3 / 5e14)
