"""`conditions.background`: how it is written, what is refused, what it leaves, and what a step makes of it."""

import json

import numpy as np
import pytest

from sim.errors import SimError
from sim.program.check import notes
from sim.program.lower import lower
from sim.results.traffic import traffic
from sim.simulation import simulate
from sim.spec.background import loaded
from sim.spec.conditions import built_fabric
from sim.spec.degraded import degraded
from sim.spec.load import dump, load
from sim.study.unused import unused

NODES = {"topology": {"use": "dgx-h100", "nodes": 2}, "layout.dp": 4}


@pytest.fixture
def written(here, scenario_text):
    """Loads the small scenario with one more line and overrides."""

    def loaded_file(line, overrides=NODES):
        (here / "x.yaml").write_text(scenario_text + line)
        return load("x.yaml", overrides)

    return loaded_file


@pytest.fixture
def whole(written):
    return written("").topology.build()


def changed(fabric, whole):
    """Names of the ends of every link whose rate is not that of the whole fabric, and what share it is."""
    names, links = whole.node_names(), whole.links
    share = fabric.links.bytes_per_s / links.bytes_per_s
    return {
        (names[links.source[link]], names[links.target[link]]): round(share[link], 12)
        for link in np.flatnonzero(share != 1).tolist()
    }


def test_a_fabric_that_nobody_else_uses_is_itself(whole):
    assert loaded(whole, {}) is whole


def test_the_load_of_a_tier_takes_its_share_of_every_link_in_both_directions(whole):
    fabric = loaded(whole, {"nic": 0.25})
    nic = whole.links.tiers.index("nic")
    assert (fabric.links.bytes_per_s == whole.links.bytes_per_s * np.where(whole.links.tier == nic, 0.75, 1)).all()
    assert (fabric.links.wire_bytes_per_s == whole.links.wire_bytes_per_s).all()
    assert len(changed(fabric, whole)) == 2 * 16


@pytest.mark.parametrize("cable", ["nic3-leaf3", "leaf3-nic3"])
def test_the_load_of_a_cable_holds_in_place_of_its_tiers(cable, whole):
    found = changed(loaded(whole, {cable: 0.5, "nic": 0.25}), whole)
    assert {ends for ends, share in found.items() if share == 0.5} == {("nic3", "leaf3"), ("leaf3", "nic3")}
    assert sorted(found.values()) == [0.5] * 2 + [0.75] * 30
    assert changed(loaded(whole, {cable: 0.0, "nic": 0.25}), whole).keys() == found.keys() - {
        ("nic3", "leaf3"),
        ("leaf3", "nic3"),
    }


def test_a_load_takes_its_share_of_what_a_bad_cable_keeps(written, whole):
    scenario = written("conditions: {links: {nic3-leaf3: 0.5}, background: {nic3-leaf3: 0.5}}")
    assert changed(built_fabric(scenario), whole) == {("nic3", "leaf3"): 0.25, ("leaf3", "nic3"): 0.25}


def test_routes_around_a_broken_cable_are_kept(whole):
    broken = degraded(whole, {"leaf0-spine0": 0})
    pair = np.array([0]), np.array([8])
    around, whole_way = loaded(broken, {"spine": 0.5}).routes(*pair), broken.routes(*pair)
    assert (around.link == whole_way.link).all()
    assert (around.share == whole_way.share).all()


def told(line, written, overrides=NODES):
    with pytest.raises(SimError) as caught:
        written(line, overrides)
    return str(caught.value).splitlines()


PLACE = "x.yaml:32:27: conditions.background."


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (
            "nics: 0.5",
            "nics: no such tier (got 'nics', allowed nvlink, pcie, nic, spine, or a cable such as gpu0-nvswitch0)",
        ),
        ("nic: 1", "nic: out of range (got 1, allowed < 1.0)"),
        ("nic: -0.1", "nic: out of range (got -0.1, allowed >= 0.0)"),
        ("nic: most", "nic: wrong type (got 'most', allowed a number)"),
        ("leaf0-leaf1: 0.5", "leaf0-leaf1: leaf0 and leaf1 are not joined"),
        ("gpu0-nvswitch9: 0.5", "gpu0-nvswitch9: no 'nvswitch9' in the topology"),
    ],
)
def test_a_wrong_load_is_told_at_its_place(key, message, written):
    (line,) = told(f"conditions: {{background: {{{key}}}}}", written)
    assert line.startswith(PLACE + message)


