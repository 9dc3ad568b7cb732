from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.program.memory import (
    ALL_TO_ALL_BYTES,
    COMMUNICATOR_BYTES,
    CONTEXT_BYTES,
    StageActivations,
    StageMemory,
    memory,
    model_state_bytes,
    peak_of_walk,
    verdict,
)
from sim.program.table import SCHEDULES, from_text, in_flight
from sim.spec.gpu import Gpu
from sim.spec.layout import Layout
from sim.spec.model import Experts, LatentAttention, Model
from sim.spec.network import Network
from sim.spec.scenario import Scenario
from sim.spec.topology import FabricSpec
from sim.spec.training import Training

GIB = 2**30


def gpu() -> Gpu:
    """An 80 GiB card; the rates do not matter here."""
    return Gpu.model_construct(name="card", memory_bytes=80.0 * GIB)


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
    model: Model, layout: dict[str, object], training: dict[str, object], num_microbatches: int = 1
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
        network=Network(),
        seed=0,
    )


def tiny(
    num_microbatches: int = 1, recompute: str = "none", training: dict[str, object] | None = None, **layout: object
):
    return memory(scenario(TINY, layout, {"recompute": recompute} | (training or {}), num_microbatches))


@pytest.mark.parametrize(("zero", "gb"), [(0, 120), (1, 31.4), (2, 16.6), (3, 1.88)])
def test_state_of_7_5_billion_parameters_on_64_gpus_is_the_zero_papers(zero: int, gb: float) -> None:
    """Figure 1 of arXiv 1910.02054."""
    assert model_state_bytes(7.5e9, 64, zero, 2).total_bytes / 1e9 == pytest.approx(gb, abs=0.05)


def test_fp32_gradients_take_18_bytes_and_6_plus_12_over_dp_as_in_megatron() -> None:
    assert model_state_bytes(1, 8, 0, 4).total_bytes == 18
    assert model_state_bytes(1, 8, 1, 4).total_bytes == 6 + 12 / 8


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


def test_tiny_model_by_hand() -> None:
    """For each of 2 layers and 4 tokens, bytes: norm inputs and outputs 4 x 16, q, k, v 48, output 16, statistics 8,
    activation 32 + 32. For each token: id 8, head 2 x 16, 128 logits of 4 + 2."""
    (stage,) = tiny()
    assert stage.parameters_bytes == 2 * TINY_PARAMETERS
    assert stage.gradients_bytes == 4 * TINY_PARAMETERS + TINY_WEIGHT_GRADIENTS
    assert stage.optimizer_bytes == 12 * TINY_PARAMETERS
    assert stage.activations_bytes == 4 * (2 * (64 + 48 + 16 + 8 + 64) + 8 + 32)
    assert stage.logits_bytes == 4 * 128 * 6
    assert stage.communication_bytes == 0
    assert stage.overhead_bytes == CONTEXT_BYTES
    assert stage.peak_bytes == sum(stage.parts_bytes.values())
    assert stage.free_bytes == 80 * GIB - stage.peak_bytes


def test_tied_embeddings_have_a_copy_on_the_last_stage() -> None:
    tied = changed(TINY, tied_embeddings=True)
    (alone,) = memory(scenario(tied, {}, {}))
    first, last = memory(scenario(tied, {"pp": 2}, {}))
    assert alone.parameters_bytes == 2 * (TINY_PARAMETERS - 128 * 8)
    assert first.parameters_bytes + last.parameters_bytes == 2 * TINY_PARAMETERS


def test_1f1b_keeps_p_minus_rank_micro_batches() -> None:
    first, last = tiny(num_microbatches=4, pp=2)
    assert first.activations_bytes == 2 * 4 * (200 + 8)
    assert last.activations_bytes == 4 * (200 + 32)
    assert (first.logits_bytes, last.logits_bytes) == (0, 4 * 128 * 6)
    assert first.communication_bytes == 2 * 4 * 16


def test_gpipe_keeps_every_micro_batch_and_its_softmax() -> None:
    first, last = tiny(num_microbatches=4, pp=2, schedule="gpipe")
    assert first.activations_bytes == 4 * 4 * (200 + 8)
    assert last.activations_bytes == 4 * 4 * (200 + 32)
    assert last.logits_bytes == 4 * (4 * 128 * 4) + 4 * 128 * 2


def test_selective_recomputation_saves_the_softmax_statistics_and_restores_one_layers() -> None:
    (stage,) = tiny(recompute="selective")
    assert stage.activations_bytes == 4 * (2 * (200 - 8) + 8 + 32 + 8)


def test_full_recomputation_keeps_layer_inputs_and_restores_one_layer() -> None:
    (stage,) = tiny(recompute="full")
    assert stage.activations_bytes == 4 * (2 * 16 + 8 + 32 + (200 - 16))


