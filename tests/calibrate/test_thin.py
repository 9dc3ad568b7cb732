from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.calibrate.kind import Kind
from sim.calibrate.measured import Measured
from sim.calibrate.thin import _shares, thinned, write


@pytest.fixture
def many() -> Measured:
    sizes = np.linspace(1, 500, 900)
    rows = pd.DataFrame({"who": np.where(np.arange(900) % 9, "a", "b"), "mib": sizes, "time_us": sizes**2})
    rows.loc[len(rows)] = ["a", 0.5, 1.0]
    return Measured("x.csv", "h100-sxm", rows)


def test_each_kernel_keeps_an_equal_part_with_the_same_mean_time(moves: Kind, many: Measured) -> None:
    kept = thinned(moves, many, 100)
    assert len(kept) <= 100
    training = kept[kept["mib"] >= 1]
    assert training["who"].value_counts().to_dict() == {"a": 38, "b": 37}
    for who, rows in many.rows[many.rows["mib"] >= 1].groupby("who"):
        mine = training[training["who"] == who]["time_us"]
        assert mine.mean() == pytest.approx(rows["time_us"].mean(), rel=0.01)


def test_rows_stay_in_the_order_of_the_file_and_as_they_are(moves: Kind, many: Measured) -> None:
    kept = thinned(moves, many, 100)
    assert kept.index.is_monotonic_increasing
    assert kept.equals(many.rows.loc[kept.index])


def test_a_small_file_stays_whole(moves: Kind, many: Measured) -> None:
    few = Measured("x.csv", "h100-sxm", many.rows.iloc[:20])
    assert thinned(moves, few, 100).equals(few.rows)


@given(st.lists(st.integers(0, 50), max_size=8), st.integers(0, 200))
def test_shares_fill_the_total_as_far_as_there_are_rows(sizes: list[int], total: int) -> None:
    shares = _shares(sizes, total)
    assert all(share <= size for share, size in zip(shares, sizes, strict=True))
    assert sum(shares) <= total
    assert sum(shares) >= min(total, sum(sizes)) - len(sizes)


def test_a_file_is_the_same_to_the_byte_whenever_it_is_written(moves: Kind, many: Measured, tmp_path: Path) -> None:
    one, two = tmp_path / "one.csv.gz", tmp_path / "two.csv.gz"
    for path in (one, two):
        write(thinned(moves, many, 50), path)
    assert one.read_bytes() == two.read_bytes()
    assert gzip.decompress(one.read_bytes()).startswith(b"who,mib,time_us\n")
