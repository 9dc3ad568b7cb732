"""`conditions:` of a scenario: how it is written, what is refused, and what is drawn."""

import json
import math
from typing import get_args, get_origin

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from sim.errors import SimError
from sim.program.lower import lower
from sim.results.traffic import traffic
from sim.spec.conditions import Conditions, Jitter, built_fabric, operation_factors, speeds
from sim.spec.gpu import Gpu
from sim.spec.layout import Layout
from sim.spec.load import dump, load, load_all, load_points
from sim.spec.model import Model
from sim.spec.scenario import Setting
from sim.spec.source import NUMBERED
from sim.spec.topology import FABRICS
from sim.spec.training import Training
from sim.study.unused import unused

NODES = {"topology": {"use": "dgx-h100", "nodes": 2}, "layout.dp": 4}


def complaints(*arguments, **options):
    with pytest.raises(SimError) as caught:
        load(*arguments, **options)
    return str(caught.value).splitlines()


@pytest.fixture
def written(here, scenario_text):
    """Loads the small scenario with one more line and overrides."""

    def loaded(line, overrides=()):
        (here / "x.yaml").write_text(scenario_text + line)
        return load("x.yaml", overrides)

    return loaded


@pytest.fixture
def refused(here, scenario_text):
    """What is said of the small scenario with one more line, which is line 32."""

    def told(line, overrides=()):
        (here / "x.yaml").write_text(scenario_text + line)
        return complaints("x.yaml", overrides)

    return told


def test_nothing_is_degraded_unless_a_scenario_says_so(written):
    assert written("").conditions == Conditions() == Conditions(gpus={}, links={}, jitter=Jitter())


def test_gpus_are_called_by_their_numbers(written):
    assert written("conditions: {gpus: {3: 0.8, '5': 1}}").conditions.gpus == {3: 0.8, 5: 1.0}


@pytest.mark.parametrize(
    "overrides",
    [
        ["conditions.gpus.3=0.8"],
        ["conditions.gpus={3: 0.8}"],
        ["conditions={gpus: {3: 0.8}}"],
        {"conditions.gpus.3": 0.8},
        {"conditions.gpus": {3: 0.8}},
        {"conditions.gpus": {"3": 0.8}},
        {"conditions": {"gpus": {3: 0.8}}},
    ],
)
def test_an_override_sets_the_speed_of_a_gpu(overrides, written):
    assert written("", overrides).conditions.gpus == {3: 0.8}


def test_an_override_lies_on_what_the_file_says(written):
    line = "conditions: {gpus: {3: 0.8, 5: 0.5}}"
    assert written(line, ["conditions.gpus.3=0.9"]).conditions.gpus == {3: 0.9, 5: 0.5}


def test_a_variant_lies_on_what_the_file_says(here, scenario_text):
    lines = "conditions: {gpus: {3: 0.8}}\nvariants: {as_is: {}, mended: {conditions: {gpus: {3: 1}}}}\n"
    (here / "x.yaml").write_text(scenario_text + lines)
    assert [each.conditions.gpus for each in load_all("x.yaml")] == [{3: 0.8}, {3: 1.0}]


@pytest.mark.parametrize(
    "sweep",
    [
        "{product: {conditions.gpus.3: [1.0, 0.9]}}",
        "{zip: {conditions.gpus: [{3: 1.0}, {3: 0.9}]}}",
        "{points: [{conditions: {gpus: {3: 1.0}}}, {conditions: {gpus: {3: 0.9}}}]}",
    ],
)
def test_the_speed_of_a_gpu_can_be_swept(sweep, here):
    (here / "x.yaml").write_text(f"extends: base.yaml\nsweep: {sweep}\n")
    points = load_points("x.yaml")
    assert [point.scenario.conditions.gpus for point in points] == [{3: 1.0}, {3: 0.9}]


