"""`sim compare`: tables, files, and what cannot be played."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from sim.cli.compare import wrapped

VARIANTS = "variants: {zero1: {}, zero0: {layout: {zero: 0}}, wide: {layout: {tp: 4, dp: 1}}}\n"
UNPLAYABLE = "variants: {good: {}, bad: {network: {algorithms: {all_gather: hierarchical}}}}\n"


@pytest.fixture
def several(write: Callable, small_text: str) -> str:
    return write(small_text + VARIANTS, "several.yaml")


def test_compare_prints_a_row_for_each_variant_and_what_won(
    several: str, invoke: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.chdir(tmp_path)
    output = invoke("compare", several).stdout
    for variant in ("zero1", "zero0", "wide"):
        assert variant in output
    assert "fastest" in output
    assert "report: reports/several/index.html" in output
    assert (tmp_path / "reports" / "several" / "index.html").is_file()


def test_compare_without_report_writes_nothing(
    several: str, invoke: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    invoke("compare", several, "--no-report")
    assert sorted(tmp_path.iterdir()) == before


def test_compare_as_json_is_a_list_in_the_order_of_the_file(several: str, invoke: Callable):
    found = json.loads(invoke("compare", several, "--json", "-").stdout)
    assert [result["scenario"]["variant"] for result in found] == ["zero1", "zero0", "wide"]


def test_compare_takes_several_files(small: str, write: Callable, small_text: str, invoke: Callable):
    other = write(small_text.replace("zero: 1", "zero: 0"), "other.yaml")
    found = json.loads(invoke("compare", small, other, "--json", "-").stdout)
    assert [result["scenario"]["name"] for result in found] == ["small", "other"]


def test_compare_tells_files_of_one_name_apart(
    small: str, write: Callable, small_text: str, invoke: Callable, tmp_path
):
    (tmp_path / "other").mkdir()
    other = write(small_text.replace("zero: 1", "zero: 0"), "other/small.yaml")
    found = json.loads(invoke("compare", small, other, "--json", "-").stdout)
    assert [result["name"] for result in found] == ["small", "small (2)"]


def test_compare_reports_the_mistakes_of_every_file(small: str, write: Callable, small_text: str, invoke: Callable):
    one = write(small_text.replace("zero: 1", "zero: 4"), "one.yaml")
    two = write(small_text.replace("tp: 2", "tp: 0"), "two.yaml")
    lines = invoke("compare", one, small, two, "nowhere.yaml", code=2).stderr.splitlines()
    assert [line.split(":")[0].rpartition("/")[2] for line in lines[:2]] == ["one.yaml", "two.yaml"]
    assert "nowhere.yaml" in lines[2]
    assert len(lines) == 3


def test_wrapped_text_keeps_numbers_beside_their_units():
    text = "It spends 12.5 s, 30.1 ms, 4.0 % and 3.2 GiB: 7 stages and 8 more"
    for width in range(12, 60):
        lines = wrapped(text, width).splitlines()
        assert " ".join(lines) == text
        assert max(map(len, lines)) <= width
        assert not any(line.split()[0].rstrip(",:") in ("s", "ms", "%", "GiB") for line in lines)


def test_a_report_and_no_report_exclude_each_other(several: str, invoke: Callable):
    assert "exclude" in invoke("compare", several, "--no-report", "--report", "x", code=2).stderr


def test_a_variant_that_cannot_be_played_stands_beside_those_that_can(
    write: Callable, small_text: str, invoke: Callable
):
    path = write(small_text + UNPLAYABLE)
    done = invoke("compare", path, "--no-report", code=2)
    assert "good" in done.stdout
    assert "small/bad cannot be played: all_gather: hierarchical does not run in these groups" in done.stderr
