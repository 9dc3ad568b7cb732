"""Loads of experts, capacity, what a rank's experts get, and what their imbalance costs."""

from collections.abc import Callable

import numpy as np
import pytest

from sim.errors import SimError
from sim.program.lower import lower
from sim.program.memory import memory
from sim.program.roles import roles
from sim.program.routing import kept_shares, place_shares, routed
from sim.results.result import Result
from sim.results.traffic import traffic
from sim.simulation import simulate
from sim.spec.conditions import built_fabric
from sim.spec.model import Experts
from sim.spec.moe import Moe, Zipf, expert_shares
from sim.spec.scenario import Scenario

Make = Callable[[dict[str, object]], Scenario]
EXPERTS = {"num_experts": 8, "top_k": 2, "ffn_hidden": 1024}
SHARED = EXPERTS | {"shared_ffn_hidden": 4096}
MOE = {"model.experts": EXPERTS, "layout.dp": 16, "layout.ep": 4}
UNEVEN = [4, 1, 3, 2, 1, 2, 2, 1]


def step_s(scenario: Scenario, fidelity: str = "fused") -> float:
    result: Result = simulate(scenario, fidelity=fidelity)
    return result.step_time_s


def test_equal_loads_are_the_balanced_ones_to_the_bit(small: Make) -> None:
    assert step_s(small(MOE | {"training.moe.load": [3.0] * 8})) == step_s(small(MOE))
    assert step_s(small(MOE | {"training.moe.load": {"distribution": "zipf", "exponent": 0}})) == step_s(small(MOE))


def test_an_even_load_is_one_role_and_an_uneven_one_a_role_for_each_place(small: Make) -> None:
    assert len(roles(small(MOE))[0]) == 1
    assert len(roles(small(MOE | {"training.moe.load": UNEVEN}))[0]) == 4


@pytest.mark.parametrize("algorithm", ["auto", "two_level"])
@pytest.mark.parametrize("extra", [{}, {"layout.tp": 2, "layout.sequence_parallel": True, "layout.dp": 8}])
def test_imbalance_costs_time_and_every_fidelity_gives_the_same(
    small: Make, algorithm: str, extra: dict[str, object]
) -> None:
    base = MOE | extra | {"network.algorithms.all_to_all": algorithm, "layout.ep": 16}
    base["model.experts"] = EXPERTS | {"num_experts": 16}
    uneven = small(base | {"training.moe.load": [*UNEVEN, *UNEVEN[::-1]]})
    times = [step_s(uneven, fidelity) for fidelity in ("full", "folded", "fused")]
    assert times[1:] == pytest.approx(times[:1] * 2, rel=1e-9)
    assert times[0] > step_s(small(base))


def test_which_experts_of_a_rank_are_busy_changes_nothing(small: Make) -> None:
    swapped = [1, 4, 2, 3, 2, 1, 1, 2]
    first, second = (step_s(small(MOE | {"training.moe.load": load})) for load in (UNEVEN, swapped))
    assert first == pytest.approx(second, rel=1e-9)


def test_which_ranks_of_a_node_are_busy_changes_nothing(small: Make) -> None:
    turned = [*UNEVEN[2:], *UNEVEN[:2]]
    first, second = (step_s(small(MOE | {"training.moe.load": load})) for load in (UNEVEN, turned))
    assert first == pytest.approx(second, rel=1e-9)


def test_the_others_wait_for_the_busiest_rank(small: Make) -> None:
    base = MOE | {"training.overlap.compute_slowdown": False}
    even, uneven = (simulate(small(base | {"training.moe.load": load})) for load in ("balanced", UNEVEN))
    assert uneven.breakdown_s["wait_peer"] > even.breakdown_s.get("wait_peer", 0.0) + 1e-6


