import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim import units


@pytest.mark.parametrize(
    ("value", "dimension", "si"),
    [
        ("80 GiB", "bytes", 80 * 1073741824),
        ("80 GB", "bytes", 80_000_000_000),
        ("1.5 kB", "bytes", 1500),
        ("64 KiB", "bytes", 65536),
        ("2 TiB", "bytes", 2 * 1099511627776),
        ("400 Gbit/s", "bytes/s", 50_000_000_000),
        ("450 GB/s", "bytes/s", 450_000_000_000),
        ("900 GiB/s", "bytes/s", 900 * 1073741824),
        ("1.5 us", "s", 0.0000015),
        ("3 ms", "s", 0.003),
        ("2 h", "s", 7200),
        ("989.4 TFLOP/s", "FLOP/s", 989_400_000_000_000),
        ("0.7 kW", "W", 700),
        ("400Gbit/s", "bytes/s", 50_000_000_000),
        ("1e3 GB", "bytes", 1e12),
        (5, "s", 5),
        (2.5, "s", 2.5),
    ],
)
def test_a_value_with_its_unit_is_read_in_si(value, dimension, si):
    assert units.parse(value, dimension) == pytest.approx(si, rel=1e-15)


@pytest.mark.parametrize(
    "value", [True, None, math.nan, math.inf, -1, -0.5, 10**400, "5", "-1 s", "1e400 s", "nan s", ""]
)
def test_what_is_no_duration_is_refused(value):
    with pytest.raises(ValueError, match=r"^got .*, allowed a value such as '1.5 us'$"):
        units.parse(value, "s")


@pytest.mark.parametrize(
    ("value", "dimension", "meant"),
    [
        ("400 Gbps", "bytes/s", "400 Gbit/s"),
        ("400 Gb/s", "bytes/s", "400 Gbit/s"),
        ("400 Gbit", "bytes/s", "400 Gbit/s"),
        ("50 GBps", "bytes/s", "50 GB/s"),
        ("450 GB", "bytes/s", "450 GB/s"),
        ("80 Gb", "bytes", "80 GB"),
        ("80 gib", "bytes", "80 GiB"),
        ("989 TFLOPS", "FLOP/s", "989 TFLOP/s"),
        ("1 \u00b5s", "s", "1 us"),
        ("3 sec", "s", "3 s"),
    ],
)
def test_an_ambiguous_unit_is_refused_and_explained(value, dimension, meant):
    with pytest.raises(ValueError, match=f"did you mean '{meant}'"):
        units.parse(value, dimension)


def test_a_unit_of_another_dimension_is_refused():
    with pytest.raises(ValueError, match="got '3 ms', allowed a value such as '700 W'"):
        units.parse("3 ms", "W")


@pytest.mark.parametrize("dimension", list(units.EXAMPLES))
def test_the_examples_are_valid(dimension):
    assert units.parse(units.EXAMPLES[dimension], dimension) > 0


@given(st.one_of(st.text(), st.floats(), st.integers(), st.none(), st.binary()), st.sampled_from(list(units.EXAMPLES)))
def test_anything_is_a_finite_value_or_a_value_error(value, dimension):
    try:
        assert 0 <= units.parse(value, dimension) < math.inf
    except ValueError as error:
        assert "allowed" in str(error)  # noqa: PT017 - either outcome is right


@pytest.mark.parametrize(
    ("value", "dimension", "text"),
    [
        (31.2 * 2**30, "bytes", "31.2 GiB"),
        (512, "bytes", "512 B"),
        (1023.7 * 2**20, "bytes", "1 GiB"),
        (1023.4 * 2**20, "bytes", "1023 MiB"),
        (1.24, "s", "1.24 s"),
        (0.00035, "s", "350 us"),
        (4321.4, "s", "4321 s"),
        (450e9, "bytes/s", "450 GB/s"),
        (999.9e9, "bytes/s", "1 TB/s"),
        (989.4e12, "FLOP/s", "989 TFLOP/s"),
        (700, "W", "700 W"),
        (1.2e6, "W", "1.2 MW"),
        (-3e9, "bytes/s", "-3 GB/s"),
        (0, "s", "0 s"),
        (0, "bytes", "0 B"),
        (2e-12, "s", "0.002 ns"),
    ],
)
def test_a_value_is_shown_with_three_digits_and_the_unit_that_suits(value, dimension, text):
    assert units.text(value, dimension) == text


@given(st.floats(min_value=1e-8, max_value=1e17), st.sampled_from(["s", "bytes/s", "FLOP/s", "bytes", "W"]))
def test_a_shown_value_reads_back_to_three_digits(value, dimension):
    assert units.parse(units.text(value, dimension), dimension) == pytest.approx(value, rel=0.0051)
