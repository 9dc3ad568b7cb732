from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.program.activations import gradient_bytes
from sim.program.held import Held, StageHeld, UnitHeld, for_weights, fullest, walk
from sim.program.memory import (
    ALL_TO_ALL_BYTES,
    COMMUNICATOR_BYTES,
    CONTEXT_BYTES,
    FRAGMENTATION_FRAC,
    StageMemory,
    memory,
    verdict,
)
from sim.program.model_state import ModelState, sharded
from sim.program.shapes import shapes
from sim.program.stage import units_of_stage
from sim.program.table import SCHEDULES, Kind, from_text, in_flight
from sim.spec.gpu import Gpu
from sim.spec.layout import Layout
from sim.spec.model import Experts, Model
from sim.spec.network import Network
from sim.spec.scenario import Scenario
from sim.spec.stack import Bucket, FusedKernels, Stack
from sim.spec.topology import FabricSpec
from sim.spec.training import Training

GIB = 2**30


def gpu() -> Gpu:
    """An 80 GiB card; the rates do not matter here."""
    return Gpu.model_construct(name="card", memory_bytes=80.0 * GIB, attention={"fa2": None})


def stack(**changes: object) -> Stack:
    """A framework with every kernel fused; `changes` are fields of it or of its kernels."""
    kernels = dict.fromkeys(FusedKernels.model_fields, "fused")
    values = {"name": "fused", "sources": {}, "attention": ("fa2",), "vocab_multiple": 128, "shard_copies": False}
    values["bucket"] = Bucket(parameters=40_000_000, parameters_by_rank=1_000_000)
    own = {key: changes[key] for key in changes if key in Stack.model_fields}
    return Stack.model_construct(**values | own, kernels=FusedKernels(**kernels | without(changes, own)))


def without(values: dict[str, object], keys: Iterable[str]) -> dict[str, object]:
    return {key: value for key, value in values.items() if key not in keys}


def changed(model: Model, **fields: object) -> Model:
    return model.model_copy(update=fields)


TINY = Model(
    name="tiny",
    num_layers=2,
    hidden=8,
    num_heads=2,
    num_kv_heads=2,
    head_dim=4,
    ffn_hidden=16,
    gated_mlp=False,
    vocab=128,
    tied_embeddings=False,
    max_seq_len=4,
)
TINY_MOE = changed(TINY, experts=Experts(num_experts=4, top_k=1, ffn_hidden=16))
TINY_PARAMETERS = 2 * 128 * 8 + 2 * (4 * 8 * 8 + 2 * 8 * 16 + 2 * 8) + 8
TINY_WEIGHT_GRADIENTS = 2 * (24 * 8 + 8 * 8 + 16 * 8 + 8 * 16 + 128 * 8)

LLAMA2_70B = Model(
    name="llama2-70b",
    num_layers=80,
    hidden=8192,
    num_heads=64,
    num_kv_heads=8,
    head_dim=128,
    ffn_hidden=28672,
    gated_mlp=True,
    vocab=32000,
    tied_embeddings=False,
    max_seq_len=4096,
)


def scenario(
    model: Model,
    layout: dict[str, object],
    training: dict[str, object],
    num_microbatches: int = 1,
    stack_changes: dict[str, object] | None = None,
) -> Scenario:
    filled = {"schedule": "1f1b", "dp": 1} | layout
    batch = {"micro_batch": 1, "precision": "bf16", "recompute": "none", "seq_len": 4} | training
    batch["global_batch"] = filled["dp"] * batch["micro_batch"] * num_microbatches
    return Scenario.model_construct(
        name="test",
        model=model,
        gpu=gpu(),
        topology=FabricSpec(name="none", sources={}),
        layout=Layout.model_validate(filled),
        training=Training.model_validate(batch),
        stack=stack(**(stack_changes or {})),
        network=Network(),
        seed=0,
    )


def tiny(
    num_microbatches: int = 1,
    *,
    training: dict[str, object] | None = None,
    stack: dict[str, object] | None = None,
    **layout: object,
) -> tuple[StageMemory, ...]:
    return memory(scenario(TINY, layout, training or {}, num_microbatches, stack))


