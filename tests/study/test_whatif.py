"""What a change does is what the changed scenario takes; and what a placement saves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import sim
from sim.errors import SimError
from sim.simulation import load
from sim.spec.conditions import built_fabric
from sim.spec.rescaled import rescaled
from sim.spec.scenario import Scenario
from sim.study.placement import placements
from sim.study.whatif import WhatIf, what_if

SMALL = str(Path(__file__).parents[1] / "small.yaml")
LAYOUT = {
    "layout.tp": 4,
    "layout.sequence_parallel": True,
    "layout.pp": 2,
    "layout.zero": 1,
    "training.global_batch": 16,
}


@pytest.fixture(scope="module")
def small() -> Scenario:
    return load(SMALL, LAYOUT)


@pytest.fixture(scope="module")
def found(small: Scenario) -> WhatIf:
    return what_if(small)


def step_s(found: WhatIf, words: str) -> float:
    return next(each.step_s for each in found.outcomes if each.words.startswith(words))


@pytest.mark.parametrize(
    ("words", "changes"),
    [
        ("micro-batch 2", {"training.micro_batch": 2}),
        ("VPP 2", {"layout.vpp": 2, "layout.schedule": "interleaved_1f1b"}),
        ("ZeRO-2", {"layout.zero": 2}),
        ("recompute full", {"training.recompute": "full"}),
        ("schedule zb_h1", {"layout.schedule": "zb_h1"}),
        ("GPU 0 at 0.9", {"conditions.gpus": {0: 0.9}}),
    ],
)
def test_a_change_is_worth_what_the_changed_scenario_takes(found: WhatIf, words: str, changes: dict[str, object]):
    assert step_s(found, words) == pytest.approx(sim.simulate(load(SMALL, LAYOUT | changes)).step_time_s, rel=1e-9)


def test_the_list_is_ranked_and_says_how_much(found: WhatIf, small: Scenario):
    assert found.step_s == pytest.approx(sim.simulate(small).step_time_s, rel=1e-9)
    changes = [each.change_frac for each in found.outcomes if each.fits]
    assert changes == sorted(changes)
    for each in found.outcomes:
        assert each.change_frac == pytest.approx(each.step_s / found.step_s - 1)
        assert each.text.startswith(f"{each.words}: ")


def test_more_of_a_resource_makes_no_step_longer_and_elasticities_stay_below_one(found: WhatIf):
    for words in ("NVLink", "links between nodes", "10 % more FLOP/s", "10 % more HBM"):
        outcome = next(each for each in found.outcomes if each.words.startswith(words))
        assert outcome.elasticity is not None
        assert -1.0 <= outcome.elasticity <= 1e-9
    assert step_s(found, "NVLink") < found.step_s


def test_a_step_of_one_kernel_bound_rank_follows_flops():
    alone = {"topology": "single-node-h100", "layout.dp": 8, "training.seq_len": 4096, "model.hidden": 1024}
    outcome = next(each for each in what_if(load(SMALL, alone)).outcomes if "FLOP/s" in each.words)
    assert outcome.elasticity is not None
    assert -1.0 < outcome.elasticity < -0.2


def test_a_fabric_with_factors_of_one_is_the_fabric(small: Scenario):
    fabric = built_fabric(small)
    same, fast = rescaled(fabric), rescaled(fabric, network=2.0)
    assert np.array_equal(same.links.bytes_per_s, fabric.links.bytes_per_s)
    assert same.links.nccl == fabric.links.nccl
    is_nvlink = fabric.links.tier == fabric.links.tiers.index("nvlink")
    assert np.array_equal(fast.links.bytes_per_s[is_nvlink], fabric.links.bytes_per_s[is_nvlink])
    assert np.array_equal(fast.links.bytes_per_s[~is_nvlink], 2 * fabric.links.bytes_per_s[~is_nvlink])


def test_every_order_is_played_and_its_step_is_that_of_the_scenario(small: Scenario):
    placement = placements(small)
    assert len(placement.orders) == 6
    assert placement.own == "tp-dp-pp"
    for each in placement.orders:
        scenario = load(SMALL, LAYOUT | {"layout.order": each.order})
        assert each.step_s == pytest.approx(sim.simulate(scenario).step_time_s, rel=1e-9)
    assert [each.step_s for each in placement.orders] == sorted(each.step_s for each in placement.orders)


def test_tensor_parallelism_inside_the_node_saves_what_the_table_says(small: Scenario):
    saving = placements(small).saving()
    assert saving is not None
    inside, near, far = saving
    assert inside.nodes_by_axis["tp"] == 1
    assert near.nodes_by_axis["tp"] == far.nodes_by_axis["tp"] == 2
    assert inside.step_s < near.step_s <= far.step_s


def test_one_split_axis_has_one_order():
    with pytest.raises(SimError, match="fewer than two axes are split"):
        placements(load(SMALL, {"layout.dp": 16}))
