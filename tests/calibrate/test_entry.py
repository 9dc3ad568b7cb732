from __future__ import annotations

from pathlib import Path

import pytest

from sim.calibrate.entry import Entry, below, dimension_of, planted, read_entry, sourced, text, with_constants, written
from sim.errors import SimError
from sim.spec.find import find, names

SHARE = "memory_bound.elementwise.hbm_frac"


@pytest.fixture
def h100() -> Entry:
    return read_entry(find("gpus", "h100-sxm"))


@pytest.mark.parametrize("name", names("gpus"))
def test_every_file_of_the_catalogue_is_in_the_one_layout(name: str) -> None:
    path = find("gpus", name)
    entry = read_entry(path)
    assert text(sourced(entry, entry.sources)) == path.read_text(encoding="utf-8")


def test_constants_replace_numbers_and_leave_all_else(h100: Entry) -> None:
    found = with_constants(h100, {SHARE: 0.87654}, {SHARE: "fitted to mine"})
    assert below(found.tree, SHARE) == 0.877
    assert found.sources[SHARE] == "fitted to mine"
    kept = {key: value for key, value in h100.tree.items() if key not in ("memory_bound", "sources", "estimated")}
    assert {key: found.tree[key] for key in kept} == kept


def test_a_source_of_a_group_stays_for_the_numbers_that_were_not_fitted() -> None:
    tree = {"a": {"one": 1, "two": 2}, "b": 3, "sources": {"a": "old page", "b": "old page"}}
    found = with_constants(Entry("#", tree), {"a.one": 5.0}, {"a.one": "new fit"})
    assert found.sources == {"a": "old page", "a.one": "new fit", "b": "old page"}


def test_a_source_of_nothing_but_fitted_numbers_goes() -> None:
    tree = {"a": {"one": 1, "two": 2}, "sources": {"a.one": "old page", "a.two": "estimated: old guess"}}
    found = with_constants(Entry("#", tree), {"a.one": 5.0, "a.two": 6.0}, {"a": "new fit"})
    assert found.sources == {"a": "new fit"}
    assert "estimated" not in found.tree


def test_a_constant_has_three_digits_and_the_unit_of_its_field() -> None:
    assert written("memory_bound.launch", 3.14159e-6) == "3.14 us"
    assert written(SHARE, 0.876543) == 0.877
    assert written("gemm.bf16.range_m", (512.0, 1e5)) == [512, 100000]


def test_the_dimension_is_that_of_the_field_and_none_of_a_share() -> None:
    assert dimension_of("peak.bf16") == "FLOP/s"
    assert dimension_of("hbm") == "bytes/s"
    assert dimension_of("memory") == "bytes"
    assert dimension_of("tdp") == "W"
    assert dimension_of(SHARE) is None
    assert dimension_of("num_sms") is None


def test_planting_makes_the_mappings_on_the_way_and_keeps_the_others() -> None:
    tree = {"a": {"x": 1}}
    assert planted(tree, "a.b.c", 2) == {"a": {"x": 1, "b": {"c": 2}}}
    assert tree == {"a": {"x": 1}}


def test_a_file_that_is_no_gpu_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "gpu.yaml"
    path.write_text("# ?\nname: mine\n")
    with pytest.raises(SimError, match="missing"):
        read_entry(path)


def test_what_all_numbers_of_a_group_say_is_said_once() -> None:
    tree = {"a": {"b": {"one": 1, "two": 2, "three": 3}}}
    sources = {"a.b.one": "fit", "a.b.two": "fit", "a.b.three": "page"}
    found = sourced(Entry("#", tree), sources)
    assert found.sources == {"a.b": "fit", "a.b.three": "page"}
    assert sourced(found, found.sources).sources == found.sources


def test_a_rule_between_a_group_and_its_numbers_keeps_them_apart() -> None:
    tree = {"a": {"b": {"c": {"one": 1, "two": 2}, "d": {"one": 1, "two": 2}}}}
    sources = {"a.b.c": "estimated: carried over from a.b.d", "a.b.c.one": "fit", "a.b.d": "page"}
    assert sourced(Entry("#", tree), sources).sources == sources


def test_a_number_without_a_source_gets_none_from_its_neighbours() -> None:
    tree = {"a": {"b": {"one": 1, "two": 2, "three": 3}}}
    sources = {"a.b.one": "fit", "a.b.two": "fit"}
    assert sourced(Entry("#", tree), sources).sources == sources