def test_a_dump_loads_as_the_same_conditions(here, written):
    line = "conditions: {gpus: {3: 0.8}, links: {gpu0-nvswitch0: 0.5}, jitter: {per_rank: 0.02}}"
    scenario = written(line, ["layout.zero=1"])
    document = dump(scenario)
    assert document["conditions"] == {
        "gpus": {"3": 0.8},
        "links": {"gpu0-nvswitch0": 0.5},
        "background": {},
        "jitter": {"per_rank": 0.02, "per_operation": 0.0},
    }
    del document["variant"]
    (here / "again.json").write_text(json.dumps(document))
    assert load("again.json").conditions == scenario.conditions


NUMBERED_SPEED = "x.yaml:32:21: conditions.gpus.3: "


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("conditions: {gpus: {3: 0}}", NUMBERED_SPEED + "out of range (got 0, allowed > 0.0)"),
        ("conditions: {gpus: {3: 2.5}}", NUMBERED_SPEED + "out of range (got 2.5, allowed <= 2.0)"),
        ("conditions: {gpus: {3: slow}}", NUMBERED_SPEED + "wrong type (got 'slow', allowed a number)"),
        (
            "conditions: {gpus: {first: 1}}",
            "x.yaml:32:21: conditions.gpus.first: wrong value (got 'first', allowed the number of a GPU, from 0)",
        ),
        (
            "conditions: {gpus: {-1: 1}}",
            "x.yaml:32:21: conditions.gpus.-1: wrong value (got '-1', allowed the number of a GPU, from 0)",
        ),
        (
            "conditions: {gpus: {'03': 1}}",
            "x.yaml:32:21: conditions.gpus.03: wrong value (got '03', allowed the number of a GPU, from 0)",
        ),
        ("conditions: {gpus: {8: 1}}", "x.yaml:32:21: conditions.gpus.8: no such GPU (got 8, allowed 0 .. 7)"),
        (
            "conditions: {gpu: {}}",
            "x.yaml:32:14: conditions.gpu: unknown key (got 'gpu', allowed gpus, links, background",
        ),
        (
            "conditions: {links: {gpu0-nvswitch0: 2}}",
            "x.yaml:32:22: conditions.links.gpu0-nvswitch0: out of range (got 2, allowed <= 1.0)",
        ),
        (
            "conditions: {jitter: {per_rank: -0.1}}",
            "x.yaml:32:23: conditions.jitter.per_rank: out of range (got -0.1, allowed >= 0.0)",
        ),
        (
            "conditions: {jitter: {per_operation: 1.5}}",
            "x.yaml:32:23: conditions.jitter.per_operation: out of range (got 1.5, allowed <= 1.0)",
        ),
        ("jitter: {}", "x.yaml:32:1: jitter: unknown key (got 'jitter', did you mean 'conditions.jitter'?)"),
        ("layout.tp: 2\n3: 4", "x.yaml:33:1: a key must be a string (got 3, allowed it in quotes)"),
        (
            "conditions: {links: {gpu0-nvswitch9: 1}}",
            (
                "x.yaml:32:22: conditions.links.gpu0-nvswitch9: no 'nvswitch9' in the topology "
                "(got 'gpu0-nvswitch9', allowed gpu0 .. gpu7, nvswitch0)"
            ),
        ),
    ],
)
def test_a_mistake_is_told_at_its_place(line, message, refused):
    (told,) = refused(line)
    assert told.startswith(message)


def test_the_numbered_mapping_of_a_file_is_the_one_that_the_spec_has():
    specs = {"": Setting, "layout.": Layout, "training.": Training, "gpu.": Gpu, "model.": Model}
    specs |= {f"topology.{name}.": spec for name, spec in FABRICS.items()}
    assert [path for prefix, spec in specs.items() for path in numbered(spec, prefix)] == [NUMBERED]


