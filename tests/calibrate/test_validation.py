from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from sim.calibrate.kind import Kind
from sim.calibrate.measured import Measured
from sim.calibrate.validation import Validation, together, validate
from sim.report.measured import write_measured

MIB = 2**20


def gpu(share: float) -> Any:
    """A GPU of which the model of `Moves` asks nothing but this: 1 MiB in 1 us at a share of 1."""
    rates = SimpleNamespace(elementwise=SimpleNamespace(hbm_frac=share))
    return SimpleNamespace(memory_bound=rates, hbm_bytes_per_s=MIB * 1e6)


def measured(times_us: dict[float, float], name: str = "h100-sxm") -> Measured:
    rows = pd.DataFrame({"who": "a", "mib": list(times_us), "time_us": list(times_us.values())})
    rows.index = pd.RangeIndex(2, len(rows) + 2)
    return Measured(f"{name}.csv", name, rows)


@pytest.fixture
def half_too_slow(moves: Kind) -> Validation:
    """Predictions 2, 4 and 1 us for measurements of 1, 4 and 1 us; a small row; one that the model does not know."""
    return validate(moves, measured({1: 1, 2: 4, 0.5: 1, 0.25: 0.5, 1024: 9}), gpu(0.5))


def test_the_headline_counts_rows_of_training_sizes(half_too_slow: Validation) -> None:
    errors = half_too_slow.headline
    assert errors is not None
    assert (errors.n, errors.mape, errors.median_ape) == (2, 50.0, 50.0)
    assert errors.bias == pytest.approx(20)


def test_groups_are_formats_and_regions(half_too_slow: Validation) -> None:
    found = {group["region"]: errors.mape for group, errors in half_too_slow.groups()}
    assert found == {"large": 50.0, "small": 0.0}


def test_the_worst_row_comes_first_with_its_line(half_too_slow: Validation) -> None:
    worst = half_too_slow.worst(1)
    assert worst["line"].tolist() == [2]
    assert worst["error"].tolist() == pytest.approx([100])


def test_rows_that_the_model_does_not_know_are_counted_with_the_reason(half_too_slow: Validation) -> None:
    content = half_too_slow.to_dict()
    assert (content["n_rows"], content["n_skipped"], content["skipped"]) == (4, 1, {"more than 512 MiB": 1})


def test_json_has_the_headline_on_top(half_too_slow: Validation) -> None:
    content = half_too_slow.to_dict()
    assert (content["kind"], content["gpu"]) == ("moves", "h100-sxm")
    assert {key: content[key] for key in ("n", "mape", "median_ape")} == {"n": 2, "mape": 50.0, "median_ape": 50.0}
    assert {"bias", "p90"} <= set(content)
    assert content["groups"][0] | {"format": "bf16", "region": "large", "n": 2} == content["groups"][0]


def test_a_file_without_training_sizes_has_no_headline(moves: Kind) -> None:
    content = validate(moves, measured({0.5: 1}), gpu(0.5)).to_dict()
    assert (content["n"], content["mape"], content["bias"]) == (0, None, None)


def test_together_is_all_rows_and_all_reasons(moves: Kind, half_too_slow: Validation) -> None:
    other = validate(moves, measured({1: 2, 2048: 9}, "b200-sxm"), gpu(0.5))
    both = together([half_too_slow, other])
    assert both.gpus == ("b200-sxm", "h100-sxm")
    assert both.skipped == {"more than 512 MiB": 2}
    assert both.headline is not None
    assert (both.headline.n, both.headline.mape) == (3, pytest.approx(100 / 3, abs=1e-6))


def test_the_picture_is_drawn_the_same_twice_with_a_panel_for_each_gpu(
    moves: Kind, half_too_slow: Validation, tmp_path: Any
) -> None:
    both = together([half_too_slow, validate(moves, measured({0.5: 2}, "b200-sxm"), gpu(0.5))])
    paths = [write_measured(both, tmp_path / name) for name in ("one", "two")]
    one, two = (path.read_text() for path in paths)
    assert one == two
    assert "b200-sxm: no row of training sizes" in one
    assert "h100-sxm: 50.0 % off, sum +20.0 %" in one
    rows = pd.read_csv(tmp_path / "one" / "moves.csv")
    assert len(rows) == len(both.table)
    assert (tmp_path / "one" / "figures" / "moves.png").read_bytes().startswith(b"\x89PNG")