@pytest.mark.parametrize(("zero", "gb"), [(0, 120), (1, 31.4), (2, 16.6), (3, 1.88)])
def test_state_of_7_5_billion_parameters_on_64_gpus_is_the_zero_papers(zero: int, gb: float) -> None:
    """Figure 1 of arXiv 1910.02054."""
    assert sharded(ModelState(2, 2, 12), 7.5e9, 64, zero).total_bytes / 1e9 == pytest.approx(gb, abs=0.05)


def test_fp32_gradients_take_18_bytes_and_6_plus_12_over_dp_as_in_megatron() -> None:
    assert sharded(ModelState(2, 4, 12), 1, 8, 0).total_bytes == 18
    assert sharded(ModelState(2, 4, 12), 1, 8, 1).total_bytes == 6 + 12 / 8


@pytest.mark.parametrize(("zero", "gb"), [(0, 69.0), (1, 23.7), (2, 16.2), (3, 8.6)])
def test_llama2_70b_state_on_tp8_pp2_dp8(zero: int, gb: float) -> None:
    """68.98 billion parameters / 16, with 16, 5.5, 3.75 and 2 bytes each; ours pads the vocabulary and keeps the norms
    on every tp rank. Beside the gradient buffer lie 16-bit gradients of a layer's four weights and of the head."""
    layout = {"tp": 8, "pp": 2, "dp": 8, "zero": zero, "sequence_parallel": True}
    first, last = memory(scenario(LLAMA2_70B, layout, {"grad_precision": "bf16", "seq_len": 4096}, 2))
    beside_bytes = 0 if zero == 3 else 2 * 8192 * (10240 + 8192 + 57344 + 28672) / 8
    head_bytes = 0 if zero == 3 else 2 * 8192 * 32768 / 8
    assert (state_bytes(first) - beside_bytes) / 1e9 == pytest.approx(gb, rel=3e-3)
    assert (state_bytes(last) - beside_bytes - head_bytes) / 1e9 == pytest.approx(gb, rel=3e-3)


def state_bytes(stage: StageMemory) -> float:
    return stage.parameters_bytes + stage.gradients_bytes + stage.optimizer_bytes


LAYER = 4 * (64 + 48 + 16 + 8 + 64)
"""Of 4 tokens: norm inputs and outputs 4 x 16, q, k, v 48, output 16, statistics 8, activation 32 + 32."""
ID, HEAD, LOGITS = 4 * 8, 4 * 32, 4 * 128
GRADIENTS = 4 * 2 * (8 + 32)
"""Of 4 tokens in 16 bits: the residual's 8, and attention's output 8 and q, k, v 24."""


def test_tiny_model_by_hand() -> None:
    """The fullest moment is the head's, with 128 logits of 2 bytes for each token."""
    (stage,) = tiny()
    assert stage.parameters_bytes == 2 * TINY_PARAMETERS
    assert stage.gradients_bytes == 4 * TINY_PARAMETERS + TINY_WEIGHT_GRADIENTS
    assert stage.optimizer_bytes == 12 * TINY_PARAMETERS
    assert stage.activations_bytes == 2 * LAYER + ID + HEAD
    assert stage.logits_bytes == 2 * LOGITS
    assert stage.communication_bytes == 0
    assert stage.overhead_bytes == CONTEXT_BYTES
    assert stage.peak_bytes == sum(stage.parts_bytes.values())
    assert stage.free_bytes == 80 * GIB - stage.peak_bytes


def test_three_sums_answer_to_three_ways_to_measure() -> None:
    (stage,) = tiny()
    tensors = without(stage.parts_bytes, ("fragmentation", "overhead"))
    assert stage.allocated_bytes == pytest.approx(sum(tensors.values()), rel=1e-6)
    assert stage.reserved_bytes == pytest.approx(stage.allocated_bytes * (1 + FRAGMENTATION_FRAC), rel=1e-6)
    assert stage.peak_bytes == stage.reserved_bytes + CONTEXT_BYTES


