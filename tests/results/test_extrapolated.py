"""Kernels outside of the shapes that a GPU's constants were fitted to are said in the result."""

from collections.abc import Callable

import pytest

from sim.simulation import simulate
from sim.spec.scenario import Scenario

Make = Callable[..., Scenario]


def notes(scenario: Scenario) -> list[str]:
    return [note for note in simulate(scenario).notes if "extrapolated" in note]


def test_a_step_of_measured_shapes_has_no_such_note(small: Make) -> None:
    assert notes(small()) == []


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"model.vocab": 128256}, "head forward: n = 128,256 (32 to 65,536)"),
        ({"model.num_heads": 32, "model.head_dim": 32}, "attention backward: 32 head dim (fitted to 64 to 256)"),
    ],
)
def test_a_shape_beyond_them_is_named_with_its_range_and_its_share_of_the_time(
    small: Make, settings: dict[str, object], said: str
) -> None:
    (note,) = notes(small(settings))
    assert said in note
    assert 0 < float(note.split(" % of the kernels' time")[0]) < 100


def test_the_share_grows_with_what_is_beyond(small: Make) -> None:
    def share(settings: dict[str, object]) -> float:
        (note,) = notes(small(settings))
        return float(note.split(" %")[0])

    assert share({"model.vocab": 256000}) > share({"model.vocab": 80000})