def test_zero_3_gathers_the_layer_and_those_ahead() -> None:
    """Largest neighbours: a layer (528) and the head with its norm (1032 parameters)."""
    (default,) = tiny(dp=2, zero=3)
    (without,) = tiny(dp=2, zero=3, training={"prefetch_layers": 0})
    assert default.parameters_bytes == TINY_PARAMETERS
    assert default.communication_bytes == (2 + 4) * (528 + 1032)
    assert without.communication_bytes == 2 * 1032 + 4 * (528 + 1032)


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
    ("layout", "gathered_parameters"),
    [
        ({"dp": 4, "ep": 2}, 304 + 512 + 1032),
        ({"dp": 2, "ep": 2}, 304 + 1032),
        ({"tp": 2, "dp": 1, "sequence_parallel": True}, 1024 + 1024),
    ],
)
def test_zero_3_gathers_only_what_has_replicas(layout: dict[str, object], gathered_parameters: int) -> None:
    """A layer has 304 dense parameters and 1024 of experts, the head 1032. With ep = dp an expert has one owner; with
    dp = 1 and tp = 2, experts have two (edp = tp x dp / ep), dense parameters one. An exchange holds 4 tokens."""
    (stage,) = memory(scenario(TINY_MOE, layout | {"zero": 3}, {}))
    assert stage.communication_bytes == (2 + 4) * gathered_parameters + 4 * 8 * 2


@pytest.mark.parametrize(("zero", "nbytes"), [(2, 4), (3, 2 + 4)])
def test_buffers_of_an_interleaved_rank_serve_its_largest_chunk(zero: int, nbytes: int) -> None:
    """Rank 0: embedding and a layer, 1024 + 528, or a layer; rank 1: a layer, or a layer and the head, 528 + 1032. A
    pipeline buffer of 4 x 16 bytes for each direction."""
    model = changed(TINY, num_layers=4)
    layout = {"pp": 2, "vpp": 2, "schedule": "interleaved_1f1b", "dp": 2, "zero": zero}
    first, last = memory(scenario(model, layout, {}, 2))
    assert first.communication_bytes == nbytes * (1024 + 528) + 2 * 64
    assert last.communication_bytes == nbytes * (528 + 1032) + 2 * 64


def test_recomputing_works_on_the_largest_layer_of_the_stage() -> None:
    """A dense layer restores 184 bytes for each token; one of experts: norm 16, q, k, v 48, output 16, statistics 8,
    mlp norm's input and output 32, scores 16, dispatched token 16, activation 64."""
    moe = changed(TINY, experts=Experts(num_experts=4, top_k=1, ffn_hidden=16, first_dense_layers=1))
    (stage,) = memory(scenario(moe, {}, {"recompute": "full"}))
    assert stage.activations_bytes == 4 * (2 * 16 + 8 + 32 + 16 + 48 + 16 + 8 + 32 + 16 + 16 + 64)


def test_overhead_grows_with_communicators_and_all_to_all() -> None:
    (experts,) = memory(scenario(TINY_MOE, {"dp": 2, "ep": 2}, {}))
    assert tiny(dp=2)[0].overhead_bytes == CONTEXT_BYTES
    assert tiny(dp=2, pp=2)[0].overhead_bytes == CONTEXT_BYTES + COMMUNICATOR_BYTES
    assert experts.overhead_bytes == CONTEXT_BYTES + COMMUNICATOR_BYTES + ALL_TO_ALL_BYTES


def test_walk_takes_the_fullest_moment() -> None:
    """Stage 0 keeps 3, stage 1 keeps 5 and needs 4 more while its backward pass runs."""
    stages = (StageActivations(3, 0), StageActivations(5, 4, 7, 1))
    (row,) = from_text("0F0 1F0 0F1 1B0 1F1 0B0")
    assert peak_of_walk(row, stages) == (3 + 5 + 3 + 4, 7 + 1)


def test_split_backward_pass_frees_activations_after_the_weight_gradient() -> None:
    table = from_text("0F0 0I0 0F1 0W0 0I1 0F2 0W1 0I2 0W2")
    assert peak_of_walk(table[0], (StageActivations(3, 0),)) == (6, 0)
    assert in_flight(table) == (2,)


