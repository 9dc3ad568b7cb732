"""Every scaling law gives what its source prints, and each optimum is one."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.decide.law import Fitted, LossLaw, Optimum, Vector
from sim.decide.laws import LAWS

VECTORS = [(name, vector) for name, law in LAWS.items() for vector in law.vectors]
PARAMETRIC = [name for name, law in LAWS.items() if isinstance(law, LossLaw)]
GOPHER_FLOP = 5.76e23


@pytest.mark.parametrize(("name", "vector"), VECTORS, ids=lambda value: getattr(value, "what", value))
def test_a_law_gives_the_published_figure(name: str, vector: Vector):
    assert getattr(LAWS[name].optimum(vector.flop), vector.what) == pytest.approx(vector.value, rel=vector.rel)


@pytest.mark.parametrize("name", LAWS)
def test_a_law_has_a_source_constants_a_range_and_a_vector(name: str):
    law = LAWS[name]
    assert law.vectors
    assert "arXiv" in law.source or "github" in law.source or "epoch-research" in law.source
    assert set(law.standard_errors) <= set(law.constants)
    assert law.fitted.parameters is not None


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("flop", [1e19, GOPHER_FLOP, 3.8e25])
def test_the_optimum_spends_the_budget(name: str, flop: float):
    assert LAWS[name].optimum(flop).flop == pytest.approx(flop, rel=1e-12)


@pytest.mark.parametrize("name", PARAMETRIC)
@given(log_flop=st.floats(42, 62), step=st.floats(0.01, 1.0))
def test_no_other_size_has_a_smaller_loss(name: str, log_flop: float, step: float):
    law = LAWS[name]
    assert isinstance(law, LossLaw)
    best = law.optimum(math.exp(log_flop))
    least = law.loss(best.parameters, best.tokens)
    for factor in (math.exp(step), math.exp(-step)):
        assert law.loss(best.parameters * factor, best.tokens / factor) > least


@pytest.mark.parametrize("name", PARAMETRIC)
@pytest.mark.parametrize("flop", [1e20, GOPHER_FLOP, 1e26])
def test_the_cheapest_model_for_a_loss_is_the_best_model_of_its_compute(name: str, flop: float):
    law = LAWS[name]
    assert isinstance(law, LossLaw)
    best = law.optimum(flop)
    again = law.cheapest_for(law.loss(best.parameters, best.tokens))
    assert again.parameters == pytest.approx(best.parameters, rel=1e-9)
    assert again.tokens == pytest.approx(best.tokens, rel=1e-9)


@pytest.mark.parametrize("name", PARAMETRIC)
def test_tokens_for_a_loss_give_that_loss_and_a_small_model_never_gets_there(name: str):
    law = LAWS[name]
    assert isinstance(law, LossLaw)
    loss = law.loss(70e9, 1.4e12)
    assert law.loss(20e9, law.tokens_for(loss, 20e9)) == pytest.approx(loss, rel=1e-12)
    least = law.least_parameters(loss)
    assert math.isinf(law.tokens_for(loss, 0.999 * least))
    assert math.isfinite(law.tokens_for(loss, 1.001 * least))


def test_rounding_the_constants_moves_the_ratio_of_tokens_to_parameters():
    """Chinchilla trained 20 a parameter on this budget."""
    ratios = {name: round(LAWS[name].optimum(GOPHER_FLOP).tokens_per_parameter, 1) for name in LAWS}
    assert (ratios["hoffmann_3_printed"], ratios["hoffmann_3"]) == (92.6, 58.9)
    assert (ratios["epoch"], ratios["epoch_printed"]) == (18.3, 18.4)


def test_the_figure_of_llama3_has_its_tokens_and_the_text_has_not():
    assert LAWS["llama3"].optimum(3.8e25).tokens == pytest.approx(16.3e12, rel=1e-3)
    assert LAWS["llama3_text"].optimum(3.8e25).tokens == pytest.approx(10.5e12, rel=5e-3)


def test_a_point_outside_the_fitted_range_is_told_with_the_range():
    fitted = Fitted(parameters=(1e8, 1e10), tokens_per_parameter=(0.0, 100.0), flop=(1e18, 1e22))
    assert fitted.outside(Optimum(1e9, 2e10)) == []
    assert fitted.outside(Optimum(1e9, 1e12)) == ["tokens per parameter 1e+03, fitted from 0 to 100"]
    assert len(fitted.outside(Optimum(1e11, 1e13))) == 2
