from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.program.activations import embedding_bytes, head_bytes, layer_bytes, layer_kept, working_bytes
from sim.program.shapes import Shapes
from sim.spec.model import Experts, LatentAttention, Model


def gpt(hidden: int, heads: int, **changes: object) -> Model:
    """A GPT as in arXiv 2205.05198: GELU of width 4 h, as many key and value heads as query heads."""
    fields = {
        "name": "gpt",
        "num_layers": 2,
        "hidden": hidden,
        "num_heads": heads,
        "num_kv_heads": heads,
        "head_dim": hidden // heads,
        "ffn_hidden": 4 * hidden,
        "gated_mlp": False,
        "vocab": 51200,
        "tied_embeddings": True,
        "max_seq_len": 4096,
    }
    return Model.model_validate(fields | changes)


def shapes_of(model: Model, *, seq_len: int, batch: int = 1, tp: int = 1, is_sequence_parallel: bool = False) -> Shapes:
    tokens = seq_len * batch
    return Shapes(
        tokens=tokens,
        tokens_sp=tokens // tp if is_sequence_parallel else tokens,
        sequences=batch,
        q_len=seq_len,
        kv_len=seq_len,
        heads=model.num_heads // tp,
        kv_heads=max(model.num_kv_heads // tp, 1),
        vocab=model.vocab // tp,
        tp=tp,
        cp=1,
        ep=1,
        etp=1,
        is_sequence_parallel=is_sequence_parallel,
        format="bf16",
        grad_bytes=4,
    )


def with_dropout_and_scores(model: Model, s: Shapes, seq_len: int, batch: int) -> float:
    """Ours, plus what the paper keeps and we do not: two dropout masks of one byte, and the scores (5 a s^2 b / t)
    instead of the softmax statistics."""
    masks = 2 * s.tokens_sp * model.hidden
    scores = 5 * s.heads * seq_len**2 * batch
    return layer_bytes(layer_kept(model, s, 0), "none") + masks + scores - 4 * s.tokens * s.heads


gpt_numbers = st.tuples(st.sampled_from([8, 16, 32]), st.integers(1, 4), st.sampled_from([32, 64]), st.integers(1, 3))


@given(gpt_numbers)
def test_layer_is_korthikantis_formula_but_for_dropout_and_scores(numbers: tuple[int, int, int, int]) -> None:
    a, head_dim_factor, seq_len, b = numbers
    h = a * 8 * head_dim_factor
    model = gpt(h, a)
    s = shapes_of(model, seq_len=seq_len, batch=b)
    assert with_dropout_and_scores(model, s, seq_len, b) == seq_len * b * h * 34 + 5 * a * seq_len**2 * b


@given(gpt_numbers, st.sampled_from([2, 4, 8]))
def test_tensor_parallel_layer_keeps_ten_plus_24_over_t(numbers: tuple[int, int, int, int], t: int) -> None:
    a, head_dim_factor, seq_len, b = numbers
    h = a * 8 * head_dim_factor
    model = gpt(h, a)
    s = shapes_of(model, seq_len=seq_len, batch=b, tp=t)
    paper = seq_len * b * h * (10 + 24 / t) + 5 * a * seq_len**2 * b / t
    assert with_dropout_and_scores(model, s, seq_len, b) == pytest.approx(paper, rel=1e-12)


@given(gpt_numbers, st.sampled_from([2, 4, 8]))
def test_sequence_parallel_layer_divides_everything_by_t(numbers: tuple[int, int, int, int], t: int) -> None:
    a, head_dim_factor, seq_len, b = numbers
    h = a * 8 * head_dim_factor
    model = gpt(h, a)
    s = shapes_of(model, seq_len=seq_len, batch=b, tp=t, is_sequence_parallel=True)
    paper = seq_len * b * h / t * 34 + 5 * a * seq_len**2 * b / t
    assert with_dropout_and_scores(model, s, seq_len, b) == pytest.approx(paper, rel=1e-12)


def test_selective_recomputation_leaves_34_sbh_over_t_less_the_dropout_masks() -> None:
    """Table 2 of arXiv 2205.05198: 34 s b h / t, of which 2 s b h / t are masks."""
    model = gpt(6144, 64)
    s = shapes_of(model, seq_len=2048, batch=4, tp=8, is_sequence_parallel=True)
    assert layer_bytes(layer_kept(model, s, 0), "selective") == 32 * 2048 * 4 * 6144 / 8


def test_full_recomputation_keeps_2_sbh_and_works_on_the_rest_of_one_layer() -> None:
    model = gpt(6144, 64)
    s = shapes_of(model, seq_len=2048, batch=4)
    kept = layer_kept(model, s, 0)
    assert layer_bytes(kept, "full") == 2 * 2048 * 4 * 6144
    assert working_bytes(kept, "full") == 30 * 2048 * 4 * 6144 + 4 * 64 * 2048 * 4
    assert working_bytes(kept, "none") == 0


def test_head_and_logits_of_the_paper_are_four_sbh_plus_four_sbv() -> None:
    """Section 4.3: 4 s b h (1 + v / h) with one pipeline stage; v's part is the memory's `logits`."""
    model = gpt(64, 4)
    assert head_bytes(model, shapes_of(model, seq_len=32, batch=2)) == 4 * 32 * 2 * 64


def test_embedding_keeps_eight_bytes_of_id_for_each_token() -> None:
    model = gpt(64, 4)
    assert embedding_bytes(shapes_of(model, seq_len=32, batch=2)) == 8 * 64


def test_grouped_query_gated_layer_by_hand() -> None:
    """4 tokens, h = 8, 2 query heads and 1 key head of 4, f = 16, bytes for each token:
    input 16, norm 16, q 16, k 8, v 8, output 16, statistics 8, mlp input 16, norm 16, gate and up 64, product 32."""
    model = gpt(8, 2, num_kv_heads=1, ffn_hidden=16, gated_mlp=True)
    kept = layer_kept(model, shapes_of(model, seq_len=4), 0)
    assert layer_bytes(kept, "none") == 4 * (16 + 16 + 16 + 8 + 8 + 16 + 8 + 16 + 16 + 64 + 32)


def test_query_key_norm_keeps_its_input() -> None:
    model = gpt(8, 2)
    s = shapes_of(model, seq_len=4)
    normed = model.model_copy(update={"qk_norm": True})
    difference = layer_bytes(layer_kept(normed, s, 0), "none") - layer_bytes(layer_kept(model, s, 0), "none")
    assert difference == 4 * 2 * (8 + 8)


def test_latent_attention_by_hand() -> None:
    """4 tokens, 2 heads, q latent 6, kv latent 5, nope 3, rope 2, v 4. Attention's bytes for each token:
    input 16, norm 16, q latent twice 24, kv latent twice 20, q 20, k 20, v 16, output 16, statistics 8."""
    mla = LatentAttention(q_lora_rank=6, kv_lora_rank=5, qk_nope_head_dim=3, qk_rope_head_dim=2, v_head_dim=4)
    model = gpt(8, 2, latent_attention=mla)
    plain = gpt(8, 2)
    s = shapes_of(model, seq_len=4)
    mlp_bytes = 4 * (16 + 16 + 2 * 32 + 2 * 32)
    assert layer_bytes(layer_kept(plain, s, 0), "none") - mlp_bytes == 4 * (16 + 16 + 48 + 16 + 8)
    assert layer_bytes(layer_kept(model, s, 0), "none") - mlp_bytes == 4 * (16 + 16 + 24 + 20 + 20 + 20 + 16 + 16 + 8)


MOE = Experts(num_experts=8, top_k=2, ffn_hidden=16, shared_ffn_hidden=4, first_dense_layers=1)


def moe_half(model: Model, s: Shapes) -> float:
    """Bytes of the MLP half of layer 1."""
    dense = layer_bytes(layer_kept(model, s, 0), "none")
    dense_half = s.tokens * (2 * 2 * model.hidden + 2 * 2 * model.ffn_hidden)
    return layer_bytes(layer_kept(model, s, 1), "none") - (dense - dense_half)


def test_experts_keep_top_k_copies_by_hand() -> None:
    """4 tokens, 8 copies, h = 8, f = 16, shared 4. For each token: input 16, norm 16, scores 32, shared 8 + 8; for each
    copy: input 16, activation 32 + 32."""
    model = gpt(8, 2, experts=MOE)
    assert moe_half(model, shapes_of(model, seq_len=4)) == 4 * (16 + 16 + 32 + 16) + 8 * (16 + 64)


def test_expert_tensor_parallelism_gathers_tokens_and_splits_widths() -> None:
    """etp = 2: each rank sees the 16 copies of both, at half the width."""
    model = gpt(8, 2, experts=MOE)
    s = replace(shapes_of(model, seq_len=4), etp=2)
    assert moe_half(model, s) == 4 * (16 + 16 + 32 + 16) + 16 * (16 + 32)


def test_sequence_parallelism_splits_what_lies_between_blocks_of_an_moe_layer() -> None:
    """tp = 2: of 4 tokens, 2 pass norms, router and dispatch (4 copies); the shared expert sees all at half width."""
    model = gpt(8, 2, experts=MOE)
    s = shapes_of(model, seq_len=4, tp=2, is_sequence_parallel=True)
    attention_bytes = 2 * (16 + 16) + 4 * (24 + 8 + 4)
    moe_bytes = 2 * (16 + 16 + 32) + 4 * (16 + 32 + 32) + 4 * (4 + 4)
    assert layer_bytes(layer_kept(model, s, 1), "none") == attention_bytes + moe_bytes


def test_sequence_parallelism_splits_latents_and_the_head() -> None:
    """tp = 2: 2 of 4 tokens between blocks, one of two heads; q latent 6, kv latent 5, heads 5 + 5 + 4 wide."""
    mla = LatentAttention(q_lora_rank=6, kv_lora_rank=5, qk_nope_head_dim=3, qk_rope_head_dim=2, v_head_dim=4)
    model = gpt(8, 2, latent_attention=mla)
    s = shapes_of(model, seq_len=4, tp=2, is_sequence_parallel=True)
    attention_bytes = 2 * (16 + 16 + 24 + 20) + 4 * (28 + 8 + 4)
    mlp_bytes = 2 * (16 + 16) + 4 * (32 + 32)
    assert layer_bytes(layer_kept(model, s, 0), "none") == attention_bytes + mlp_bytes
    assert head_bytes(model, s) == 2 * (16 + 16)
