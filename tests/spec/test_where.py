from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.spec.where import condition

VALUES = {"layout.tp": 8, "layout.pp": 4, "layout.schedule": "1f1b", "experts": None, "list": (1, 2), "flag": True}


def holds(text: str) -> bool:
    return condition(text).holds(VALUES.__getitem__)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("layout.tp * layout.pp <= 32", True),
        ("layout.tp * layout.pp < 32", False),
        ("layout.schedule == '1f1b'", True),
        ("layout.schedule in ['gpipe', 'zb_v']", False),
        ("layout.schedule not in ['gpipe', 'zb_v']", True),
        ("experts == null or experts.num > 8", True),
        ("experts != null and experts.num > 8", False),
        ("not flag", False),
        ("flag == true", True),
        ("2 < layout.pp < 5", True),
        ("list == [1, 2]", True),
        ("layout.tp % 3 == 2 and layout.tp // 3 == 2 and layout.tp / 16 == 0.5 and -layout.tp + 9 - 1 == 0", True),
    ],
)
def test_conditions_mean_what_they_say(text, expected):
    assert holds(text) is expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "layout.tp =",
        "__import__('os')",
        "layout.tp.__class__()",
        "[x for x in list]",
        "lambda: 1",
        "layout.tp ** 99",
        "'a'.upper == 1",
        "layout[0]",
        "layout.tp == b'8'",
        "(" * 300 + "1" + ")" * 300,
        "1 == 1" + " and 1 == 1" * 200,
        "layout.tp if flag else 1",
        "x := 3",
    ],
)
def test_what_is_no_condition_is_refused(text):
    with pytest.raises(ValueError, match=r"allowed"):
        condition(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("layout.ttp == 8", "no value at 'layout.ttp'"),
        ("layout.schedule < 8", "not supported between"),
        ("layout.tp", "neither true nor false"),
        ("layout.tp and flag", "neither true nor false"),
        ("layout.tp % 0 == 1", "zero"),
        ("layout.schedule * 9 == 1", "is no number"),
        ("flag + 1 == 2", "is no number"),
        ("1 in layout.tp", "not iterable"),
    ],
)
def test_what_cannot_be_asked_is_refused_with_the_text(text, message):
    with pytest.raises(ValueError, match=message) as caught:
        holds(text)
    assert text in str(caught.value)


NUMBERS = st.integers(-9, 9).map(str)
TERMS = st.recursive(
    NUMBERS | st.sampled_from(["layout.tp", "layout.pp"]),
    lambda inner: st.tuples(inner, st.sampled_from("+-*"), inner).map(lambda parts: f"({' '.join(parts)})"),
    max_leaves=8,
)


@given(left=TERMS, right=TERMS, sign=st.sampled_from(["<", "<=", "==", "!=", ">", ">="]))
def test_arithmetic_and_comparisons_are_pythons(left, right, sign):
    text = f"{left} {sign} {right}"
    python = text.replace("layout.tp", "8").replace("layout.pp", "4")
    assert holds(text) is eval(python)  # noqa: S307 - numbers, signs and brackets that this test made