def test_wrong_loads_and_wrong_cables_are_told_together(written):
    lines = told("conditions: {links: {nic0-leaf9: 0.5}, background: {rail: 0.5, nic-nic: 0.1}}", written)
    wrong = ["conditions.links.nic0-leaf9", "conditions.background.rail", "conditions.background.nic-nic"]
    assert [line.split(": ")[1] for line in lines] == wrong


@pytest.mark.parametrize(
    "overrides", [["conditions.background.nvlink=0.5"], {"conditions.background": {"nvlink": 0.5}}]
)
def test_a_load_is_set_from_outside(overrides, written):
    assert written("", overrides).conditions.background == {"nvlink": 0.5}


def test_a_dump_loads_as_the_same_load(here, written):
    scenario = written("conditions: {background: {nic: 0.5, nic0-leaf0: 0.2}}")
    document = dump(scenario)
    assert document["conditions"]["background"] == {"nic": 0.5, "nic0-leaf0": 0.2}
    (here / "again.json").write_text(json.dumps({key: value for key, value in document.items() if key != "variant"}))
    assert load("again.json").conditions == scenario.conditions


def test_loads_without_effect_are_listed(written):
    line = (
        "conditions:\n  links: {leaf0-spine0: 0}\n"
        "  background: {nvlink: 0, gpu1-nvswitch0: 0, spine: 0.5, nic: 0.5, nic0-leaf0: 0, leaf0-spine0: 0.1}"
    )
    scenario = written(line, NODES | {"layout.order": "tp-dp-pp-cp-ep"})
    fabric = built_fabric(scenario)
    rows = traffic(lower(scenario, fabric, "folded"), scenario, fabric)
    listed = {path: reason for path, reason in unused(scenario, fabric, rows) if "background" in path}
    assert listed == {
        "conditions.background.nvlink": "share 0: nobody else uses it",
        "conditions.background.gpu1-nvswitch0": "share 0: nobody else uses it",
        "conditions.background.spine": "no traffic on spine links",
        "conditions.background.leaf0-spine0": "no traffic on spine links",
    }


def test_a_note_says_what_a_load_leaves_out(small):
    assert not any("Background" in note for note in notes(small()))
    assert not any("Background" in note for note in notes(small({"conditions.background": {"nic": 0}})))
    assert any("Background" in note for note in notes(small({"conditions.background": {"nic": 0.1}})))


TREE = {"topology": {"use": "fat-tree-h100-2to1", "nodes": 2, "nodes_per_leaf": 1}, "layout.tp": 4, "layout.zero": 1}


@pytest.mark.parametrize(
    ("background", "ranks"),
    [({}, 1), ({"nic": 0.5, "spine": 0.3}, 1), ({"nic2-leaf0": 0.9}, 2), ({"gpu0-nvswitch0": 0.9, "spine": 0.2}, 4)],
)
def test_folded_and_fused_give_what_full_gives_beside_a_load(background, ranks, small):
    scenario = small(TREE | {"conditions.background": background})
    full, folded, fused = (simulate(scenario, fidelity) for fidelity in ("full", "folded", "fused"))
    assert folded.step_time_s == pytest.approx(full.step_time_s, rel=1e-9)
    assert fused.step_time_s == pytest.approx(full.step_time_s, rel=1e-9)
    assert folded.simulated_ranks == ranks


def test_more_load_makes_a_step_longer(small):
    steps = [simulate(small(TREE | {"conditions.background": {"nic": share}})).step_time_s for share in (0, 0.5, 0.9)]
    assert steps == sorted(steps)
    assert steps[0] < steps[2]
