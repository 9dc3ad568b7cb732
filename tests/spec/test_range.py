from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sim.spec.range import Range


@given(first=st.integers(-1000, 1000), count=st.integers(1, 200), step=st.integers(1, 50), beyond=st.integers(0, 49))
def test_a_range_of_whole_numbers_is_pythons(first, count, step, beyond):
    last = first + (count - 1) * step + min(beyond, step - 1)
    found = Range(first=first, last=last, step=step)
    assert found.values() == list(range(first, last + 1, step))
    assert found.num_values() == count
    assert all(type(value) is int for value in found.values())


@given(first=st.integers(1, 50), times=st.integers(2, 10), count=st.integers(1, 6))
def test_each_value_is_times_the_one_before_and_the_last_is_reached(first, times, count):
    last = first * times ** (count - 1)
    assert Range(first=first, last=last, times=times).values() == [first * times**i for i in range(count)]
    assert len(Range(first=first, last=last - 1, times=times).values() if last > first else []) == count - 1


def test_steps_that_are_no_binary_fractions_still_reach_the_end():
    assert Range(first=0.1, last=0.9, step=0.1).values() == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]


def test_values_keep_their_unit():
    assert Range(first="1.5 us", last="6 us", times=2).values() == ["1.5 us", "3 us", "6 us"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"first": 1, "last": 4, "step": 1, "times": 2}, "step and times exclude each other"),
        ({"first": "1 us", "last": "4 ms", "step": "1 us"}, "different units"),
        ({"first": "1 us", "last": "4 us"}, "missing step or times"),
        ({"first": 1, "last": 4, "step": 0}, "step is out of range"),
        ({"first": 0, "last": 4, "times": 2}, "first is out of range"),
        ({"first": 4, "last": 1}, "empty"),
        ({"first": "many", "last": 4}, "allowed such as 4"),
        ({"first": True, "last": 4}, "allowed such as 4"),
        ({"first": float("inf"), "last": 4}, "allowed such as 4"),
        ({"first": 1, "last": 4, "times": 1}, "greater than 1"),
    ],
)
def test_what_is_no_range_is_refused(fields, message):
    with pytest.raises(ValidationError, match=message):
        Range(**fields)


def test_a_range_of_more_values_than_anybody_can_count_has_a_number_all_the_same():
    assert Range(first=1.0, last=1e308, step=1e-300).num_values() > 1e14
