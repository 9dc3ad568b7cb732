from __future__ import annotations

from typing import Any

import pytest

from sim.calibrate.carried import carried
from sim.calibrate.entry import Entry
from sim.errors import SimError


def entry(name: str, sources: dict[str, str], **tree: Any) -> Entry:
    return Entry("# ?", {"name": name, **tree, "sources": sources})


MEASURED = entry(
    "old",
    {
        "gemm.bf16": "fitted to x",
        "gemm.fp16": "estimated: carried over from gemm.bf16, the same rate",
        "launch": "page",
    },
    gemm={"bf16": {"share": 0.8, "range": [1, 2]}, "fp16": {"share": 0.1}},
    launch="3 us",
)


def test_a_group_is_taken_from_another_key_of_the_file() -> None:
    found = carried({"old": MEASURED})["old"]
    assert found.tree["gemm"]["fp16"] == {"share": 0.8, "range": [1, 2]}


def test_a_group_is_taken_from_another_gpu_once_that_one_is_settled() -> None:
    new = entry("new", {"gemm": "estimated: carried over from old"}, gemm={"bf16": {"share": 0.3}})
    found = carried({"new": new, "old": MEASURED})["new"]
    assert found.tree["gemm"] == {"bf16": {"share": 0.8, "range": [1, 2]}, "fp16": {"share": 0.8, "range": [1, 2]}}


def test_another_key_of_another_gpu() -> None:
    new = entry("new", {"gemm.fp8": "estimated: carried over from gemm.bf16 of old; power allows it"}, gemm={})
    assert carried({"new": new, "old": MEASURED})["new"].tree["gemm"]["fp8"]["share"] == 0.8


def test_a_number_with_a_source_of_its_own_is_not_overwritten() -> None:
    new = entry(
        "new",
        {"gemm.bf16": "estimated: carried over from old", "gemm.bf16.share": "measured here"},
        gemm={"bf16": {"share": 0.5}},
    )
    assert carried({"new": new, "old": MEASURED})["new"].tree["gemm"]["bf16"] == {"share": 0.5, "range": [1, 2]}


def test_what_is_carried_is_listed_as_estimated() -> None:
    assert carried({"old": MEASURED})["old"].tree["estimated"] == ["gemm.fp16"]


def test_only_numbers_that_the_rule_covers_are_estimated() -> None:
    new = entry(
        "new",
        {"gemm.bf16": "estimated: carried over from old", "gemm.bf16.share": "measured here"},
        gemm={"bf16": {"share": 0.5}},
    )
    old = entry("old", {"gemm.bf16": "fitted"}, gemm={"bf16": {"share": 0.8, "half": 9, "range": [1, 2]}})
    assert carried({"new": new, "old": old})["new"].tree["estimated"] == ["gemm.bf16.half"]


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("estimated: carried over from gemm.fp4", "no number to carry over"),
        ("estimated: carried over from gemm.bf16 of older", "unknown GPU .got 'older', allowed new, old"),
    ],
)
def test_a_rule_that_names_nothing_is_refused(rule: str, message: str) -> None:
    new = entry("new", {"gemm.fp8": rule}, gemm={"fp8": {"share": 0.5}})
    with pytest.raises(SimError, match=rf"new: sources.gemm.fp8: {message}"):
        carried({"new": new, "old": MEASURED})


def test_rules_that_go_round_in_a_circle_are_refused() -> None:
    one = entry("one", {"launch": "estimated: carried over from two"}, launch=1)
    two = entry("two", {"launch": "estimated: carried over from one"}, launch=2)
    with pytest.raises(SimError, match="in a circle"):
        carried({"one": one, "two": two})
