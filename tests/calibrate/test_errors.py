from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.calibrate.errors import by_group, errors_of, is_headline

TIMES = st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=30)


def test_errors_are_those_of_the_definition() -> None:
    # 10, 50 and 20 % off; 1.1 + 3 + 0.8 = 4.9 for 1 + 2 + 1 = 4.
    errors = errors_of(np.array([1.1, 3.0, 0.8]), np.array([1.0, 2.0, 1.0]))
    assert errors is not None
    assert (errors.n, errors.median_ape) == (3, pytest.approx(20))
    assert errors.mape == pytest.approx(80 / 3, abs=1e-6)
    assert errors.bias == pytest.approx(22.5)
    assert errors.p90 == pytest.approx(20 + 0.8 * 30)


def test_no_row_has_no_error() -> None:
    assert errors_of(np.array([]), np.array([])) is None


@given(TIMES, st.floats(0.1, 10))
def test_a_common_factor_is_all_of_every_error(times: list[float], factor: float) -> None:
    measured_s = np.array(times)
    errors = errors_of(factor * measured_s, measured_s)
    assert errors is not None
    for figure in (errors.mape, errors.median_ape, errors.p90, abs(errors.bias)):
        assert figure == pytest.approx(100 * abs(factor - 1), abs=1e-5)


def table(*rows: tuple[str, bool]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["format", "is_training"]).assign(time_s=1.0, predicted_s=1.5)


def test_the_headline_counts_16_bit_rows_of_training_sizes() -> None:
    rows = table(("bf16", True), ("bf16", False), ("fp8", True), ("fp16", True))
    assert is_headline(rows).tolist() == [True, False, False, True]


def test_a_file_without_16_bit_rows_is_counted_by_what_it_has() -> None:
    assert is_headline(table(("fp8", True), ("fp8", False), ("bf16", False))).tolist() == [True, False, False]


def test_groups_are_the_values_that_occur() -> None:
    groups = by_group(table(("bf16", True), ("fp8", True), ("fp8", False)), ["format"])
    assert [(group["format"], errors.n, errors.mape) for group, errors in groups] == [
        ("bf16", 1, 50.0),
        ("fp8", 2, 50.0),
    ]
