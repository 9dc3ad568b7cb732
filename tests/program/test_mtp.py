"""Multi-token prediction: what its modules compute, hold and send."""

from collections.abc import Callable

import pytest

from sim.cost.kernels import Gemm
from sim.errors import SimError
from sim.program.activations import kept_bytes, layer_kept
from sim.program.lower import lower
from sim.program.memory import memory
from sim.program.operations import Compute
from sim.program.pieces import Exchange, Linear, flat
from sim.program.shapes import shapes
from sim.program.stage import recomputed_units, units_of_stage
from sim.spec.flops import forward_flop_by_term
from sim.spec.layout import num_stages
from sim.spec.parameters import parameters
from sim.spec.scenario import Scenario

Make = Callable[[dict[str, object]], Scenario]
VOCAB, HIDDEN, TOKENS = 32000, 1024, 1024
MTP = {"model.mtp_layers": 1}
EXPERTS = {"num_experts": 8, "top_k": 2, "ffn_hidden": 512, "first_dense_layers": 3}


def held_parameters(scenario: Scenario) -> float:
    """Of all virtual stages, each on one rank of its tensor-parallel group."""
    s = shapes(scenario)
    stages = range(num_stages(scenario.layout))
    return sum(unit.shard.total for stage in stages for unit in units_of_stage(scenario, stage, s))


def gemm_flop(scenario: Scenario) -> float:
    """Forward products of one micro-batch over all stages."""
    s = shapes(scenario)
    stages = range(num_stages(scenario.layout))
    pieces = [piece for stage in stages for unit in units_of_stage(scenario, stage, s) for piece in flat(unit.pieces)]
    return sum(2.0 * piece.m * piece.n * piece.k for piece in pieces if isinstance(piece, Linear))


@pytest.mark.parametrize("depth", [0, 1, 2])
@pytest.mark.parametrize("experts", [None, EXPERTS])
def test_a_gpu_alone_holds_the_models_parameters_and_computes_its_products(
    small: Make, depth: int, experts: object
) -> None:
    one = {"topology": "single-node-h100", "layout.dp": 8, "model.mtp_layers": depth, "model.experts": experts}
    scenario = small(one)
    assert held_parameters(scenario) == parameters(scenario.model).total
    by_term = forward_flop_by_term(scenario.model, TOKENS)
    products = sum(by_term.values()) - by_term["attention_scores"]
    assert gemm_flop(scenario) == pytest.approx(products, rel=1e-12)


def test_the_last_stage_of_a_pipeline_holds_it_and_a_copy_of_the_embedding(small: Make) -> None:
    """Megatron-Core's mtp_on_this_rank and setup_embeddings_and_output_layer."""
    split = small(MTP | {"layout.pp": 2})
    assert held_parameters(split) == parameters(split.model).total + VOCAB * HIDDEN
    s = shapes(split)
    assert not any(unit.is_mtp for unit in units_of_stage(split, 0, s))
    assert sum(unit.is_mtp and unit.is_layer for unit in units_of_stage(split, 1, s)) == 1


def test_a_tied_head_is_that_copy(small: Make) -> None:
    tied = small(MTP | {"layout.pp": 2, "model.tied_embeddings": True})
    assert held_parameters(tied) == parameters(tied.model).total + VOCAB * HIDDEN


def test_a_v_of_chunks_brings_embedding_and_modules_together(small: Make) -> None:
    """As DeepSeek-V3's DualPipe does (arXiv 2412.19437 section 3.2.4): no copy, nothing to sum."""
    folded = {"layout.pp": 2, "layout.vpp": 2, "layout.schedule": "zb_v"}
    scenario = small(MTP | folded)
    assert held_parameters(scenario) == parameters(scenario.model).total


@pytest.mark.parametrize(("pp", "is_summed"), [(1, False), (2, True)])
def test_gradients_of_the_copy_are_summed_with_the_first_stages(small: Make, pp: int, is_summed: bool) -> None:
    scenario = small(MTP | {"layout.pp": pp})
    payloads = lower(scenario, scenario.topology.build(), "folded").payloads
    sums = [payload for payload in payloads if getattr(payload, "kind", "") == "embedding"]
    assert [payload.nbytes for payload in sums] == ([4.0 * VOCAB * HIDDEN] if is_summed else [])


