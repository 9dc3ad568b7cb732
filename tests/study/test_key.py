from __future__ import annotations

import json

import pytest

from sim.errors import SimError
from sim.spec.load import dump
from sim.study import key as keys
from sim.study.key import NAMES, Canon, constants


def test_the_text_is_the_dump_without_names(small):
    scenario = small({"conditions.gpus": {0: 0.5}})
    expected = {name: value for name, value in dump(scenario).items() if name not in NAMES}
    assert json.loads(Canon().text(scenario)) == json.loads(json.dumps(expected))


def test_scenarios_that_are_the_same_have_one_key_whatever_they_are_called(small):
    assert Canon().key(small()) == Canon().key(small({"name": "another"}))


@pytest.mark.parametrize(
    "change",
    [
        {"training.micro_batch": 2},
        {"gpu.memory": "79 GiB"},
        {"conditions.gpus.0": 0.99},
        {"network.algorithms.all_gather": "tree"},
        {"seed": 1},
        {"stack": "fsdp"},
    ],
)
def test_every_value_that_changes_the_answer_changes_the_key(small, change):
    try:
        changed = small(change)
    except SimError:
        changed = small({"seed": 2})
    canon = Canon()
    assert canon.key(small()) != canon.key(changed)
    assert canon.key(changed) == Canon().key(changed), "what a Canon has seen before changes nothing"


def test_the_key_changes_with_the_constants(small, monkeypatch):
    before = Canon().key(small())
    monkeypatch.setattr(keys, "constants", lambda: "others")
    assert Canon().key(small()) != before


def test_a_schedule_in_a_file_counts_with_its_content(small, tmp_path):
    path = tmp_path / "mine.csv"
    base = small()
    named = base.model_copy(update={"layout": base.layout.model_copy(update={"schedule": str(path)})})
    path.write_text("0F0,0B0\n")
    before = Canon().key(named)
    path.write_text("0F0,0B0,\n")
    assert Canon().key(named) != before
    path.unlink()
    with pytest.raises(SimError, match=r"mine\.csv: cannot be read"):
        Canon().key(named)


def test_the_constants_are_a_hash_of_what_results_depend_on():
    assert len(constants()) == 64
    assert {"cost", "engine", "catalog"} <= set(keys.PLAYED_BY)
    assert not {"cli", "report", "study"} & set(keys.PLAYED_BY)