def test_rows_of_all_ranks_are_all_copies(small: Make) -> None:
    scenario = small(MOE | {"training.moe.load": UNEVEN})
    found = [routed(scenario, place) for place in range(4)]
    assert sum(each.copies for each in found if each) == 1024 * 2 * 4
    assert [each.copies for each in found if each] == [1024 * 2 * 4 * share // 16 for share in (5, 5, 3, 3)]


def test_the_busiest_rank_is_the_one_whose_memory_counts(small: Make) -> None:
    even, uneven = (memory(small(MOE | {"training.moe.load": load}))[0] for load in ("balanced", UNEVEN))
    assert place_shares(small(MOE | {"training.moe.load": UNEVEN})).max() == 5 / 16
    assert uneven.activations_bytes > even.activations_bytes


def test_capacity_cuts_the_busy_and_padding_fills_the_idle() -> None:
    experts = Experts(num_experts=4, top_k=1, ffn_hidden=8)
    load = (5.0, 1.0, 1.0, 1.0)
    cut = kept_shares(Moe(load=load, capacity_factor=1.5), experts, 0, 800)
    assert cut.tolist() == pytest.approx([0.375, 0.125, 0.125, 0.125])
    full = kept_shares(Moe(load=load, capacity_factor=1.5, pad_to_capacity=True), experts, 0, 800)
    assert full.tolist() == pytest.approx([0.375] * 4)


def test_a_capacity_that_nobody_reaches_changes_nothing(small: Make) -> None:
    loaded = MOE | {"training.moe.load": UNEVEN}
    assert step_s(small(loaded | {"training.moe.capacity_factor": 2.0})) == step_s(small(loaded))
    assert step_s(small(loaded | {"training.moe.capacity_factor": 1.0})) < step_s(small(loaded))


def test_padding_costs_what_the_factor_says(small: Make) -> None:
    padded = small(MOE | {"training.moe.capacity_factor": 2.0, "training.moe.pad_to_capacity": True})
    found, plain = routed(padded, 0), routed(small(MOE), 0)
    assert found is not None
    assert plain is not None
    assert (found.copies, found.sent_frac) == (2 * plain.copies, pytest.approx(2.0))
    assert step_s(padded) > step_s(small(MOE))


def test_a_seed_draws_the_same_loads_and_another_one_others() -> None:
    experts = Experts(num_experts=64, top_k=4, ffn_hidden=8)
    drawn = Moe(load={"distribution": "dirichlet", "concentration": 2.0})  # type: ignore[arg-type]
    first, again, other = (expert_shares(drawn, experts, seed) for seed in (1, 1, 2))
    assert first.tolist() == again.tolist() != other.tolist()
    for shares in (first, other, expert_shares(Moe(load=Zipf(distribution="zipf", exponent=1.5)), experts, 1)):
        assert shares.sum() == pytest.approx(1.0)
        assert shares.max() <= 1 / 4 * (1 + 1e-9)


def test_a_large_concentration_is_even() -> None:
    experts = Experts(num_experts=8, top_k=2, ffn_hidden=8)
    drawn = Moe(load={"distribution": "dirichlet", "concentration": 1e10})  # type: ignore[arg-type]
    assert np.allclose(expert_shares(drawn, experts, 0), 1 / 8, rtol=1e-3)


def test_fp8_dispatch_sends_a_byte_and_a_scale_one_way_in_each_pass(small: Make) -> None:
    def sent(changes: dict[str, object]) -> float:
        scenario = small(MOE | changes)
        fabric = built_fabric(scenario)
        rows = traffic(lower(scenario, fabric, "folded"), scenario, fabric)
        return sum(row.bytes_per_step for row in rows if row.kind == "ep")

    assert sent({"training.moe.dispatch": "fp8"}) / sent({}) == pytest.approx((1 + 4 / 128 + 2) / 4)


def test_a_shared_expert_hides_the_exchange_that_it_runs_beside(small: Make) -> None:
    base = MOE | {"model.experts": SHARED, "training.overlap.compute_slowdown": False}
    plain, beside = (simulate(small(base | {"training.overlap.shared_expert": on})) for on in (False, True))
    assert beside.step_time_s < plain.step_time_s
    assert beside.breakdown_s["exposed_ep"] < plain.breakdown_s["exposed_ep"]
    assert beside.breakdown_s["gemm"] == pytest.approx(plain.breakdown_s["gemm"], rel=1e-9)
    full = simulate(small(base | {"training.overlap.shared_expert": True}), fidelity="full")
    assert full.step_time_s == pytest.approx(beside.step_time_s, rel=1e-9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training.moe.load": [1, 2]}, "2 loads for num_experts = 8"),
        ({"training.moe.load": [9, 1, 1, 1, 1, 1, 1, 1]}, r"9 of 16 \(allowed up to 1/top_k = 1/2"),
        ({"training.moe.load": [0] * 8}, "allowed up to 1/top_k"),
        ({"training.moe.load": {"distribution": "normal"}}, "allowed balanced"),
        ({"training.moe.load": "even"}, "balanced"),
        ({"training.moe.pad_to_capacity": True}, "without a moe.capacity_factor"),
        ({"model.experts": None, "layout.ep": 1, "training.moe.dispatch": "fp8"}, "needs a model with experts"),
    ],
)
def test_what_cannot_be_is_refused_with_what_is_allowed(small: Make, changes: dict[str, object], message: str) -> None:
    with pytest.raises(SimError, match=message):
        small(MOE | changes)