@pytest.mark.parametrize(("loss", "nbytes"), [("fused", 2), ("vocab_parallel", 4 + 2), ("eager", 4 + 8)])
def test_logits_take_what_the_loss_needs(loss: str, nbytes: int) -> None:
    assert tiny(stack={"cross_entropy": loss})[0].logits_bytes == nbytes * LOGITS


@pytest.mark.parametrize(
    ("optimizer", "nbytes"),
    [
        ({}, 12),
        ({"moments": "bf16"}, 8),
        ({"moments": "fp8"}, 6),
        ({"master": "none"}, 8),
        ({"master": "none", "moments": "bf16"}, 4),
        ({"offload": True}, 0),
    ],
)
def test_optimizer_state_by_format_and_place(optimizer: dict[str, object], nbytes: int) -> None:
    """DeepSeek-V3 keeps moments in bf16 (arXiv 2412.19437 section 3.3.3); offloaded state is not on the GPU."""
    assert tiny(training={"optimizer": optimizer})[0].optimizer_bytes == nbytes * TINY_PARAMETERS


def test_weights_in_fp8_are_there_as_they_are_and_transposed() -> None:
    """1,024 parameters of layers' products: 16 bits and two copies, or two copies. Embedding, head and norms stay."""
    products, fp8 = 2 * (4 * 8 * 8 + 2 * 8 * 16), {"precision": "fp8"}
    (cast,) = tiny(training=fp8)
    (kept,) = tiny(training=fp8 | {"low_precision_weights": True})
    assert cast.parameters_bytes == 2 * TINY_PARAMETERS + 2 * products
    assert kept.parameters_bytes == 2 * TINY_PARAMETERS
    assert kept.optimizer_bytes == cast.optimizer_bytes == 12 * TINY_PARAMETERS


def test_zero_3_casts_what_it_gathers_and_shards_what_is_cast_already() -> None:
    """The last layer's 512 weights of products twice, or once where they arrive cast, all 1,024 of them sharded."""
    fp8 = {"precision": "fp8"}
    (plain,), (cast,) = tiny(dp=2, zero=3), tiny(dp=2, zero=3, training=fp8)
    (kept,) = tiny(dp=2, zero=3, training=fp8 | {"low_precision_weights": True})
    assert cast.communication_bytes - plain.communication_bytes == 2 * 512
    assert kept.communication_bytes == (528 + 528) + 512 + 4 * (528 + 1032)
    assert cast.parameters_bytes == plain.parameters_bytes == TINY_PARAMETERS
    assert kept.parameters_bytes == TINY_PARAMETERS - 2 * 512 / 2


def test_scales_of_blocks_are_kept_with_the_weights() -> None:
    products = 2 * (4 * 8 * 8 + 2 * 8 * 16)
    (blocks,) = tiny(training={"precision": "fp8", "recipe": "blockwise"})
    assert blocks.parameters_bytes == 2 * TINY_PARAMETERS + 2 * (1 + 4 / 128) * products


def test_gradients_that_a_kernel_adds_are_whole_one_at_a_time() -> None:
    """The largest is the head's, 128 x 8."""
    (stage,) = tiny(stack={"gradient_accumulation": "separate"})
    assert stage.gradients_bytes == 4 * TINY_PARAMETERS + 2 * 128 * 8


def test_fsdp2s_shards_are_the_master_copy() -> None:
    """16 bytes a parameter over two ranks, instead of 18."""
    (copied,), (flat,) = tiny(dp=2, zero=3, stack={"shard_copies": True}), tiny(dp=2, zero=3)
    assert state_bytes(copied) == 16 * TINY_PARAMETERS / 2
    assert state_bytes(flat) == 18 * TINY_PARAMETERS / 2


def test_eager_adam_needs_four_bytes_of_each_parameter_where_little_else_is_held() -> None:
    """Two micro-batches less activations than 4 bytes of each parameter."""
    (fused,), (eager,) = tiny(), tiny(stack={"optimizer": "eager"})
    assert eager.optimizer_bytes - fused.optimizer_bytes == 4 * TINY_PARAMETERS
    assert (eager.activations_bytes, eager.logits_bytes) == (0, 0)