def test_each_module_runs_the_head_and_the_loss_once_more(small: Make) -> None:
    def head_products(depth: int) -> int:
        scenario = small({"model.mtp_layers": depth, "training.global_batch": 16})
        payloads = lower(scenario, scenario.topology.build(), "folded").payloads
        kernels = [kernel for payload in payloads if isinstance(payload, Compute) for kernel in payload.kernels]
        return sum(isinstance(kernel, Gemm) and kernel.cause == "head" for kernel in kernels)

    # Forward, and the gradients of input and weight.
    assert [head_products(depth) for depth in (0, 1, 2)] == [3, 6, 9]


@pytest.mark.parametrize("sequence_parallel", [False, True])
def test_the_projections_output_is_gathered_over_the_tensor_parallel_group(
    small: Make, sequence_parallel: bool
) -> None:
    scenario = small(MTP | {"layout.tp": 2, "layout.sequence_parallel": sequence_parallel})
    s = shapes(scenario)
    module = next(unit for unit in units_of_stage(scenario, 0, s) if unit.is_mtp and unit.is_layer)
    pieces = list(flat(module.pieces))
    place = next(index for index, piece in enumerate(pieces) if getattr(piece, "name", "") == "mtp projection")
    before, after = pieces[place - 1], pieces[place + 1]
    assert isinstance(before, Exchange)
    assert isinstance(after, Exchange)
    assert before.nbytes == 2 * TOKENS * 2 * HIDDEN
    assert (before.forward, before.backward) == (
        ("all_gather", "reduce_scatter") if sequence_parallel else (None, "all_reduce")
    )
    assert (after.nbytes, after.forward, after.backward) == (2 * TOKENS * HIDDEN, "all_gather", "reduce_scatter")


def test_it_keeps_a_layer_three_joined_halves_ids_and_a_second_set_of_logits(small: Make) -> None:
    """Of one micro-batch: the layer's tensors, the embedding (2 h bytes a token), both normed halves (4 h), the ids
    (8 bytes); for the loss the input and output of the norm before the head (4 h) and 16-bit logits."""
    one = {"topology": "single-node-h100", "training.global_batch": 8}
    with_it, without = (small(one | {"model.mtp_layers": depth}) for depth in (1, 0))
    kept = kept_bytes(layer_kept(without.model, shapes(without), 3), frozenset())
    more = [getattr(memory(with_it)[0], name) - getattr(memory(without)[0], name) for name in ("activations_bytes",)]
    assert more[0] == pytest.approx(kept + TOKENS * (10 * HIDDEN + 8), rel=1e-9)
    logits = memory(with_it)[0].logits_bytes / memory(without)[0].logits_bytes
    assert logits == pytest.approx(2)


@pytest.mark.parametrize(("layers", "expected"), [(None, 5), (2, 2), (5, 4)])
def test_full_recomputation_counts_it_only_where_all_layers_run_again(
    small: Make, layers: int | None, expected: int
) -> None:
    """Megatron-Core's multi_token_prediction.py skips it with recompute_method block."""
    changes = {"topology": "single-node-h100", "training.recompute": "full", "training.recompute_layers": layers}
    scenario = small(MTP | changes)
    order = list(reversed(units_of_stage(scenario, 0, shapes(scenario))))
    assert len(recomputed_units(order, scenario.training)) == expected


def test_full_recomputation_keeps_what_it_starts_from(small: Make) -> None:
    """The embedding before its norm; hidden states are kept for the head's norm."""
    one = {"topology": "single-node-h100", "training.global_batch": 8, "training.recompute": "full"}
    kept = {}
    for depth in (0, 1, 2):
        kept[depth] = memory(small(one | {"model.mtp_layers": depth}))[0].activations_bytes
    assert kept[2] - kept[1] == pytest.approx(TOKENS * (6 * HIDDEN + 8), rel=1e-9)


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"layout.zero": 3}, "layout.zero"),
        ({"layout.tp": 3, "model.num_heads": 9, "model.num_kv_heads": 9}, "layout.tp"),
    ],
)
def test_what_it_cannot_be_split_over_is_refused(small: Make, changes: dict[str, object], path: str) -> None:
    fits = {"topology.nodes": 3, "model.ffn_hidden": 4098, "training.global_batch": 48}
    with pytest.raises(SimError, match=path):
        small(MTP | fits | changes)
