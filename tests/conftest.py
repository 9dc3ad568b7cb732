"""One small scenario that tests change by dotted paths."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sim.simulation import load
from sim.spec.scenario import Scenario

collect_ignore = ["hta"]
"""Runs in an environment of its own (`make hta`)."""

SMALL = Path(__file__).parent / "small.yaml"
Make = Callable[..., Scenario]


def make_small(changes: dict[str, object] | None = None) -> Scenario:
    """The small scenario with values set at dotted paths, checked like a user's."""
    return load(SMALL, changes or {})


@pytest.fixture
def small() -> Make:
    """`make_small` as a fixture."""
    return make_small
