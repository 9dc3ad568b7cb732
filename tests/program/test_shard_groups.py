"""Shard groups, ZeRO++, resharding and formats on the wire: who sends what to whom, and what it takes of memory."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest

from sim.errors import SimError
from sim.program.lower import lower
from sim.program.memory import StageMemory, memory
from sim.program.operations import Collective
from sim.program.replication import SCALE_BYTES
from sim.results.traffic import TrafficRow, traffic
from sim.simulation import simulate
from sim.spec.layout import Layout, groups
from sim.spec.scenario import Scenario

Make = Callable[[dict[str, object]], Scenario]
Key = tuple[str, str, str]

BASE: dict[str, object] = {"layout.dp": 16, "training.grad_precision": "bf16"}
ZERO_3 = BASE | {"layout.zero": 3}
HSDP = ZERO_3 | {"layout.shard": 8}
QGZ = ZERO_3 | {"training.reduce_precision": "int4", "layout.reduce_hop": 8}
MICROBATCHES = 4
BATCH = {"training.global_batch": 16 * MICROBATCHES}
LAYER = 2 * 1024 * 1024 + 2 * 1024 * 512 + 3 * 1024 * 4096 + 2 * 1024
PARAMETERS = 4 * LAYER + 2 * 32000 * 1024 + 1024
EXPERTS = {"layout.ep": 4, "model.experts": {"num_experts": 8, "top_k": 2, "ffn_hidden": 512}}


def sent(scenario: Scenario) -> dict[Key, float]:
    """Bytes that one rank passes to data-parallel collectives in a step, by kind, op and group."""
    played = lower(scenario, scenario.topology.build(), "folded")
    total: dict[Key, float] = {}
    for number in played.payload.tolist():
        payload = played.payloads[number]
        if isinstance(payload, Collective) and payload.kind.startswith("dp"):
            key = (payload.kind, payload.op, payload.group)
            total[key] = total.get(key, 0.0) + payload.nbytes
    return total


def kernels(scenario: Scenario) -> dict[str, float]:
    """Bytes that memory-bound kernels of a rank move in a step, by name."""
    played = lower(scenario, scenario.topology.build(), "folded")
    moved: dict[str, float] = defaultdict(float)
    for number in played.payload.tolist():
        for kernel in getattr(played.payloads[number], "kernels", ()):
            moved[kernel.name] += getattr(kernel, "nbytes", 0)
    return moved


def rows_of(scenario: Scenario) -> tuple[TrafficRow, ...]:
    """What the step sends, by kind, op and group."""
    fabric = scenario.topology.build()
    return traffic(lower(scenario, fabric, "folded"), scenario, fabric)


def held(scenario: Scenario) -> StageMemory:
    (stage,) = memory(scenario)
    return stage


@pytest.mark.parametrize("experts", [{}, EXPERTS])
@pytest.mark.parametrize("zero", [1, 2, 3])
def test_all_ranks_as_one_shard_group_are_plain_zero(small: Make, zero: int, experts: dict[str, object]) -> None:
    plain = small(BASE | BATCH | experts | {"layout.zero": zero})
    grouped = small(BASE | BATCH | experts | {"layout.zero": zero, "layout.shard": 16})
    assert sent(grouped) == sent(plain)
    assert memory(grouped) == memory(plain)
    assert simulate(grouped).step_time_s == simulate(plain).step_time_s


def test_shard_groups_of_one_rank_send_and_hold_what_data_parallelism_does(small: Make) -> None:
    one_pass = {"training.global_batch": 16}
    alone = small(ZERO_3 | one_pass | {"layout.shard": 1})
    plain = small(BASE | one_pass | {"layout.zero": 0})
    assert sent(alone) == {("dp_replica", "all_reduce", "dp_cp"): pytest.approx(2 * PARAMETERS)}
    assert sent(plain) == {("dp_reduce", "all_reduce", "dp_cp"): pytest.approx(2 * PARAMETERS)}
    assert held(alone).optimizer_bytes == held(plain).optimizer_bytes
    assert held(alone).parameters_bytes == held(plain).parameters_bytes


@pytest.mark.parametrize(
    ("sync", "within", "between"), [(None, 4, 4), ("every", 4, 4), ("two_hop", 4, 1), ("last", 1, 1)]
)
def test_hsdp_gathers_and_scatters_in_the_group_and_sums_shards_between_them(
    small: Make, sync: str | None, within: int, between: int
) -> None:
    """Every pass (torch's HSDP), shards at the accumulation boundary (MiCS), or all of it there (no_sync)."""
    assert sent(small(HSDP | BATCH | {"training.grad_sync": sync})) == {
        ("dp_gather", "all_gather", "dp_cp.shard"): pytest.approx(2 * MICROBATCHES * 2 * PARAMETERS),
        ("dp_reduce", "reduce_scatter", "dp_cp.shard"): pytest.approx(within * 2 * PARAMETERS),
        ("dp_replica", "all_reduce", "dp_cp.replica"): pytest.approx(between * 2 * PARAMETERS / 8),
    }


def test_a_distributed_optimizer_in_instances_reduces_once_and_gathers_in_its_own(small: Make) -> None:
    assert sent(small(BASE | BATCH | {"layout.zero": 1, "layout.shard": 4})) == {
        ("dp_gather", "all_gather", "dp_cp.shard"): pytest.approx(2 * PARAMETERS),
        ("dp_reduce", "reduce_scatter", "dp_cp.shard"): pytest.approx(2 * PARAMETERS),
        ("dp_replica", "all_reduce", "dp_cp.replica"): pytest.approx(2 * PARAMETERS / 4),
    }


def test_zero_1_may_reduce_over_all_replicas_and_gather_in_groups(small: Make) -> None:
    changes = {"layout.zero": 1, "layout.shard": 8, "training.grad_sync": "all_reduce"}
    assert sent(small(BASE | BATCH | changes)) == {
        ("dp_gather", "all_gather", "dp_cp.shard"): pytest.approx(2 * PARAMETERS),
        ("dp_reduce", "all_reduce", "dp_cp"): pytest.approx(2 * PARAMETERS),
    }


def test_experts_are_cut_into_as_many_groups(small: Make) -> None:
    """16 ranks in two groups of 8; 4 replicas of an expert in two groups of 2."""
    played = sent(small(HSDP | EXPERTS | {"training.global_batch": 16}))
    experts_bytes = 2 * 4 * (8 / 4) * 3 * 1024 * 512
    assert played["dp_reduce", "reduce_scatter", "edp.shard"] == pytest.approx(experts_bytes)
    assert played["dp_replica", "all_reduce", "edp.replica"] == pytest.approx(experts_bytes / 2)


@pytest.mark.parametrize("zero", [1, 2, 3])
@pytest.mark.parametrize("shard", [1, 2, 8, 16])
def test_state_is_that_of_the_zero_paper_with_the_group_in_place_of_all_ranks(
    small: Make, shard: int, zero: int
) -> None:
    """Parameters in 16 bits, bf16 gradients, 12 bytes of Adam (arXiv 1910.02054, figure 1)."""
    stage = held(small(BASE | {"layout.zero": zero, "layout.shard": shard}))
    assert stage.optimizer_bytes == pytest.approx(12 * PARAMETERS / shard)
    assert stage.parameters_bytes == pytest.approx(2 * PARAMETERS / (shard if zero == 3 else 1))
    one_weight_of_each_shape = held(small(BASE | {"layout.zero": 0})).gradients_bytes - 2 * PARAMETERS
    beside = 0 if zero == 3 else one_weight_of_each_shape
    assert stage.gradients_bytes - beside == pytest.approx(2 * PARAMETERS / (shard if zero >= 2 else 1))


def test_a_smaller_group_gathers_for_the_backward_pass_from_a_secondary_copy(small: Make) -> None:
    """hpZ (arXiv 2306.10209 section 3.2) and FSDP2's number for reshard_after_forward: 2 / 8 bytes a parameter more."""
    plain, scenario = small(ZERO_3 | BATCH), small(ZERO_3 | BATCH | {"layout.reshard": 8})
    found = sent(scenario)
    assert found["dp_gather", "all_gather", "dp_cp"] == pytest.approx(MICROBATCHES * 2 * PARAMETERS)
    assert found["dp_gather", "all_gather", "dp_cp.reshard"] == pytest.approx(MICROBATCHES * 2 * PARAMETERS)
    more_bytes = held(scenario).parameters_bytes - held(plain).parameters_bytes
    assert more_bytes == pytest.approx(2 * PARAMETERS / 8)
    rows = {row.group: row.nodes_per_group for row in rows_of(scenario)}
    assert rows["dp_cp.reshard"] == 1
    assert rows["dp_cp"] == 2


def test_parameters_that_stay_whole_to_the_backward_pass_are_gathered_once_a_micro_batch(small: Make) -> None:
    plain, scenario = small(ZERO_3 | BATCH), small(ZERO_3 | BATCH | {"layout.reshard": False})
    assert sent(scenario)["dp_gather", "all_gather", "dp_cp"] == pytest.approx(MICROBATCHES * 2 * PARAMETERS)
    assert held(scenario).parameters_bytes == held(plain).parameters_bytes
    # The head is the first to run backward: whole parameters of all layers and the embedding instead of one layer's.
    assert held(scenario).communication_bytes - held(plain).communication_bytes == pytest.approx(
        2 * (PARAMETERS - (32000 * 1024 + 1024) - LAYER)
    )


def test_parameters_that_stay_whole_all_step_are_gathered_once_a_step(small: Make) -> None:
    scenario = small(ZERO_3 | BATCH | {"layout.reshard": "step", "training.grad_sync": "last"})
    assert sent(scenario) == {
        ("dp_gather", "all_gather", "dp_cp"): pytest.approx(2 * PARAMETERS),
        ("dp_reduce", "reduce_scatter", "dp_cp"): pytest.approx(2 * PARAMETERS),
    }
    assert held(scenario).parameters_bytes == pytest.approx(2 * PARAMETERS * (1 + 1 / 16))


def test_without_sync_whole_gradients_are_summed_until_the_last_pass(small: Make) -> None:
    each, last = small(ZERO_3 | BATCH), small(ZERO_3 | BATCH | {"training.grad_sync": "last"})
    beside = held(small(BASE | {"layout.zero": 0})).gradients_bytes - 2 * PARAMETERS
    assert held(each).gradients_bytes == pytest.approx(2 * PARAMETERS / 16)
    assert held(last).gradients_bytes == pytest.approx(2 * PARAMETERS + beside)
    assert simulate(last).step_time_s < simulate(each).step_time_s


def test_quantized_weights_halve_the_gathers(small: Make) -> None:
    """qwZ: int8 and one fp32 scale for 8,000 values; each rank quantizes its share and restores the whole."""
    plain, scenario = small(ZERO_3 | BATCH), small(ZERO_3 | BATCH | {"training.gather_precision": "int8"})
    key = ("dp_gather", "all_gather", "dp_cp")
    assert sent(scenario)[key] == pytest.approx(sent(plain)[key] * (1 + SCALE_BYTES) / 2)
    moved, passes = kernels(scenario), 2 * MICROBATCHES
    assert moved["quantize parameters"] == pytest.approx(passes * (3 + SCALE_BYTES) * PARAMETERS / 16)
    assert moved["convert gathered parameters"] == pytest.approx(passes * (3 + SCALE_BYTES) * PARAMETERS)


def test_4_bit_gradients_are_a_quarter_and_go_in_two_hops(small: Make) -> None:
    """qgZ: 0.5 bytes within the node, and an eighth of that between nodes (arXiv 2306.10209 section 3.3)."""
    scenario = small(QGZ | BATCH)
    found, each = sent(scenario), 0.5 + SCALE_BYTES
    assert found["dp_reduce", "all_to_all", "dp_cp.hop"] == pytest.approx(MICROBATCHES * each * PARAMETERS)
    assert found["dp_reduce", "all_to_all", "dp_cp.across"] == pytest.approx(MICROBATCHES * each * PARAMETERS / 8)
    assert not any(op == "reduce_scatter" for _, op, _ in found)
    moved = kernels(scenario)
    assert moved["quantize gradients"] == pytest.approx(MICROBATCHES * (2 + each) * PARAMETERS)
    assert moved["sum quantized gradients"] == pytest.approx(MICROBATCHES * each * PARAMETERS * (1 + 1 / 8))
    assert moved["restore gradients"] == pytest.approx(MICROBATCHES * PARAMETERS * (each / 8 + 2 / 16))


def test_zero_plus_plus_sends_a_quarter_between_nodes(small: Make) -> None:
    """From 3 M to 0.75 M in 16-bit values of M parameters (arXiv 2306.10209 table 1): forward gather 0.5, backward
    gather none, gradients 0.25 - of which qgZ sends an eighth again after the sum within a node of 8."""
    one_pass = {"training.global_batch": 16, "layout.reshard": 8, "training.gather_precision": "int8"}
    found = sent(small(QGZ | one_pass))
    between = {key: value for key, value in found.items() if key[2] in ("dp_cp", "dp_cp.across")}
    assert sum(between.values()) == pytest.approx(2 * PARAMETERS * (0.5 + 0.25 / 8), rel=0.001)
    plain = sent(small(ZERO_3 | {"training.global_batch": 16}))
    assert sum(plain.values()) == pytest.approx(3 * 2 * PARAMETERS)


@pytest.mark.parametrize(("wire", "nbytes"), [("fp32", 4), ("fp16", 2)])
def test_gradients_travel_in_their_own_format(small: Make, wire: str, nbytes: int) -> None:
    scenario = small(BASE | BATCH | {"layout.zero": 1, "training.reduce_precision": wire})
    assert sent(scenario)["dp_reduce", "reduce_scatter", "dp_cp"] == pytest.approx(nbytes * PARAMETERS)
    moved = kernels(scenario)
    casts = nbytes != 2
    assert moved["cast for reduction"] == pytest.approx(casts * (2 + nbytes) * PARAMETERS)
    assert moved["cast of reduced gradients"] == pytest.approx(casts * (2 + nbytes) * PARAMETERS / 16)
    assert held(scenario).gradients_bytes == held(small(BASE | BATCH | {"layout.zero": 1})).gradients_bytes


def test_parameters_gathered_in_fp32_are_twice_the_bytes_and_cast(small: Make) -> None:
    plain, scenario = small(ZERO_3 | BATCH), small(ZERO_3 | BATCH | {"training.gather_precision": "fp32"})
    key = ("dp_gather", "all_gather", "dp_cp")
    assert sent(scenario)[key] == pytest.approx(2 * sent(plain)[key])
    assert kernels(scenario)["convert gathered parameters"] == pytest.approx(2 * MICROBATCHES * 6 * PARAMETERS)


@pytest.mark.parametrize(("precision", "clips"), [("bf16", False), ("fp16", True)])
def test_without_clipping_there_is_no_norm_but_in_fp16_a_check_for_overflows(
    small: Make, precision: str, clips: bool
) -> None:
    changes = BASE | {"layout.zero": 0, "training.precision": precision}
    with_norm, without = small(changes), small(changes | {"training.clip_grad": False})
    norms = [row.op for row in rows_of(without) if row.kind == "grad_norm"]
    assert bool(norms) == clips
    saved = kernels(with_norm)["optimizer"] - kernels(without)["optimizer"]
    assert saved == pytest.approx(0 if clips else 2 * 2 * PARAMETERS)


def test_summing_shards_runs_beside_the_scattering_of_the_next_layer(small: Make) -> None:
    """torch has a stream for each: a chain is ordered, two chains are not."""
    played = lower(scenario := small(HSDP), scenario.topology.build(), "folded")
    kinds = [getattr(played.payloads[number], "kind", "compute") for number in played.payload.tolist()]
    before = dict.fromkeys(range(len(kinds)), frozenset[str]())
    for source, target in zip(played.source.tolist(), played.target.tolist(), strict=True):
        before[target] |= {kinds[source]}
    sums = [slot for slot, kind in enumerate(kinds) if kind == "dp_replica"]
    assert len(sums) == 6 * 2
    assert all("dp_reduce" in before[slot] for slot in sums)
    assert not any("dp_replica" in before[slot] for slot, kind in enumerate(kinds) if kind == "dp_reduce")


@pytest.mark.parametrize("overlaps", [True, False])
@pytest.mark.parametrize("experts", [{}, EXPERTS])
@pytest.mark.parametrize(
    "changes",
    [
        {"layout.zero": 1, "layout.shard": 4},
        {"layout.zero": 2, "layout.shard": 8, "training.reduce_precision": "fp32"},
        {"layout.zero": 3, "layout.shard": 8, "training.grad_sync": "two_hop", "stack.use": "torchtitan"},
        {"layout.zero": 3, "layout.reshard": 8, "training.gather_precision": "int8"},
        {"layout.zero": 3, "layout.reshard": False, "training.grad_sync": "last"},
        {"layout.zero": 3, "training.reduce_precision": "int4", "layout.reduce_hop": 8},
        {"layout.zero": 3, "layout.dp": 8, "layout.pp": 2, "layout.reshard": "step", "layout.shard": 4},
    ],
)
def test_every_rank_played_is_one_of_each_class_played(
    small: Make, changes: dict[str, object], experts: dict[str, object], overlaps: bool
) -> None:
    scenario = small(BASE | BATCH | experts | changes | {"training.overlap.grad_reduce": overlaps})
    full, folded, fused = (simulate(scenario, fidelity) for fidelity in ("full", "folded", "fused"))
    for other in (folded, fused):
        assert other.step_time_s == pytest.approx(full.step_time_s, rel=1e-9)
        for cause, seconds in full.breakdown_s.items():
            assert other.breakdown_s[cause] == pytest.approx(seconds, rel=1e-9, abs=1e-9 * full.step_time_s), cause
    assert folded.simulated_ranks < full.simulated_ranks


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"layout.zero": 0, "layout.shard": 8}, "zero = 0 shards nothing"),
    ({"layout.shard": 5}, r"5 does not divide dp \* cp = 16 \* 1 = 16"),
    (EXPERTS | {"layout.shard": 2}, "experts have edp = 4 replicas, which 16 / 2 = 8 groups do not divide"),
    ({"layout.reshard": 16}, "allowed a divisor of the shard group's 16 ranks from 2 to 8"),
    ({"layout.reshard": 8, "layout.shard": 8}, "allowed a divisor of the shard group's 8 ranks from 2 to 4"),
    ({"layout.reshard": 1}, "got 1, allowed true, false, step"),
    ({"layout.zero": 2, "layout.reshard": False}, "zero = 2 keeps parameters whole"),
    ({"layout.dp": 8, "layout.pp": 2, "layout.reshard": False}, "up to 2 passes in flight"),
    ({"layout.zero": 1, "training.grad_sync": "last"}, r"got last with zero = 1 \(allowed all_reduce\)"),
    ({"layout.zero": 2, "training.grad_sync": "last"}, r"allowed every, two_hop\)"),
    ({"layout.zero": 0, "training.grad_sync": "every"}, "gradients are all_reduced once"),
    ({"training.grad_sync": "two_hop"}, "allowed with layout.shard"),
    ({"training.reduce_precision": "int4"}, "reduce_hop: is missing"),
    ({"layout.reduce_hop": 8}, "allowed with training.reduce_precision int4"),
    (QGZ | {"layout.shard": 8}, "allowed with zero 3 and without shard"),
    ({"layout.zero": 1, "training.gather_precision": "int8"}, "allowed with zero 3"),
    ({"training.gather_precision": "fp32", "training.optimizer.master": "none"}, "without a master copy"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_what_belongs_to_another_choice_is_refused(small: Make, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SimError, match=message):
        small(ZERO_3 | BATCH | changes)


def test_groups_are_neighbours_and_replicas_are_of_equal_position() -> None:
    layout = Layout(tp=2, dp=8, zero=3, shard=4, reshard=2, schedule="1f1b")
    assert groups(layout, "dp_cp.shard").tolist() == [[0, 2, 4, 6], [8, 10, 12, 14], [1, 3, 5, 7], [9, 11, 13, 15]]
    assert groups(layout, "dp_cp.replica")[:2].tolist() == [[0, 8], [2, 10]]
    assert groups(layout, "dp_cp.reshard")[:2].tolist() == [[0, 2], [4, 6]]
    hops = Layout(dp=8, zero=3, reduce_hop=4, schedule="1f1b")
    assert groups(hops, "dp_cp.hop").tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert groups(hops, "dp_cp.across").tolist() == [[0, 4], [1, 5], [2, 6], [3, 7]]
