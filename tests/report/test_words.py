from __future__ import annotations

import itertools

import pytest

from sim.program.operations import COLLECTIVE_KINDS
from sim.report.words import CAUSES, GROUPS, KINDS, MEMORY, by_group, in_order


def test_every_kind_of_communication_has_words():
    assert set(KINDS) == {*COLLECTIVE_KINDS, "pp"}
    assert {f"exposed_{kind}" for kind in KINDS} <= set(CAUSES)


def test_every_cause_of_a_played_step_has_words(simulations):
    found = {cause for simulation in simulations for cause in simulation.result.breakdown_s}
    assert set(in_order(found)) == found


def test_every_category_of_memory_has_words(simulations):
    for simulation in simulations:
        assert all(set(stage.parts_bytes) == set(MEMORY) for stage in simulation.result.memory)


def test_groups_keep_the_sum_of_the_step(simulations):
    for simulation in simulations:
        result = simulation.result
        assert sum(by_group(result.breakdown_s).values()) == pytest.approx(result.step_time_s, rel=1e-9)


def test_an_unknown_cause_is_not_passed_over():
    with pytest.raises(AssertionError, match="gravity"):
        by_group({"gravity": 1.0})
    with pytest.raises(AssertionError, match="gravity"):
        in_order(["gravity"])


def _lightness(colour: str) -> float:
    """Relative luminance of sRGB (WCAG 2.2)."""
    channels = [int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_colours_of_neighbours_in_a_bar_differ_in_lightness():
    # Readers who see no hue still see where one part ends; separators of the paper's colour help the closest pairs.
    pairs = itertools.pairwise(_lightness(group.colour) for group in GROUPS)
    assert all(abs(one - other) > 0.05 for one, other in pairs)
    assert len({group.colour for group in GROUPS}) == len(GROUPS)