def test_tied_embeddings_have_a_copy_on_the_last_stage() -> None:
    tied = changed(TINY, tied_embeddings=True)
    (alone,) = memory(scenario(tied, {}, {}))
    first, last = memory(scenario(tied, {"pp": 2}, {}))
    assert alone.parameters_bytes == 2 * (TINY_PARAMETERS - 128 * 8)
    assert first.parameters_bytes + last.parameters_bytes == 2 * TINY_PARAMETERS


def test_1f1b_keeps_p_minus_rank_micro_batches() -> None:
    """On the first rank the fullest moment is the backward pass of its layer, on the last one the head's."""
    first, last = tiny(num_microbatches=4, pp=2)
    assert first.activations_bytes == 2 * (LAYER + ID) + GRADIENTS
    assert last.activations_bytes == LAYER + HEAD
    assert (first.logits_bytes, last.logits_bytes) == (0, 2 * LOGITS)
    assert first.communication_bytes == 2 * 4 * 16


def test_gpipe_keeps_every_micro_batch_and_its_softmax() -> None:
    first, last = tiny(num_microbatches=4, pp=2, schedule="gpipe", stack={"cross_entropy": "vocab_parallel"})
    assert first.activations_bytes == 4 * (LAYER + ID) + GRADIENTS
    assert last.activations_bytes == 4 * (LAYER + HEAD)
    assert last.logits_bytes == 4 * 4 * LOGITS + 2 * LOGITS


def test_selective_recomputation_saves_the_softmax_statistics() -> None:
    (stage,) = tiny(training={"recompute": "selective"})
    assert stage.activations_bytes == 2 * (LAYER - 4 * 8) + ID + HEAD


LONG = {"seq_len": 4, "recompute": "full"}


def test_full_recomputation_keeps_layer_inputs_and_restores_one_layer() -> None:
    """With a small vocabulary the fullest moment is the backward pass of the second layer."""
    (stage,) = memory(scenario(changed(TINY, vocab=1), {}, LONG, stack_changes={"vocab_multiple": 1}))
    assert stage.activations_bytes == 2 * 4 * 16 + ID + (LAYER - 4 * 16) + GRADIENTS


def test_full_recomputation_of_some_layers_keeps_the_others_whole() -> None:
    (stage,) = tiny(training=LONG | {"recompute_layers": 1})
    assert stage.activations_bytes == 4 * 16 + LAYER + ID + HEAD


def test_zero_3_gathers_the_layer_and_those_ahead() -> None:
    """In the backward pass of the last layer (528 parameters): it and the layer before it are whole, and its gradients
    and those of the head (1032), which are being reduced."""
    (default,) = tiny(dp=2, zero=3)
    (without_prefetch,) = tiny(dp=2, zero=3, training={"prefetch_layers": 0})
    assert default.parameters_bytes == TINY_PARAMETERS
    assert default.communication_bytes == 2 * (528 + 528) + 4 * (528 + 1032)
    assert without_prefetch.communication_bytes == 2 * 528 + 4 * (528 + 1032)


def test_fsdp2_has_what_it_copies_twice() -> None:
    """The fullest moment is the head's: its parameters, copied out of what was gathered, and the layer's; its
    gradients, in 16 bits and copied into what is reduced."""
    (stage,) = tiny(dp=2, zero=3, stack={"shard_copies": True})
    assert stage.communication_bytes == 2 * (528 + 2 * 1032) + (2 + 4) * 1032


def test_zero_2_holds_whole_gradients_of_two_buckets() -> None:
    (one_bucket,) = tiny(dp=2, zero=2)
    (small_buckets,) = tiny(dp=2, zero=2, training={"bucket_bytes": 4.0})
    assert one_bucket.gradients_bytes == 2 * TINY_PARAMETERS + TINY_WEIGHT_GRADIENTS
    assert one_bucket.communication_bytes == 4 * TINY_PARAMETERS
    assert small_buckets.communication_bytes == 4 * (528 + 1032)


