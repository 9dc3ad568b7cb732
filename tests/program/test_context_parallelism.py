"""What each way of context parallelism computes, sends and holds."""

from collections import Counter
from collections.abc import Callable

import pytest

from sim.cost.attention import attention_flop
from sim.cost.kernels import Attention
from sim.errors import SimError
from sim.program.lower import lower
from sim.program.memory import memory, ranks_memory
from sim.program.operations import Collective, Compute
from sim.program.program import Program
from sim.simulation import simulate
from sim.spec.scenario import Scenario

Make = Callable[..., Scenario]

METHODS: dict[str, dict[str, object]] = {
    "all_gather": {},
    "ring": {"layout.cp_method": "ring"},
    "ulysses": {"layout.cp_method": "ulysses"},
    "ulysses_ring": {"layout.cp_method": "ulysses_ring", "layout.cp_inner": 2},
    "ulysses_all_gather": {"layout.cp_method": "ulysses_all_gather", "layout.cp_inner": 2},
}

SEQ_LEN, LAYERS, HEADS, KV_HEADS, HEAD_DIM = 8192, 4, 8, 4, 128
ONE = {"topology.nodes": 1, "training.seq_len": SEQ_LEN, "model.max_seq_len": SEQ_LEN}
"""A node, on which every rank has all layers and one micro-batch."""