def numbered(spec, prefix):
    """Paths of the mappings with whole numbers as keys."""
    for name, field in spec.model_fields.items():
        pending = [field.annotation]
        while pending:
            annotation = pending.pop()
            if isinstance(annotation, type) and issubclass(annotation, BaseModel):
                yield from numbered(annotation, f"{prefix}{name}.")
            elif get_origin(annotation) is dict and int in (
                get_args(annotation)[0],
                *get_args(get_args(annotation)[0]),
            ):
                yield prefix + name
            pending += get_args(annotation)


def test_a_broken_cable_that_the_layout_cannot_do_without_is_told_when_the_file_is_read(refused):
    assert refused("conditions: {links: {nvswitch0-gpu3: 0}}") == [
        "x.yaml:32:22: conditions.links.nvswitch0-gpu3: broken, and gpu3 has no other way to gpu7 (got 0, allowed > 0)"
    ]


@pytest.mark.parametrize("cable", ["gpu9-nic9", "nic9-leaf1"])
def test_a_pipeline_that_needs_a_broken_cable_is_refused(cable, refused):
    line = f"conditions: {{links: {{{cable}: 0}}}}"
    (told,) = refused(line, NODES)
    assert told == (
        f"x.yaml:32:22: conditions.links.{cable}: broken, and gpu1 has no other way to gpu9 (got 0, allowed > 0)"
    )


REPLICAS_ON_TWO_NODES = NODES | {"layout.order": "tp-pp-cp-ep-dp"}


@pytest.mark.parametrize(("cable", "source", "target"), [("nic5-gpu5", 5, 13), ("gpu12-nvswitch1", 12, 14)])
def test_a_group_that_lies_evenly_on_its_nodes_needs_all_of_its_cables(cable, source, target, refused):
    (told,) = refused(f"conditions: {{links: {{{cable}: 0}}}}", REPLICAS_ON_TWO_NODES)
    way = f"gpu{source} has no other way to gpu{target}"
    assert told == f"x.yaml:32:22: conditions.links.{cable}: broken, and {way} (got 0, allowed > 0)"


ODD_NODES = {
    "topology": {"use": "dgx-h100", "nodes": 2, "gpus_per_node": 3},
    "layout": {"dp": 3, "pp": 1},
    "training.global_batch": 6,
}


def test_a_broken_cable_that_only_some_algorithms_need_is_refused_by_the_step(written):
    """Replicas 0, 2 and 4 lie unevenly on two nodes, so that GPU 0 may leave the way out to GPU 2."""
    scenario = written("conditions: {links: {gpu0-nic0: 0}}", ODD_NODES | {"topology.pxn": False})
    with pytest.raises(SimError) as caught:
        lower(scenario, built_fabric(scenario), "folded")
    (problem,) = caught.value.problems
    assert str(problem).startswith("conditions.links.gpu0-nic0: broken, and gpu")


def test_all_broken_cables_that_a_layout_needs_are_told(refused):
    """NIC 9 joins the stages, GPU 5's port its tensor-parallel pair."""
    told = refused("conditions: {links: {gpu5-nvswitch0: 0, gpu9-nic9: 0, gpu0-nic0: 0.5}}", NODES)
    assert [line.split(": ")[1] for line in told] == ["conditions.links.gpu5-nvswitch0", "conditions.links.gpu9-nic9"]


def test_a_broken_cable_is_no_reason_to_hide_other_mistakes(refused):
    told = refused("conditions: {links: {gpu0-nvswitch0: 0}}", {"layout.pp": 3})
    assert [line.split(": ")[0] for line in told] == ["x.yaml:21:1", "x.yaml:21:1"]


def test_the_fabric_of_a_scenario_has_its_degraded_cables(written):
    scenario = written("conditions: {links: {nvswitch0-gpu0: 0.5}}")
    whole = scenario.topology.build().links.bytes_per_s
    changed = np.flatnonzero(built_fabric(scenario).links.bytes_per_s != whole)
    assert changed.tolist() == [0, 8]


def without_effect(scenario):
    fabric = built_fabric(scenario)
    rows = traffic(lower(scenario, fabric, "folded"), scenario, fabric)
    return {path: reason for path, reason in unused(scenario, fabric, rows) if not path.startswith("network")}