def test_zero_1_works_in_the_gradient_and_parameter_buffers() -> None:
    assert tiny(dp=2, zero=1)[0].communication_bytes == 0


def test_tensor_parallelism_holds_the_largest_gathered_buffer() -> None:
    """4 tokens of 8 elements, 2 bytes each."""
    (stage,) = tiny(tp=2, sequence_parallel=True)
    assert stage.communication_bytes == 4 * 8 * 2


def test_experts_are_sharded_over_ep_and_their_state_over_edp() -> None:
    """4 experts of 2 x 8 x 16 in each of 2 layers, ep = 2, dp = 4: a rank holds half of them, with edp = 2 owners."""
    dense = 2 * 128 * 8 + 2 * (4 * 8 * 8 + 2 * 8 + 4 * 8) + 8
    experts = 2 * 4 * 2 * 8 * 16
    (stage,) = memory(scenario(TINY_MOE, {"dp": 4, "ep": 2, "zero": 1}, {}))
    assert stage.parameters_bytes == 2 * (dense + experts / 2)
    assert stage.optimizer_bytes == 12 * (dense / 4 + experts / 2 / 2)


@pytest.mark.parametrize(
    ("layout", "nbytes"),
    [
        ({"dp": 4, "ep": 2}, 2 * (816 + 816) + 4 * (816 + 1032)),
        ({"dp": 2, "ep": 2}, 2 * (304 + 1032) + 4 * 1032),
        ({"tp": 2, "dp": 1, "sequence_parallel": True}, 2 * 1024 + 4 * (1024 + 1024)),
    ],
)
def test_zero_3_gathers_only_what_has_replicas(layout: dict[str, object], nbytes: int) -> None:
    """A layer has 304 dense parameters and 1024 of experts, the head 1032. With ep = dp an expert has one owner; with
    dp = 1 and tp = 2, experts have two (edp = tp x dp / ep), dense parameters one. An exchange holds 4 tokens. The
    fullest moment is the last layer's backward pass, the head's, and the first layer's."""
    (stage,) = memory(scenario(TINY_MOE, layout | {"zero": 3}, {}))
    assert stage.communication_bytes == nbytes + 4 * 8 * 2


def test_zero_2s_buckets_serve_the_largest_chunk_of_an_interleaved_rank() -> None:
    """Rank 0: embedding and a layer, 1024 + 528, or a layer; rank 1: a layer, or a layer and the head, 528 + 1032. A
    pipeline buffer of 4 x 16 bytes for each direction."""
    first, last = memory(scenario(changed(TINY, num_layers=4), INTERLEAVED | {"zero": 2}, {}, 2))
    assert first.communication_bytes == 4 * (1024 + 528) + 2 * 64
    assert last.communication_bytes == 4 * (528 + 1032) + 2 * 64


INTERLEAVED = {"pp": 2, "vpp": 2, "schedule": "interleaved_1f1b", "dp": 2}


def test_zero_3_holds_what_the_chunk_that_runs_gathers() -> None:
    """Rank 0: the embedding's parameters, its gradients and those of the layer before, which are reduced; rank 1:
    those of the head and of the layer before it, and the head's gradients."""
    first, last = memory(scenario(changed(TINY, num_layers=4), INTERLEAVED | {"zero": 3}, {}, 2))
    assert first.communication_bytes == 2 * 1024 + 4 * (1024 + 528) + 2 * 64
    assert last.communication_bytes == 2 * (528 + 1032) + 4 * 1032 + 2 * 64


def test_recomputing_works_on_the_largest_layer_of_the_stage() -> None:
    """One of experts restores for each token: norm 16, q, k, v 48, output 16, statistics 8, mlp norm's input and output
    32, router 13 x 4, weight and row 8, dispatched token 16, activation 64."""
    moe = changed(TINY, experts=Experts(num_experts=4, top_k=1, ffn_hidden=16, first_dense_layers=1))
    (stage,) = memory(scenario(moe, {}, {"recompute": "full"}))
    restored = 4 * (16 + 48 + 16 + 8 + 32 + 52 + 8 + 16 + 64)
    assert stage.activations_bytes == 2 * 4 * 16 + ID + restored + GRADIENTS