def sequence_over(cp: int, **changes: object) -> dict[str, object]:
    return ONE | {"layout.cp": cp, "training.global_batch": 8 // cp} | changes


def block_bytes(cp: int) -> float:
    """Keys and values of a rank's tokens, in 16 bits."""
    return 2.0 * SEQ_LEN / cp * KV_HEADS * 2 * HEAD_DIM


def program(scenario: Scenario) -> Program:
    return lower(scenario, scenario.topology.build(), "folded")


def calls(scenario: Scenario) -> dict[tuple[str, str], tuple[int, float]]:
    """Calls of the first rank's context parallelism for each layer, by op and group, and their bytes in sum."""
    played = program(scenario)
    first = played.ranks[0]
    found: Counter[tuple[str, str]] = Counter()
    nbytes: Counter[tuple[str, str]] = Counter()
    for number in played.payload[first.first : first.end].tolist():
        payload = played.payloads[number]
        if isinstance(payload, Collective) and payload.kind == "cp":
            found[payload.op, payload.group] += 1
            nbytes[payload.op, payload.group] += payload.nbytes
    return {key: (count // LAYERS, nbytes[key] / LAYERS) for key, count in found.items()}


def attention_flops(scenario: Scenario) -> dict[int, float]:
    """FLOP of the attention of each played rank."""
    played = program(scenario)
    total: dict[int, float] = {}
    for rank in played.ranks:
        payloads = [played.payloads[number] for number in played.payload[rank.first : rank.end].tolist()]
        kernels = [kernel for each in payloads if isinstance(each, Compute) for kernel in each.kernels]
        total[rank.rank] = sum(attention_flop(kernel) for kernel in kernels if isinstance(kernel, Attention))
    return total


@pytest.mark.parametrize("cp", [2, 4, 8])
def test_a_ring_passes_on_what_an_all_gather_gathers(small: Make, cp: int) -> None:
    """Forward cp - 1 blocks; backward as many of keys and values and as many of their gradients. An all_gather of
    cp blocks puts (cp - 1) / cp of its message on the wire, forward, again backward, and scatters the gradients."""
    num_calls, nbytes = calls(small(sequence_over(cp) | METHODS["ring"]))["ring_shift", "cp"]
    assert num_calls == (cp - 1) + cp
    assert nbytes == 3 * (cp - 1) * block_bytes(cp)
    gathered = calls(small(sequence_over(cp)))
    assert gathered == {
        ("all_gather", "cp"): (2, 2 * cp * block_bytes(cp)),
        ("reduce_scatter", "cp"): (1, cp * block_bytes(cp)),
    }
    assert sum(sent for _, sent in gathered.values()) * (cp - 1) / cp == nbytes


def test_grouped_query_attention_sends_fewer_keys_and_values(small: Make) -> None:
    _, grouped = calls(small(sequence_over(4) | METHODS["ring"]))["ring_shift", "cp"]
    _, all_heads = calls(small(sequence_over(4) | METHODS["ring"] | {"model.num_kv_heads": HEADS}))["ring_shift", "cp"]
    assert grouped == all_heads * KV_HEADS / HEADS


@pytest.mark.parametrize(("cp", "kv_heads"), [(2, KV_HEADS), (4, KV_HEADS), (8, 8)])
def test_ulysses_exchanges_queries_keys_values_and_outputs(small: Make, cp: int, kv_heads: int) -> None:
    """Four all_to_all a direction. With more ranks than key and value heads, each rank gets one of its own."""
    width = (2 * HEADS + 2 * kv_heads) * HEAD_DIM
    assert calls(small(sequence_over(cp) | METHODS["ulysses"])) == {
        ("all_to_all", "cp"): (8, 2 * 2.0 * SEQ_LEN / cp * width)
    }


def test_two_levels_exchange_heads_inside_and_blocks_across(small: Make) -> None:
    """Inside, all_to_all as of Ulysses. Across two groups of two, one shift forward and two backward: blocks of the
    tokens of two ranks and half of the heads, as large as one of a ring of all four."""
    inside = {("all_to_all", "cp_inner"): (8, 2 * 2.0 * SEQ_LEN / 4 * (2 * HEADS + 2 * KV_HEADS) * HEAD_DIM)}
    assert calls(small(sequence_over(4) | METHODS["ulysses_ring"])) == inside | {
        ("ring_shift", "cp_outer"): (3, 3 * block_bytes(4))
    }
    assert calls(small(sequence_over(4) | METHODS["ulysses_all_gather"])) == inside | {
        ("all_gather", "cp_outer"): (2, 2 * 2 * block_bytes(4)),
        ("reduce_scatter", "cp_outer"): (1, 2 * block_bytes(4)),
    }


@pytest.mark.parametrize("method", METHODS)
def test_every_method_computes_the_causal_half_of_the_scores(small: Make, method: str) -> None:
    """Forward and backward, 7 / 2 x 4 x head dim for each score."""
    found = attention_flops(small(sequence_over(4) | METHODS[method]))
    scores = HEADS * SEQ_LEN * SEQ_LEN / 2 / 4
    assert list(found.values()) == [pytest.approx(LAYERS * 4 * HEAD_DIM * scores * 3.5, rel=1e-12)]


@pytest.mark.parametrize("method", ["all_gather", "ring"])
@pytest.mark.parametrize("cp", [2, 4, 8])
def test_without_balance_the_last_rank_computes_2_cp_minus_1_times_as_much_as_the_first(
    small: Make, method: str, cp: int
) -> None:
    found = attention_flops(small(sequence_over(cp) | METHODS[method] | {"layout.cp_balance": "none"}))
    by_rank = [found[rank] for rank in range(cp)]
    assert by_rank[-1] / by_rank[0] == pytest.approx(2 * cp - 1, rel=1e-12)
    balanced = attention_flops(small(sequence_over(cp) | METHODS[method]))[0]
    assert sum(by_rank) / cp == pytest.approx(balanced, rel=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_balance_never_makes_a_step_longer(small: Make, method: str) -> None:
    """Nothing to balance where every rank attends to whole sequences."""
    balanced, other = (
        simulate(small(sequence_over(4) | METHODS[method] | {"layout.cp_balance": balance})).step_time_s
        for balance in ("zigzag", "none")
    )
    assert other == balanced if method == "ulysses" else other > balanced


def test_a_ring_hides_what_takes_less_time_than_its_attention(small: Make) -> None:
    """Attention grows with the square of the sequence, blocks with the sequence: in short ones they show."""
    ring = METHODS["ring"] | {"training.overlap.compute_slowdown": False}
    longer = sequence_over(4) | ring | {"training.seq_len": 4 * SEQ_LEN, "model.max_seq_len": 4 * SEQ_LEN}
    assert simulate(small(longer)).breakdown_s.get("exposed_cp", 0.0) == 0.0
    shorter = sequence_over(4) | ring | {"training.seq_len": 1024}
    assert simulate(small(shorter)).breakdown_s["exposed_cp"] > 0
    gathered = simulate(small(longer | METHODS["all_gather"] | {"layout.cp_method": "all_gather"}))
    assert gathered.breakdown_s["exposed_cp"] > 0


@pytest.mark.parametrize("method", ["ring", "ulysses", "ulysses_ring", "ulysses_all_gather"])
def test_recomputed_attention_communicates_again(small: Make, method: str) -> None:
    """As a checkpoint around the framework's attention does, whose forward pass it is."""
    once = calls(small(sequence_over(4) | METHODS[method]))
    again = calls(small(sequence_over(4) | METHODS[method] | {"training.recompute": "selective"}))
    forward = {"ring_shift": (3, 3) if method == "ring" else (1, 1), "all_to_all": (4, 4), "all_gather": (1, 1)}
    for (op, group), (num_calls, _) in once.items():
        assert again[op, group][0] == num_calls + forward.get(op, (0, 0))[0]


def test_a_ring_holds_four_blocks_instead_of_all_keys_and_values(small: Make) -> None:
    """Keys, values and gradients of both that leave and arrive, where an all_gather holds cp blocks."""

    def buffers_bytes(method: str, cp: int) -> float:
        (rank,) = ranks_memory(small(sequence_over(cp) | METHODS[method]))
        return rank.buffers_bytes

    assert buffers_bytes("ring", 4) == 4 * block_bytes(4)
    assert buffers_bytes("all_gather", 8) == 8 * block_bytes(8)
    assert buffers_bytes("ring", 8) == buffers_bytes("all_gather", 8) / 2


def test_replicated_key_and_value_heads_are_held_by_each_rank(small: Make) -> None:
    """8 ranks, 4 heads: twice the keys and values of every layer."""

    def activations_bytes(method: str) -> float:
        (stage,) = memory(small(sequence_over(8) | METHODS[method]))
        return stage.activations_bytes

    kept = LAYERS * block_bytes(8)
    peak = activations_bytes("ulysses") - activations_bytes("all_gather")
    assert kept <= peak <= kept * (1 + 1 / LAYERS)  # gradients of one layer's keys and values come on top


def test_unfused_attention_has_no_ring(small: Make) -> None:
    scenario = small(sequence_over(4) | METHODS["ring"] | {"stack.use": "megatron-2021"})
    with pytest.raises(SimError, match=r"layout\.cp_method: a ring adds up outputs of fused attention"):
        program(scenario)
