"""Tensor-parallel communication in chunks: what is sent and computed stays, what is exposed shrinks."""

from collections import Counter
from collections.abc import Callable

import pytest

from sim.cost.gemm import Gemm, gemm_flop
from sim.cost.network_time import lone_call
from sim.program.lower import lower
from sim.program.operations import Collective, Compute
from sim.program.program import Program
from sim.simulation import simulate
from sim.spec.layout import groups
from sim.spec.scenario import Scenario

Make = Callable[..., Scenario]

TP, LAYERS, TOKENS, HIDDEN = 4, 2, 8192, 16384
LARGE: dict[str, object] = {
    "topology": {"use": "dgx-h100", "nodes": 1, "gpus_per_node": TP},
    "layout.tp": TP,
    "layout.dp": 1,
    "layout.sequence_parallel": True,
    "training.seq_len": TOKENS,
    "training.global_batch": 1,
    "training.overlap.compute_slowdown": False,
    "model.max_seq_len": TOKENS,
    "model.num_layers": LAYERS,
    "model.hidden": HIDDEN,
    "model.num_heads": 128,
    "model.num_kv_heads": 8,
    "model.ffn_hidden": 3 * HIDDEN,
}
"""Products that take longer than what is sent beside them; one micro-batch."""

MESSAGE = 2.0 * TOKENS * HIDDEN


def chunks(count: int | None, **changes: object) -> dict[str, object]:
    return LARGE | {"training.overlap.tensor_chunks": count} | changes


def payloads(scenario: Scenario) -> list[Collective | Compute]:
    """Of the first rank, in order."""
    played: Program = lower(scenario, scenario.topology.build(), "folded")
    (rank,) = played.ranks
    found = [played.payloads[number] for number in played.payload[rank.first : rank.end].tolist()]
    return [each for each in found if isinstance(each, Collective | Compute)]


def calls(scenario: Scenario) -> Counter[tuple[str, float]]:
    """Tensor-parallel calls of 16-bit activations, by op and bytes."""
    found = [each for each in payloads(scenario) if isinstance(each, Collective)]
    return Counter((each.op, each.nbytes) for each in found if each.kind == "tp" and each.nbytes > TOKENS * 4)


def call_s(scenario: Scenario, op: str, nbytes: float) -> float:
    fabric = scenario.topology.build()
    members = groups(scenario.layout, "tp")
    return float(lone_call(op, nbytes, members, fabric, scenario.network).time_s.max())


def test_gathers_go_around_in_a_chunk_for_each_rank_and_scatters_in_as_many_as_asked(small: Make) -> None:
    """Of a layer the two gathers before products, forward, and the two of gradients of what was scattered, backward, go
    around: TP - 1 shifts each. The two scatters forward have chunks. Whole stay the bulk calls of the backward pass,
    the embedding's and the head's."""
    whole, cut = calls(small(chunks(None))), calls(small(chunks(8)))
    in_bulk = 2 * LAYERS
    assert whole == {
        ("all_gather", MESSAGE): 6 * LAYERS + 3,
        ("reduce_scatter", MESSAGE): 4 * LAYERS + 2,
    }
    assert cut == {
        ("ring_shift", MESSAGE / TP): 4 * LAYERS * (TP - 1),
        ("reduce_scatter", MESSAGE / 8): 2 * LAYERS * 8,
        ("all_gather", MESSAGE): in_bulk + 3,
        ("reduce_scatter", MESSAGE): in_bulk + 2,
    }


def test_chunks_compute_the_same_products(small: Make) -> None:
    def flop(count: int | None) -> float:
        computes = [each for each in payloads(small(chunks(count))) if isinstance(each, Compute)]
        return sum(gemm_flop(kernel) for each in computes for kernel in each.kernels if isinstance(kernel, Gemm))

    assert flop(4) == pytest.approx(flop(None), rel=1e-12)


def test_smaller_products_take_longer(small: Make) -> None:
    gemm_s = [simulate(small(chunks(count))).breakdown_s["gemm"] for count in (None, 4, 64)]
    assert gemm_s == sorted(gemm_s)
    assert gemm_s[0] < gemm_s[-1]


@pytest.mark.parametrize("count", [1, 2, 8])
def test_gathers_are_hidden_and_of_a_scatter_the_last_chunk_shows(small: Make, count: int) -> None:
    """What is exposed less than without: all four gathers of a layer, and all but a chunk of its two scatters."""
    whole = small(chunks(None))
    saved_s = simulate(whole).breakdown_s["exposed_tp"] - simulate(small(chunks(count))).breakdown_s["exposed_tp"]
    gather_s = call_s(whole, "all_gather", MESSAGE)
    scatter_s = call_s(whole, "reduce_scatter", MESSAGE) - call_s(whole, "reduce_scatter", MESSAGE / count)
    assert saved_s == pytest.approx(LAYERS * (4 * gather_s + 2 * scatter_s), rel=1e-9)


def test_what_is_sent_longer_than_its_product_takes_shows(small: Make) -> None:
    """A 16th of the width: products take a 256th of the time, what is sent a 16th."""
    narrow: dict[str, object] = {"model.hidden": 1024, "model.num_heads": 8, "model.ffn_hidden": 3072}
    scenario = small(chunks(4) | narrow)
    shift_s = call_s(scenario, "ring_shift", 2.0 * TOKENS / TP * 1024)
    assert simulate(scenario).breakdown_s["exposed_tp"] > LAYERS * 4 * shift_s


def test_recomputed_layers_communicate_again(small: Make) -> None:
    """Whole or in chunks, forward communication of every layer runs once more."""
    full = {"training.recompute": "full"}
    assert calls(small(LARGE | full)) - calls(small(LARGE)) == {
        ("all_gather", MESSAGE): 2 * LAYERS,
        ("reduce_scatter", MESSAGE): 2 * LAYERS,
    }
    assert calls(small(chunks(4) | full)) - calls(small(chunks(4))) == {
        ("ring_shift", MESSAGE / TP): 2 * LAYERS * (TP - 1),
        ("reduce_scatter", MESSAGE / 4): 2 * LAYERS * 4,
    }


def test_casts_of_gradients_are_cut_with_their_products(small: Make) -> None:
    def cast_s(count: int | None) -> float:
        return simulate(small(chunks(count) | {"training.precision": "fp8"})).breakdown_s["cast"]

    launches = 2 * LAYERS * (TP - 1)
    launch_s = small(LARGE).gpu.memory_bound.launch_s
    assert cast_s(4) - cast_s(None) == pytest.approx(launches * launch_s, rel=1e-6)


def test_tensor_parallelism_across_nodes_is_slower_than_within_one(small: Make) -> None:
    """16 ranks of two nodes, by their NICs."""
    model = LARGE | {
        "topology": {"use": "dgx-h100", "nodes": 2},
        "layout.dp": None,
        "model.num_kv_heads": 16,
        "training.global_batch": 2,
    }
    inside, across = (simulate(small(model | {"layout.tp": tp})) for tp in (8, 16))
    assert across.breakdown_s["exposed_tp"] > 2 * inside.breakdown_s["exposed_tp"]
    assert across.link_use["nic"].bytes > 0
    assert simulate(small(model | {"layout.tp": 16}), "full").step_time_s == pytest.approx(across.step_time_s, rel=1e-9)
