"""docs/planner.md names every key of a plan, every law, and nothing that does not exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sim.decide.laws import LAWS
from sim.decide.plan import (
    Budget,
    Data,
    DataSource,
    Deployment,
    Device,
    Given,
    Like,
    LongContext,
    MixingLaw,
    Plan,
    PlannedLayout,
    PlannedTraining,
    Price,
    Recovery,
    Serving,
    Strategies,
)

TEXT = (Path(__file__).parents[2] / "docs" / "planner.md").read_text(encoding="utf-8")
SPECS = (
    *(Plan, Budget, Price, Deployment, Device, Like, Serving, Strategies, PlannedTraining, PlannedLayout),
    *(Data, DataSource, MixingLaw, LongContext, Recovery, Given),
)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.__name__)
def test_every_key_of_a_plan_is_documented(spec):
    named = set(re.findall(r"`([\w.]+)`", TEXT))
    last = {name.rsplit(".", 1)[-1] for name in named} | {name.split(".")[0] for name in named}
    assert {field.alias or name for name, field in spec.model_fields.items()} - last == set()


@pytest.mark.parametrize("name", LAWS)
def test_a_law_is_documented_with_its_ratio_at_gophers_budget(name: str):
    (ratio,) = re.findall(rf"^\| `{name}` \|.*\| ([\d.]+) \|$", TEXT, re.MULTILINE)
    assert float(ratio) == round(LAWS[name].optimum(5.76e23).tokens_per_parameter, 1)
