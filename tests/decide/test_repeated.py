"""The data-constrained law: losses to the last digit, its optimum, and what epochs are worth."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.decide import repeated


@pytest.mark.parametrize(
    ("parameters", "tokens", "expected"), [(6.34e9, 242e9, 2.2256440889984477), (8.67e9, 178e9, 2.2269634075087867)]
)
def test_the_losses_that_the_authors_print(parameters: float, tokens: float, expected: float):
    """huggingface/datablations README, 25B unique tokens."""
    assert repeated.loss(parameters, tokens, 25e9) == pytest.approx(expected, rel=1e-14)


def test_the_optimum_that_the_authors_print():
    """The same README for 1e22 FLOP: 7.022B parameters, 237.3B tokens, 9.4935 epochs, found on a grid."""
    best = repeated.optimum(1e22, 25e9)
    assert best.parameters == pytest.approx(7022364735.88, rel=1e-3)
    assert best.tokens == pytest.approx(237336955477.55, rel=1e-3)
    assert best.tokens / 25e9 == pytest.approx(9.4935, rel=1e-3)


@pytest.mark.parametrize(
    ("epochs", "value", "last"),
    [(1, 1, 1), (2, 0.984, 0.937), (4, 0.931, 0.823), (8, 0.828, 0.635), (16, 0.661, 0.377), (40, 0.379, 0.079)],
)
def test_what_epochs_are_worth(epochs: float, value: float, last: float):
    assert repeated.value_of_epochs(epochs) == pytest.approx(value, abs=6e-4)
    assert repeated.marginal_value(epochs) == pytest.approx(last, abs=6e-4)


@given(st.floats(1, 100), st.floats(0.01, 10))
def test_more_passes_add_less_and_never_nothing(epochs: float, more: float):
    first = repeated.effective_tokens(1e9, epochs)
    second = repeated.effective_tokens(1e9, epochs + more)
    assert 0 < second - first <= more * 1e9 * (1 + 1e-9)


def test_a_part_of_a_source_is_fresh():
    assert repeated.effective_tokens(1e9, 0.3) == pytest.approx(0.3e9)
    assert repeated.value_of_epochs(0.3) == 1
