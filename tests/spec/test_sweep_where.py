"""Ranges and conditions of a `sweep:` in a file."""

from __future__ import annotations

import pytest

from sim.errors import SimError
from sim.spec.load import field_of, load, load_points

pytestmark = pytest.mark.usefixtures("here")


@pytest.fixture
def swept(here):
    def points(text, overrides=()):
        (here / "x.yaml").write_text(f"extends: base.yaml\nsweep:\n{text}")
        return load_points("x.yaml", overrides)

    return points


def values(points, path):
    return [point.values[path] for point in points]


def test_a_range_stands_for_its_list(swept):
    assert values(swept("  product: {seed: {first: 2, last: 16, times: 2}}\n"), "seed") == [2, 4, 8, 16]
    zipped = swept("  zip: {seed: {first: 0, last: 2}, layout.zero: [0, 1, 2]}\n")
    assert [tuple(point.values.values()) for point in zipped] == [(0, 0), (1, 1), (2, 2)]


def test_bandwidths_can_be_a_range(swept):
    points = swept("  product: {topology.nvlink.bandwidth: {first: 100 GB/s, last: 300 GB/s, step: 100 GB/s}}\n")
    assert [point.scenario.topology.nvlink.bytes_per_s for point in points] == [100e9, 200e9, 300e9]


def test_only_points_that_meet_all_conditions_are_points(swept):
    text = (
        "  product: {layout.zero: [0, 1, 2], seed: [0, 1]}\n  where: [layout.zero > 0, seed == 1 or layout.zero == 2]\n"
    )
    assert [tuple(point.values.values()) for point in swept(text)] == [(1, 1), (2, 0), (2, 1)]


def test_conditions_see_the_resolved_scenario_in_si(swept):
    text = (
        "  product: {seed: [0, 1]}\n  where: [gpu.memory > 1e10 and layout.dp * layout.tp >= 1 and layout.vpp == 1]\n"
    )
    assert len(swept(text)) == 2


def test_conditions_see_values_from_the_command_line(swept):
    text = "  product: {layout.zero: [0, 1]}\n  where: [seed == 7]\n"
    assert len(swept(text, ["seed=7"])) == 2
    with pytest.raises(SimError, match="no point is left by `where`"):
        swept(text)


def test_a_condition_leaves_out_impossible_points_too_as_far_as_the_file_says(swept):
    text = "  product: {layout.pp: [1, 3, 5], layout.dp: [null]}\n"
    assert [point.error is None for point in swept(text)] == [True, False, False]
    found = swept(text + "  where: [layout.pp < 5, model.num_layers > 0]\n")
    assert [(point.values["layout.pp"], point.error is None) for point in found] == [(1, True), (3, False)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("  where: [layout.ttp == 1]\n", "x.yaml:4:11: sweep.where: no value at 'layout.ttp'"),
        ("  where: [layout.tp ==]\n", "x.yaml:4:11: sweep.where: no expression"),
        ("  where: [3]\n", "x.yaml:4:11: sweep.where.0: wrong type (got 3, allowed text)"),
        ("  where: layout.tp == 1\n", "x.yaml:4:3: sweep.where: wrong type (got 'layout.tp == 1', allowed a list)"),
        ("  zip: {layout.tp: {first: 8}}\n", "x.yaml:4:9: sweep.zip.layout.tp.last: missing"),
        ("  zip: {layout.tp: {first: 1, last: 1e9}}\n", "x.yaml:4:9: sweep.zip.layout.tp: too many values"),
        ("  zip: {layout.tp: {first: x, last: 2}}\n", "sweep.zip.layout.tp.first: wrong value (got 'x', allowed such"),
    ],
)
def test_mistakes_are_told_at_their_place(swept, text, message):
    with pytest.raises(SimError) as caught:
        swept("  product: {seed: [0]}\n" + text)
    assert message in str(caught.value)


def test_a_field_is_found_by_the_key_of_a_file_and_of_a_dump():
    scenario = load("base.yaml")
    assert field_of(scenario, "gpu.memory") == field_of(scenario, "gpu.memory_bytes") == scenario.gpu.memory_bytes
    assert field_of(scenario, "model.experts.num_experts") is None
    with pytest.raises(KeyError):
        field_of(scenario, "model.expert")
