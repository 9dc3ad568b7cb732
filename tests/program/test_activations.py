"""Bytes that a layer keeps for its backward pass, against the formulas of arXiv 2205.05198 and by hand."""

from collections.abc import Callable

import pytest

from sim.program.activations import (
    LAYER_INPUT,
    embedding_bytes,
    gradient_bytes,
    head_bytes,
    input_bytes,
    kept_bytes,
    layer_kept,
    remade_bytes,
)
from sim.program.shapes import shapes
from sim.spec.scenario import Scenario
from sim.spec.training import recomputed_modules

Make = Callable[..., Scenario]
PAPER = {
    "stack": "megatron-2022-selective",
    "training.dropout": 0.1,
    "training.precision": "fp16",
    "model.gated_mlp": False,
    "model.learned_positions": True,
    "model.norm": "layernorm",
}
"""The layer of arXiv 2205.05198: dropout, GELU of width 4 h, attention without FlashAttention."""

TINY = {"model.hidden": 8, "model.num_heads": 2, "model.num_kv_heads": 2, "model.head_dim": 4, "model.ffn_hidden": 16}
TINY |= {"model.gated_mlp": False, "training.seq_len": 4, "model.vocab": 128}
"""4 tokens of width 8; every number can be checked by hand."""


def gpt(heads: int, head_dim: int, seq_len: int, micro_batch: int, **training: object) -> dict[str, object]:
    """Settings of a GPT with as many key and value heads as query heads."""
    return {
        "model.hidden": heads * head_dim,
        "model.num_heads": heads,
        "model.num_kv_heads": heads,
        "model.head_dim": head_dim,
        "model.ffn_hidden": 4 * heads * head_dim,
        "training.seq_len": seq_len,
        "training.micro_batch": micro_batch,
        "training.global_batch": 64,
    } | {f"training.{key}": value for key, value in training.items()}


def split(tp: int, *, sequence_parallel: bool) -> dict[str, object]:
    return {"layout.tp": tp, "layout.sequence_parallel": sequence_parallel}


def layer(scenario: Scenario, index: int = 0) -> float:
    """Bytes that layer `index` keeps under the scenario's selective recomputation, if any."""
    kept = layer_kept(scenario.model, shapes(scenario), index)
    return kept_bytes(kept, recomputed_modules(scenario.training))


def tensors(scenario: Scenario, index: int = 0) -> dict[str, float]:
    return {tensor.name: tensor.nbytes for tensor in layer_kept(scenario.model, shapes(scenario), index)}


SIZES = [(8, 64, 512, 1), (16, 96, 256, 2), (32, 128, 1024, 4)]


Sizes = tuple[int, int, int, int]
sizes = pytest.mark.parametrize("sizes", SIZES)
split_by = pytest.mark.parametrize("t", [2, 8])


@sizes
def test_layer_is_34_sbh_and_5_as2b(small: Make, sizes: Sizes) -> None:
    """Table 2 of arXiv 2205.05198, as the next five, equal to the last byte."""
    a, head_dim, s, b = sizes
    assert layer(small(PAPER | gpt(*sizes))) == s * b * a * head_dim * 34 + 5 * a * s**2 * b


@sizes
@split_by
def test_tensor_parallel_layer_is_10_and_24_over_t(small: Make, sizes: Sizes, t: int) -> None:
    a, head_dim, s, b = sizes
    scenario = small(PAPER | gpt(*sizes) | split(t, sequence_parallel=False))
    assert t * layer(scenario) == s * b * a * head_dim * (10 * t + 24) + 5 * a * s**2 * b


@sizes
@split_by
def test_sequence_parallelism_divides_the_whole_layer_by_t(small: Make, sizes: Sizes, t: int) -> None:
    a, head_dim, s, b = sizes
    scenario = small(PAPER | gpt(*sizes) | split(t, sequence_parallel=True))
    assert t * layer(scenario) == s * b * a * head_dim * 34 + 5 * a * s**2 * b


@sizes
@split_by
def test_selective_recomputation_drops_the_scores(small: Make, sizes: Sizes, t: int) -> None:
    a, head_dim, s, b = sizes
    settings = PAPER | gpt(*sizes, recompute="selective")
    assert t * layer(small(settings | split(t, sequence_parallel=False))) == s * b * a * head_dim * (10 * t + 24)
    assert t * layer(small(settings | split(t, sequence_parallel=True))) == s * b * a * head_dim * 34


@sizes
def test_full_recomputation_keeps_2_sbh(small: Make, sizes: Sizes) -> None:
    a, head_dim, s, b = sizes
    scenario = small(PAPER | gpt(*sizes))
    assert input_bytes(layer_kept(scenario.model, shapes(scenario), 0)) == 2 * s * b * a * head_dim