def test_overhead_grows_with_communicators_and_all_to_all() -> None:
    (experts,) = memory(scenario(TINY_MOE, {"dp": 2, "ep": 2}, {}))
    assert tiny(dp=2)[0].overhead_bytes == CONTEXT_BYTES
    assert tiny(dp=2, pp=2)[0].overhead_bytes == CONTEXT_BYTES + COMMUNICATOR_BYTES
    assert experts.overhead_bytes == CONTEXT_BYTES + COMMUNICATOR_BYTES + ALL_TO_ALL_BYTES


def of_one_unit(kept: float, backward: float = 0, *, logits: float = 0, for_weights: float = 0) -> StageHeld:
    return StageHeld((UnitHeld(Held(kept, logits), backward=Held(backward), for_weights=Held(for_weights)),))


def test_walk_takes_the_fullest_moment() -> None:
    """Stage 0 keeps 3, stage 1 keeps 5 with 7 of logits and needs 4 more while its backward pass runs."""
    stages = (of_one_unit(3), of_one_unit(5, 4, logits=7))
    (row,) = from_text("0F0 1F0 0F1 1B0 1F1 0B0")
    assert fullest(row, stages) == Held(3 + 5 + 3 + 4, 7)


def test_a_backward_pass_drops_what_its_units_kept_one_by_one() -> None:
    """Units keep 1, 2 and 3; the first needs 6 more backward: 1 + 6 after the others are gone."""
    stage = StageHeld((UnitHeld(Held(1), backward=Held(6)), UnitHeld(Held(2)), UnitHeld(Held(3))))
    assert [held.total_bytes for held in stage.phases[Kind.F]] == [1, 3, 6]
    assert [held.total_bytes for held in stage.phases[Kind.B]] == [6, 3, 7]
    (row,) = from_text("0F0 0B0")
    assert fullest(row, (stage,)) == Held(7)


def test_what_weight_gradients_need_stays_until_they_are_done_and_the_rest_goes_before() -> None:
    """A unit keeps 3, of which 2 wait for W, and needs 4 more while I runs."""
    table = from_text("0F0 0I0 0F1 0W0 0I1 0F2 0W1 0I2 0W2")
    assert fullest(table[0], (of_one_unit(3, for_weights=2),)) == Held(2 + 3)
    assert fullest(table[0], (of_one_unit(3, 4, for_weights=2),)) == Held(3 + 4)
    assert fullest(table[0], (of_one_unit(3, for_weights=9),)) == Held(9 + 3)
    steps = list(walk(table[0], (of_one_unit(3, for_weights=2),)))
    assert [step.after.total_bytes for step in steps] == [3, 2, 5, 3, 2, 5, 3, 2, 0]
    assert in_flight(table) == (2,)


def test_units_of_a_split_backward_pass_leave_what_their_weight_gradients_need() -> None:
    """Units keep 1, 2 and 3, of which 1, 1 and 2 wait for W; the first needs 6 more while I runs."""
    first = UnitHeld(Held(1), backward=Held(6), for_weights=Held(1))
    stage = StageHeld((first, UnitHeld(Held(2), for_weights=Held(1)), UnitHeld(Held(3), for_weights=Held(2))))
    assert [held.total_bytes for held in stage.phases[Kind.I]] == [1 + 2 + 3, 1 + 2 + 2, 1 + 6 + 1 + 2]
    assert [held.total_bytes for held in stage.phases[Kind.W]] == [4, 2, 1]


