"""Two passes side by side: the order of their operations, and what of their exchanges is hidden."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.errors import SimError
from sim.program.check_table import check_table
from sim.program.held import Held, StageHeld, UnitHeld, phases_of
from sim.program.lower import lower, schedule_table
from sim.program.memory import memory
from sim.program.operations import Block, BlockBuilder, Collective, Compute, Send
from sim.program.pairing import paired, side_by_side
from sim.program.table import SCHEDULES, Kind, Pair, actions_of, from_text, grid
from sim.simulation import simulate
from sim.spec.scenario import Scenario

Make = Callable[..., Scenario]

EXPERTS = {"num_experts": 8, "top_k": 2, "ffn_hidden": 4096}
MIXTURE: dict[str, object] = {
    "model.experts": EXPERTS,
    "model.num_layers": 8,
    "topology": {"use": "dgx-h100", "nodes": 2},
    "layout.ep": 4,
    "training.seq_len": 4096,
}


def block(*names: str) -> Block:
    """Compute by name, `x` an exchange over ep that what follows waits for, and a send at the end."""
    builder = BlockBuilder()
    for name in names:
        if name == "x":
            builder.wait(builder.communicate(Collective("ep", "all_to_all", "ep", 1.0)))
        else:
            builder.compute(name, ())
    builder.communicate(Send("pp_forward", 1.0))
    return builder.build()


def order(pair: Block) -> list[str]:
    return [getattr(operation.payload, "label", "") for operation in pair.operations]


def test_a_layer_of_experts_is_in_the_order_of_the_paper() -> None:
    """MLP(B) MLP(F) ATTN(B) ATTN(F), beside DISPATCH(F), DISPATCH(B), COMBINE(F) (arXiv 2412.19437 figure 4)."""
    forward = block("ATTN(F)", "x", "MLP(F)", "x", "next(F)")
    backward = block("next(B)", "x", "MLP(B)", "x", "ATTN(B)")
    pair = side_by_side(forward, backward)
    computes = [operation.payload.label for operation in pair.operations if isinstance(operation.payload, Compute)]
    assert computes == ["next(B)", "ATTN(F)", "MLP(B)", "MLP(F)", "ATTN(B)", "next(F)"]
    labels = order(pair)
    exchanges = [labels[at - 1] for at, label in enumerate(labels) if label == "ep all_to_all"]
    assert exchanges == ["next(B)", "ATTN(F)", "MLP(B)", "MLP(F)"]


def test_each_side_waits_for_its_own_exchanges_only() -> None:
    pair = side_by_side(block("F0", "x", "F1"), block("B0", "x", "B1"))
    labels = order(pair)
    awaited = {labels[index]: [labels[other - 1] for other in each.after] for index, each in enumerate(pair.operations)}
    assert awaited["B1"] == ["B0"]
    assert awaited["F1"] == ["F0"]


def test_both_sides_send_after_the_last_kernel_of_the_pair() -> None:
    pair = side_by_side(block("F0", "x", "F1"), block("B0", "x", "B1"))
    last = order(pair).index("F1")
    assert [pair.operations[send].payload.label for send in pair.sends if send is not None] == ["pp_forward send"] * 2
    assert all(last in pair.operations[send].after for send in pair.sends if send is not None)


def test_the_next_pass_waits_for_what_both_sides_send_where_sends_are_waited_for() -> None:
    forward, backward = block("F0", "x", "F1"), block("B0", "x", "B1")
    sides = [replace(side, tail=(side.sends[0],)) for side in (forward, backward) if side.sends[0] is not None]
    pair = side_by_side(*sides)
    assert pair.tail == pair.sends


@pytest.mark.parametrize(
    ("forward", "backward", "expected"),
    [
        (("F0",), ("B0",), ["B0", "F0"]),
        (("F0",), ("B0", "x", "B1", "x", "B2"), ["B0", "B1", "F0", "B2"]),
        (("F0", "x", "F1"), ("B0", "x", "B1", "x", "B2", "x", "B3"), ["B0", "F0", "B1", "B2", "F1", "B3"]),
    ],
)
def test_a_side_with_fewer_exchanges_spreads_evenly(
    forward: tuple[str, ...], backward: tuple[str, ...], expected: list[str]
) -> None:
    pair = side_by_side(block(*forward), block(*backward))
    computes = [operation.payload.label for operation in pair.operations if isinstance(operation.payload, Compute)]
    assert computes == expected


def test_each_backward_pass_is_paired_with_the_forward_pass_that_follows() -> None:
    table = SCHEDULES["1f1b"].table(1, 1, 3)
    assert grid(paired(table)) == "0F0 0F1&0B0 0F2&0B1 0B2"


def test_interleaved_1f1b_in_pairs_warms_up_one_pass_longer_and_never_deadlocks() -> None:
    for p in (2, 3, 4, 8, 16):
        for v in (2, 3, 8):
            for m in (p, 2 * p, 4 * p):
                plain = SCHEDULES["interleaved_1f1b"].table(p, v, m)
                table = paired(plain)
                check_table(table, p, v, m)
                for before, row in zip(plain, table, strict=True):
                    warm = next(at for at, action in enumerate(actions_of(before)) if action.kind is Kind.B)
                    first = next((at for at, cell in enumerate(row) if isinstance(cell, Pair)), None)
                    assert first is None or first == warm


def test_1f1b_in_pairs_over_several_ranks_deadlocks_nowhere_but_has_every_second_slot_empty() -> None:
    """Why Megatron-Core asks for several chunks: rank 1 has nothing to do until rank 0 is done with its pair."""
    table = paired(SCHEDULES["1f1b"].table(2, 1, 3))
    check_table(table, 2, 1, 3)
    assert table == from_text("0F0 0F1 0F2&0B0 0B1 0B2\n1F0 1F1&1B0 1F2&1B1 1B2")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layout.ep": 1}, "ep = 1"),
        ({"layout.pp": 2, "layout.dp": 8}, "pp = 2 and vpp = 1"),
        ({"layout.schedule": "gpipe"}, "got gpipe, allowed interleaved_1f1b, or 1f1b with pp = 1"),
        ({"training.recompute": "full"}, "exchanges run again"),
        ({"training.recompute": "selective", "training.recompute_modules": ["moe"]}, "exchanges run again"),
        ({"layout.zero": 3}, "zero = 3, but 1f1b runs passes in pairs"),
    ],
)
def test_overlap_of_experts_is_refused_where_megatron_refuses_it(
    small: Make, changes: dict[str, object], message: str
) -> None:
    """transformer_config.py asserts on overlap_moe_expert_parallel_comm; ZeRO-3 is our own limit."""
    assert schedule_table(small(MIXTURE | {"training.overlap.expert": True}))
    with pytest.raises(SimError, match=message):
        small(MIXTURE | {"training.overlap.expert": True} | changes)


@pytest.mark.parametrize(("pp", "vpp", "schedule"), [(1, 1, "1f1b"), (4, 2, "interleaved_1f1b")])
def test_overlap_hides_the_exchanges_of_experts_and_changes_no_work(
    small: Make, pp: int, vpp: int, schedule: str
) -> None:
    """Every pass but those of the warm-up and the end is in a pair."""
    changes = MIXTURE | {
        "layout.pp": pp,
        "layout.vpp": vpp,
        "layout.schedule": schedule,
        "training.global_batch": 16 // pp * 8 * pp,
        "training.overlap.compute_slowdown": False,
    }
    plain, hidden = simulate(small(changes)), simulate(small(changes | {"training.overlap.expert": True}))
    assert hidden.step_time_s < plain.step_time_s
    assert hidden.breakdown_s["exposed_ep"] < 0.5 * plain.breakdown_s["exposed_ep"]
    for cause in ("gemm", "attention"):
        assert hidden.breakdown_s[cause] == pytest.approx(plain.breakdown_s[cause], rel=1e-9)
    assert hidden.operations >= plain.operations


@pytest.mark.parametrize(("schedule", "vpp"), [("dualpipe", 1), ("dualpipe_v", 2)])
def test_dense_layers_in_pairs_take_what_both_passes_take(small: Make, schedule: str, vpp: int) -> None:
    changes = {"layout.pp": 2, "layout.dp": 8, "layout.vpp": vpp, "layout.schedule": schedule}
    result = simulate(small(changes | {"training.global_batch": 64}))
    assert result.breakdown_s.get("exposed_ep", 0.0) == 0.0
    plain = simulate(small({"layout.pp": 2, "layout.dp": 8, "training.global_batch": 64}))
    assert result.breakdown_s["gemm"] == pytest.approx(plain.breakdown_s["gemm"], rel=1e-9)


def test_dualpipe_holds_each_stage_on_two_ranks_and_shards_its_optimizer_over_both(small: Make) -> None:
    """1F1B's rank r and rank p - 1 - r together hold the parameters of either of DualPipe's; Adam's 12 bytes of each
    are divided by 2 dp instead of dp, so that every rank has as much of them as before on average."""
    changes = {"layout.pp": 4, "layout.dp": 4, "layout.zero": 1, "training.global_batch": 64}
    plain, both = (memory(small(changes | {"layout.schedule": name})) for name in ("1f1b", "dualpipe"))
    for rank in range(4):
        pair = (plain[rank], plain[3 - rank])
        assert both[rank].parameters_bytes == pytest.approx(sum(each.parameters_bytes for each in pair))
        assert both[rank].optimizer_bytes == pytest.approx(sum(each.optimizer_bytes for each in pair) / 2)


def test_while_a_pair_runs_both_of_its_passes_hold_what_they_need() -> None:
    """F fills its two units as B empties its own two: 1 + 8, then 3 + 4 beside what others hold."""
    first = StageHeld((UnitHeld(Held(1.0)), UnitHeld(Held(2.0))))
    second = StageHeld((UnitHeld(Held(4.0)), UnitHeld(Held(4.0))))
    (cell,) = from_text("0F1&1B0")[0]
    assert [(begin, held.total_bytes) for begin, held in phases_of(cell, (first, second))] == [(0.0, 9.0), (0.5, 7.0)]


def test_weight_gradients_of_a_pair_run_behind_the_exchange_that_does_not_need_them(small: Make) -> None:
    """MLP(B), DISPATCH(B), MLP(W): in a pair, the kernel after an exchange of the backward pass starts with wgrads."""
    scenario = small(MIXTURE | {"training.overlap.expert": True, "training.global_batch": 32})
    program = lower(scenario, scenario.topology.build(), "folded")
    rank = program.ranks[0]
    number = next(at for at, cell in enumerate(rank.actions) if isinstance(cell, Pair))
    own = [slot for slot in range(rank.first, rank.end) if program.block[slot] == number]
    payloads = [program.payloads[program.payload[slot]] for slot in own]
    computes = [payload for payload in payloads if isinstance(payload, Compute)]
    late = [each for each in computes if each.kernels[0].name == "experts down wgrad"]
    assert len(late) == 8
    for each in late:
        before = payloads[payloads.index(each) - 1]
        assert isinstance(before, Collective)
        assert before.kind == "ep"
        assert "dgrad" not in " ".join(kernel.name for kernel in each.kernels)


@given(forward=st.integers(0, 6), backward=st.integers(0, 6))
def test_a_pair_has_all_operations_of_both_sides_in_their_order(forward: int, backward: int) -> None:
    sides = [
        block(*itertools.chain(*((f"{name}{number}", "x") for number in range(count))), f"{name}{count}")
        for name, count in (("F", forward), ("B", backward))
    ]
    pair = side_by_side(*sides)
    assert len(pair.operations) == sum(len(side.operations) for side in sides)
    for at, operation in enumerate(pair.operations):
        assert all(other < at for other in operation.after)
    for name, count in (("F", forward), ("B", backward)):
        assert [label for label in order(pair) if label.startswith(name)] == [f"{name}{n}" for n in range(count + 1)]


def test_dualpipe_reduces_gradients_over_both_copies_of_a_stage(small: Make) -> None:
    """2 x dp ranks, of which half are in the other half of the pipeline."""
    scenario = small({"layout.pp": 2, "layout.dp": 8, "layout.schedule": "dualpipe", "layout.zero": 1})
    program = lower(scenario, scenario.topology.build(), "full")
    flows = program.flows
    reducing = [flow for flow, kind in enumerate(flows.type) if flows.types[kind].stream == "dp_reduce"]
    assert len(reducing) == 1
    members = flows.member_rank[flows.member_flow == reducing[0]]
    assert sorted(members.tolist()) == list(range(16))
    assert {program.ranks[rank].pp_rank for rank in members.tolist()} == {0, 1}