def test_head_and_embedding_are_those_of_section_4_3(small: Make) -> None:
    """4 s b h / t for the final norm and the head; dropout's mask of the embedding, s b h / t; and the ids."""
    scenario = small(PAPER | gpt(8, 64, 512, 2) | split(4, sequence_parallel=True))
    s = shapes(scenario)
    assert 4 * head_bytes(scenario.model, s) == 4 * 512 * 2 * 512
    assert 4 * (embedding_bytes(scenario.model, s) - 8 * 512 * 2) == 512 * 2 * 512


def test_without_dropout_there_are_no_masks_and_one_copy_of_the_softmax(small: Make) -> None:
    a, s, b, h = 8, 512, 1, 512
    assert layer(small(PAPER | gpt(8, 64, s, b, dropout=0.0))) == s * b * h * 32 + 2 * a * s**2 * b


def test_softmax_of_separate_operations_keeps_fp32_too(small: Make) -> None:
    settings = PAPER | gpt(8, 64, 512, 1)
    fused, eager = small(settings), small(settings | {"stack.kernels.softmax": "eager"})
    assert layer(eager) - layer(fused) == 4 * 8 * 512**2


def test_fused_attention_keeps_four_bytes_a_head_and_token_instead_of_scores(small: Make) -> None:
    settings = gpt(8, 64, 512, 1) | {"model.gated_mlp": False}
    assert layer(small(settings)) == 32 * 512 * 512 + 4 * 512 * 8
    assert layer(small(settings | {"training.recompute": "selective"})) == 32 * 512 * 512


def test_grouped_query_gated_layer_by_hand(small: Make) -> None:
    """4 tokens, h = 8, 2 query heads and 1 key head of 4, f = 16, bytes for each token:
    input 16, norm 16, q 16, k 8, v 8, output 16, statistics 8, mlp input 16, norm 16, gate and up 64, product 32."""
    scenario = small(TINY | {"model.num_kv_heads": 1, "model.gated_mlp": True})
    assert layer(scenario) == 4 * (16 + 16 + 16 + 8 + 8 + 16 + 8 + 16 + 16 + 64 + 32)


def test_query_key_norm_keeps_its_input(small: Make) -> None:
    assert layer(small(TINY | {"model.qk_norm": True})) - layer(small(TINY)) == 4 * 2 * (8 + 8)


MLA = {"q_lora_rank": 6, "kv_lora_rank": 5, "qk_nope_head_dim": 3, "qk_rope_head_dim": 2, "v_head_dim": 4}
LATENT = TINY | {"model.latent_attention": MLA}


def test_latent_attention_by_hand(small: Make) -> None:
    """4 tokens, 2 heads, q latent 6, kv latent 5, nope 3, rope 2, v 4. Attention's bytes for each token:
    input 16, norm 16, q latent twice 24, kv latent twice 20, q 20, k 20, v 16, output 16, statistics 8."""
    mlp_bytes = 4 * (16 + 16 + 2 * 32 + 2 * 32) - 4 * (32 + 32)
    assert layer(small(LATENT)) - mlp_bytes == 4 * (16 + 16 + 24 + 20 + 20 + 20 + 16 + 16 + 8)


def test_up_projections_that_run_again_leave_the_latents_before_their_norms(small: Make) -> None:
    again = {"training.recompute": "selective", "training.recompute_modules": ["mla_up_projection"]}
    assert layer(small(LATENT)) - layer(small(LATENT | again)) == 4 * (12 + 10 + 20 + 20 + 16)


EXPERTS = {"num_experts": 8, "top_k": 2, "ffn_hidden": 16, "shared_ffn_hidden": 4, "first_dense_layers": 1}
MOE = TINY | {"model.experts": EXPERTS}


def moe_half(scenario: Scenario) -> float:
    """Bytes of the MLP half of layer 1."""
    s, model = shapes(scenario), scenario.model
    dense_half = s.tokens_sp * 2 * 2 * model.hidden + s.tokens * 2 * 2 * model.ffn_hidden // s.tp
    return layer(scenario, 1) - (layer(scenario, 0) - dense_half)


def test_experts_keep_top_k_copies_by_hand(small: Make) -> None:
    """4 tokens, 8 copies, h = 8, f = 16, shared 4. For each token: input 16, norm 16, router 13 x 8, shared 8 + 8; for
    each copy: weight and row 8, input 16, activation 32 + 32."""
    assert moe_half(small(MOE)) == 4 * (16 + 16 + 104 + 16) + 8 * (8 + 16 + 64)