@pytest.mark.parametrize("layout", [{}, {"tp": 2}, {"tp": 2, "sequence_parallel": True}])
def test_weight_gradients_of_a_layer_wait_with_32_s_b_h_bytes(layout: dict[str, object]) -> None:
    """Of 34 s b h that the forward pass keeps (M_W of arXiv 2401.10241 table 1): 14 of inputs, 18 of output gradients.

    Tensor parallelism keeps the inputs of the first product of a block whole, 4 s b h, and so the gradients of the
    output of the second, 4 s b h; sequence parallelism gathers those inputs again.
    """
    made = scenario(changed(TINY, ffn_hidden=4 * TINY.hidden), layout, {}, 1)
    s, tp = shapes(made), made.layout.tp
    unit = next(unit for unit in units_of_stage(made, 0, s) if unit.is_layer)
    sbh = s.tokens * TINY.hidden
    whole = 4 + 4 if tp > 1 else 0
    gathered_again = 4 - 4 / tp if s.is_sequence_parallel else 0
    held = for_weights(unit, s)
    assert held == Held((whole + (32 - whole) / tp - gathered_again) * sbh)


def test_zb_h1_holds_no_more_than_the_first_rank_of_1f1b_and_zb_h2_almost_twice_as_much() -> None:
    """Layers of 34 s b h, of which 32 wait for W; ranks without embedding and head."""

    def activations(schedule: str) -> list[float]:
        stages = memory(scenario(WIDE, {"pp": 4, "schedule": schedule}, {}, 12))
        return [stage.activations_bytes for stage in stages[1:3]]

    plain = memory(scenario(WIDE, {"pp": 4}, {}, 12))[0].activations_bytes
    assert max(activations("zb_h1")) <= plain
    for one, two in zip(activations("zb_h1"), activations("zb_h2"), strict=True):
        assert 1.5 * one < two < 2 * one


def test_a_tied_head_is_no_copy_where_chunks_in_a_v_bring_it_back_to_the_embedding() -> None:
    tied = changed(WIDE, tied_embeddings=True)
    loop = memory(scenario(tied, {"pp": 2, "vpp": 2, "schedule": "interleaved_1f1b"}, {}, 4))
    vee = memory(scenario(tied, {"pp": 2, "vpp": 2, "schedule": "zb_v"}, {}, 4))
    matrix = 2 * WIDE.vocab * WIDE.hidden
    norm = 2 * WIDE.hidden
    assert loop[1].parameters_bytes - vee[1].parameters_bytes == pytest.approx(matrix + norm)
    assert vee[0].parameters_bytes - loop[0].parameters_bytes == pytest.approx(norm)


@pytest.mark.parametrize(("free_gib", "text"), [(12.3, "fits, 12.3 GiB free"), (-14.5, "does not fit by 14.5 GiB")])
def test_verdict_is_that_of_the_fullest_rank(free_gib: float, text: str) -> None:
    roomy = StageMemory(0, *[0.0] * 8, capacity_bytes=80 * GIB)
    full = StageMemory(1, (80 - free_gib) * GIB, *[0.0] * 7, capacity_bytes=80 * GIB)
    assert verdict([roomy, full]) == text
    assert full.fits == (free_gib > 0)


def gpt(name: str, num_layers: int, hidden: int, heads: int) -> Model:
    return changed(
        TINY,
        name=name,
        num_layers=num_layers,
        hidden=hidden,
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=hidden // heads,
        ffn_hidden=4 * hidden,
        vocab=51200,
        tied_embeddings=True,
    )


@pytest.mark.parametrize(
    ("model", "layout", "micro_batch", "num_microbatches"),
    [
        (gpt("22B", 48, 6144, 64), {"tp": 8}, 4, 1),
        (gpt("175B", 96, 12288, 96), {"tp": 8, "pp": 8, "vpp": 3, "schedule": "interleaved_1f1b"}, 1, 64),
        (gpt("530B", 105, 20480, 128), {"tp": 8, "pp": 35, "vpp": 3, "schedule": "interleaved_1f1b"}, 1, 280),
        (gpt("1T", 128, 25600, 160), {"tp": 8, "pp": 64}, 1, 512),
    ],
)
def test_models_that_ran_on_80_gib_with_selective_recomputation_fit(
    model: Model, layout: dict[str, object], micro_batch: int, num_microbatches: int
) -> None:
    """Tables 3 and 5 of arXiv 2205.05198: no data parallelism, sequence parallelism, dropout, A100 80 GB."""
    training = {"seq_len": 2048, "micro_batch": micro_batch, "recompute": "selective", "dropout": 0.1}
    old = {"attention": ("unfused",), "cross_entropy": "vocab_parallel"}
    stages = memory(scenario(model, layout | {"sequence_parallel": True}, training, num_microbatches, old))
    assert all(stage.fits for stage in stages)
    assert max(stage.peak_bytes for stage in stages) > 40 * GIB