@pytest.mark.parametrize(("free_gib", "text"), [(12.3, "fits, 12.3 GiB free"), (-14.5, "does not fit by 14.5 GiB")])
def test_verdict_is_that_of_the_fullest_rank(free_gib: float, text: str) -> None:
    roomy = StageMemory(0, 0, 0, 0, 0, 0, 0, 0, capacity_bytes=80 * GIB)
    full = StageMemory(1, (80 - free_gib) * GIB, 0, 0, 0, 0, 0, 0, capacity_bytes=80 * GIB)
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
    """Tables 3 and 5 of arXiv 2205.05198: no data parallelism, sequence parallelism, A100 80 GB."""
    training = {"seq_len": 2048, "micro_batch": micro_batch, "recompute": "selective"}
    stages = memory(scenario(model, layout | {"sequence_parallel": True}, training, num_microbatches))
    assert all(stage.fits for stage in stages)
    assert max(stage.peak_bytes for stage in stages) > 40 * GIB


LLAMA3_70B = changed(LLAMA2_70B, num_layers=12, vocab=128256)
LLAMA3_405B = changed(LLAMA3_70B, num_layers=4, hidden=16384, num_heads=128, num_kv_heads=16, ffn_hidden=53248)
MLA = LatentAttention(q_lora_rank=1536, kv_lora_rank=512, qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128)
V2_EXPERTS = Experts(num_experts=160, top_k=6, ffn_hidden=1536, shared_ffn_hidden=3072, first_dense_layers=1)
V3_EXPERTS = Experts(num_experts=256, top_k=8, ffn_hidden=2048, shared_ffn_hidden=2048, first_dense_layers=1)
DEEPSEEK = changed(LLAMA2_70B, num_layers=4, num_heads=128, latent_attention=MLA)
DEEPSEEK_V2 = changed(DEEPSEEK, hidden=5120, ffn_hidden=12288, vocab=102400, experts=V2_EXPERTS)
DEEPSEEK_V3 = changed(DEEPSEEK, hidden=7168, ffn_hidden=18432, vocab=129280, experts=V3_EXPERTS)


@pytest.mark.parametrize(
    ("model", "layout", "seq_len", "measured_gib"),
    [
        (LLAMA3_70B, {"pp": 2, "dp": 4}, 4096, 66.55),
        (LLAMA3_70B, {"tp": 2, "dp": 4}, 4096, 60.68),
        (LLAMA3_70B, {"tp": 8, "dp": 1}, 4096, 28.29),
        (LLAMA3_70B, {"tp": 2, "cp": 4}, 32768, 68.43),
        (LLAMA3_70B, {"cp": 8}, 131072, 147.99),
        (LLAMA3_405B, {"pp": 2, "dp": 4}, 4096, 87.08),
        (LLAMA3_405B, {"tp": 4, "dp": 2}, 4096, 52.89),
        (LLAMA3_405B, {"cp": 8}, 32768, 139.22),
        (DEEPSEEK_V2, {"ep": 8, "dp": 8}, 4096, 45.63),
        (DEEPSEEK_V2, {"ep": 4, "pp": 2, "dp": 4}, 4096, 44.70),
        (DEEPSEEK_V3, {"ep": 4, "pp": 2, "dp": 4}, 4096, 114.0),
    ],
)
def test_peak_is_within_4_percent_of_what_megatron_allocated_on_b200(
    model: Model, layout: dict[str, int], seq_len: int, measured_gib: float
) -> None:
    """torch.cuda.max_memory_allocated, most over ranks, ZeRO-1, no recomputation, four micro-batches of one sequence:
    github.com/MooreThreads/SimuMax, docs/b200/b200_release_v1.2_summary.json (with a fused cross-entropy)."""
    parallel = layout | {"zero": 1, "sequence_parallel": layout.get("tp", 1) > 1}
    stages = memory(scenario(model, parallel, {"seq_len": seq_len}, 4))
    allocated_bytes = max(stage.peak_bytes - stage.overhead_bytes for stage in stages)
    assert allocated_bytes / GIB == pytest.approx(measured_gib, rel=0.04)


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
    """On the first rank; its ids are those of the first chunk alone, so a model of many layers is compared."""
    deep = changed(LLAMA2_70B, num_layers=64)
    plain = memory(scenario(deep, {"pp": 4}, {"seq_len": 4096}, 8))[0].activations_bytes
    layout = {"pp": 4, "vpp": 2, "schedule": "interleaved_1f1b"}
    interleaved = memory(scenario(deep, layout, {"seq_len": 4096}, 8))[0].activations_bytes
    assert interleaved / plain == pytest.approx(1 + 3 / 8, rel=1e-5)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_has_a_memory(schedule: str) -> None:
    chunks = next(v for v in (1, 2) if SCHEDULES[schedule].refusal(2, v, 4) is None)
    stages = memory(scenario(WIDE, {"pp": 2, "vpp": chunks, "schedule": schedule}, {}, 4))
    assert [stage.pp_rank for stage in stages] == [0, 1]
    assert all(stage.activations_bytes > 0 for stage in stages)