def test_where_tokens_are_scaled_apart_the_experts_outputs_stay(small: Make) -> None:
    eager = small(MOE | {"stack.kernels.permutation": "eager"})
    assert moe_half(eager) - moe_half(small(MOE)) == 8 * 16


def test_expert_tensor_parallelism_gathers_tokens_and_splits_widths(small: Make) -> None:
    """tp = etp = 2 without sequence parallelism: each rank sees the 16 copies of both, at half the width."""
    scenario = small(MOE | {"layout.tp": 2, "layout.etp": 2, "layout.sequence_parallel": True})
    assert moe_half(scenario) == 2 * (16 + 16 + 104) + 4 * (4 + 4) + 8 * (8 + 16 + 32)


def test_experts_that_run_again_leave_the_norms_output_and_the_router(small: Make) -> None:
    again = {"training.recompute": "selective", "training.recompute_modules": ["moe"]}
    assert moe_half(small(MOE | again)) == 4 * (16 + 16 + 104)


@pytest.mark.parametrize(
    ("modules", "saved", "most"),
    [
        (["core_attention"], 8, 8),
        (["norm"], 16 + 16, 32),
        (["activation"], 32, 32),
        (["mlp"], 16 + 32 + 32, 80),
        (["norm", "activation"], 32 + 32, 32),
        (["mlp", "norm"], 16 + 16 + 64, 80),
    ],
)
def test_modules_that_run_again_keep_their_input_alone(small: Make, modules: list[str], saved: int, most: int) -> None:
    """Bytes for each of 4 tokens: a norm's output 16, statistics 8, the activation's input 32 and output 32. One module
    runs again at a time."""
    scenario = small(TINY | {"training.recompute": "selective", "training.recompute_modules": modules})
    kept = layer_kept(scenario.model, shapes(scenario), 0)
    again = recomputed_modules(scenario.training)
    assert kept_bytes(kept, frozenset()) - kept_bytes(kept, again) == 4 * saved
    assert remade_bytes(kept, again) == 4 * most


def test_in_fp8_operands_of_products_take_a_byte_and_attentions_output_three(small: Make) -> None:
    """Of 4 tokens: two norms' outputs of 8 and the activation's of 16 save a byte a value; attention's output of 8 is
    kept for its own backward pass as well."""
    delayed = small(TINY | {"training.precision": "fp8", "training.recipe": "delayed"})
    assert layer(small(TINY)) - layer(delayed) == 4 * (8 + 8 + 16 - 8)
    assert tensors(delayed)["mlp activation input"] == tensors(small(TINY))["mlp activation input"]


def test_scales_of_blocks_count(small: Make) -> None:
    mxfp8 = small(TINY | {"training.precision": "fp8", "training.recipe": "mxfp8"})
    assert tensors(mxfp8)["mlp activation output"] == 4 * 16 * (1 + 1 / 32)


def test_separate_operations_of_rmsnorm_and_gate_keep_what_autograd_saves(small: Make) -> None:
    """Two norms: fp32 copies of their inputs, 4 bytes a value; the activated gate, 2 bytes."""
    settings = TINY | {"model.gated_mlp": True}
    eager = small(settings | {"stack.kernels.norm": "eager", "stack.kernels.activation": "eager"})
    assert layer(eager) - layer(small(settings)) == 4 * (2 * 4 * 8 + 2 * 16)


def test_layernorm_is_one_operation_in_torch(small: Make) -> None:
    settings = TINY | {"model.norm": "layernorm"}
    assert layer(small(settings | {"stack.kernels.norm": "eager"})) == layer(small(settings))


def test_gradients_of_a_layer_are_those_of_its_widest_block(small: Make) -> None:
    """4 tokens: the residual's 8; attention's output 8 and q, k, v 24, or the MLP's output 8 and its activation's
    input, 16 or 64 wide."""
    narrow = small(TINY)
    wide = small(TINY | {"model.ffn_hidden": 64})
    assert gradient_bytes(narrow.model, shapes(narrow), 0) == 2 * 4 * (8 + 32)
    assert gradient_bytes(wide.model, shapes(wide), 0) == 2 * 4 * (8 + 8 + 64)


def test_gradients_of_unfused_attention_are_scores_before_and_after_the_softmax(small: Make) -> None:
    scenario = small(TINY | {"stack.attention": ["unfused"]})
    assert gradient_bytes(scenario.model, shapes(scenario), 0) == 2 * (4 * (8 + 32) + 2 * 2 * 4 * 4)


def test_the_first_tensor_of_a_layer_is_its_input(small: Make) -> None:
    for settings in (TINY, MOE, LATENT):
        assert next(iter(tensors(small(settings)))) == LAYER_INPUT