layouts = st.fixed_dictionaries(
    {"tp": st.sampled_from([1, 2, 4]), "pp": st.sampled_from([1, 2, 4]), "dp": st.sampled_from([1, 2, 4])}
)
WIDE = changed(TINY, num_layers=4, hidden=16, num_heads=4, num_kv_heads=4, vocab=1024)


def worst_state_bytes(layout: dict[str, object]) -> float:
    return max(state_bytes(stage) for stage in memory(scenario(WIDE, layout, {}, 4)))


@given(layouts)
@settings(deadline=None)
def test_a_higher_zero_stage_never_holds_more_state(layout: dict[str, int]) -> None:
    by_zero = [worst_state_bytes(layout | {"zero": zero}) for zero in range(4)]
    assert by_zero == sorted(by_zero, reverse=True)
    assert (by_zero[3] < by_zero[0]) == (layout["dp"] > 1)


@given(layouts, st.integers(0, 3), st.sampled_from(["tp", "pp", "dp"]))
@settings(deadline=None)
def test_more_ranks_on_an_axis_never_hold_more_state(layout: dict[str, int], zero: int, axis: str) -> None:
    few = layout | {axis: 2, "zero": zero}
    many = layout | {axis: 4, "zero": zero}
    assert worst_state_bytes(many) <= worst_state_bytes(few)


@given(st.sampled_from([1, 2, 4]), st.integers(0, 12))
@settings(deadline=None)
def test_micro_batches_beyond_p_change_nothing_under_1f1b(pp: int, more: int) -> None:
    assert memory(scenario(WIDE, {"pp": pp}, {}, pp + more)) == memory(scenario(WIDE, {"pp": pp}, {}, pp))


def test_context_parallelism_of_a_longer_sequence_keeps_what_one_rank_kept() -> None:
    (short,) = memory(scenario(WIDE, {}, {"seq_len": 8}))
    (long,) = memory(scenario(WIDE, {"cp": 2}, {"seq_len": 16}))
    assert (long.activations_bytes, long.logits_bytes) == (short.activations_bytes, short.logits_bytes)


def test_interleaving_keeps_one_plus_p_minus_one_over_p_v_of_1f1bs_activations() -> None:
    """On the first rank, beside the gradients of one layer; its ids are those of the first chunk alone, so a model of
    many layers is compared."""
    deep = changed(LLAMA2_70B, num_layers=64)
    plain = scenario(deep, {"pp": 4}, {"seq_len": 4096}, 8)
    interleaved = scenario(deep, {"pp": 4, "vpp": 2, "schedule": "interleaved_1f1b"}, {"seq_len": 4096}, 8)
    working_bytes = gradient_bytes(deep, shapes(plain), 0)
    kept = [memory(each)[0].activations_bytes - working_bytes for each in (plain, interleaved)]
    assert kept[1] / kept[0] == pytest.approx(1 + 3 / 8, rel=1e-5)


@pytest.mark.parametrize("schedule", sorted(set(SCHEDULES) - {"zb_1p", "zb_2p"}))  # these need times of kernels
def test_every_schedule_has_a_memory(schedule: str) -> None:
    chunks = next(v for v in (1, 2) if SCHEDULES[schedule].refusal(2, v, 4) is None)
    stages = memory(scenario(WIDE, {"pp": 2, "vpp": chunks, "schedule": schedule}, {}, 4))
    assert [stage.pp_rank for stage in stages] == [0, 1]
    assert all(stage.activations_bytes > 0 for stage in stages)