def test_conditions_that_change_nothing_are_listed(written):
    line = (
        "conditions:\n  gpus: {3: 1, 5: 0.9}\n"
        "  links: {gpu0-nvswitch0: 1, gpu1-nvswitch0: 0.5, leaf0-spine0: 0.5, nic0-leaf0: 0.5}"
    )
    listed = without_effect(written(line, NODES | {"layout.order": "tp-dp-pp-cp-ep"}))
    assert {path: reason for path, reason in listed.items() if path.startswith("conditions")} == {
        "conditions.gpus.3": "speed 1: as on the data sheet",
        "conditions.links.gpu0-nvswitch0": "share 1: as on the data sheet",
        "conditions.links.leaf0-spine0": "no traffic on spine links",
    }


@pytest.mark.parametrize("jitter", ["per_rank", "per_operation"])
def test_the_seed_counts_where_something_is_drawn(jitter, written):
    assert without_effect(written(""))["seed"] == "nothing in a step is drawn at random (conditions.jitter is 0)"
    assert "seed" not in without_effect(written(f"conditions: {{jitter: {{{jitter}: 0.1}}}}"))


def test_a_jitter_of_zero_draws_nothing():
    assert (speeds(Conditions(), 4, seed=1) == 1).all()
    assert (operation_factors(Conditions(), 1, 0, 4) == 1).all()


SIZE = 200_000


@pytest.mark.parametrize("sigma", [0.02, 0.2, 1.0])
def test_factors_on_time_are_log_normal_with_mean_one(sigma):
    conditions = Conditions(jitter=Jitter(per_rank=sigma, per_operation=sigma))
    for factors in (1 / speeds(conditions, SIZE, seed=3), operation_factors(conditions, 3, 5, SIZE)):
        error = math.sqrt(math.exp(sigma**2) - 1) / math.sqrt(SIZE)
        assert factors.mean() == pytest.approx(1, abs=4 * error)
        assert np.log(factors).std() == pytest.approx(sigma, rel=4 / math.sqrt(2 * SIZE))
        assert np.log(factors).mean() == pytest.approx(-(sigma**2) / 2, abs=4 * sigma / math.sqrt(SIZE))


def test_a_straggler_has_its_own_jitter_on_top():
    jitter = Jitter(per_rank=0.1)
    ratio = speeds(Conditions(gpus={2: 0.5}, jitter=jitter), 4, 7) / speeds(Conditions(jitter=jitter), 4, 7)
    assert ratio.tolist() == pytest.approx([1, 1, 0.5, 1], rel=1e-12)


@given(seed=st.integers(0, 2**70), rank=st.integers(0, 10**6), size=st.integers(1, 50))
def test_what_a_rank_draws_depends_on_the_seed_and_on_nothing_else_that_is_played(seed, rank, size):
    conditions = Conditions(jitter=Jitter(per_rank=0.1, per_operation=0.1))
    factors = operation_factors(conditions, seed, rank, size)
    assert factors.tolist() == operation_factors(conditions, seed, rank, size + 9)[:size].tolist()
    assert factors[0] != operation_factors(conditions, seed, rank + 1, 1)[0]
    assert factors[0] != operation_factors(conditions, seed + 1, rank, 1)[0]
    assert speeds(conditions, size, seed).tolist() == speeds(conditions, size + 9, seed)[:size].tolist()
    assert speeds(conditions, 1, seed)[0] != speeds(conditions, 1, seed + 1)[0]


def test_draws_of_ranks_and_purposes_are_independent():
    conditions = Conditions(jitter=Jitter(per_rank=0.1, per_operation=0.1))
    drawn = [operation_factors(conditions, 0, rank, SIZE) for rank in (0, 1, 2)] + [speeds(conditions, SIZE, 0)]
    between = np.corrcoef(drawn)[np.triu_indices(4, 1)]
    assert np.abs(between).max() < 5 / math.sqrt(SIZE)
