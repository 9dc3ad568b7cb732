"""Attention itself: one fused kernel each way, or two batched products with a softmax between them.

Under context parallelism a rank has a part of the tokens, and attention needs all keys and values before them. They are
gathered (`sim.program.core`), or go around in blocks (`sim.program.ring_attention`), or ranks exchange tokens for heads
(`sim.program.ulysses`), or heads inside groups and blocks across them.
"""

from __future__ import annotations

from collections.abc import Iterator

from sim.cost.kernels import Gemm, Kernel
from sim.program.attention_shape import AttentionShape
from sim.program.pieces import Core, Exchange, Part, Piece
from sim.program.pointwise import softmax
from sim.program.ring_attention import ring_attention
from sim.program.shapes import BYTES, Shapes
from sim.program.ulysses import heads_to_tokens, tokens_to_heads

CAUSAL_FRAC = 0.5
"""Share of the scores under a causal mask; with context parallelism each rank takes a head and a tail chunk of the
sequence, so that every rank has the same half (Llama 3, arXiv 2407.21783 section 3.3.2)."""


def core(s: Shapes, kv_heads: int, qk_head_dim: int, v_head_dim: int) -> Iterator[Piece]:
    """Attention itself, and what context parallelism sends for it.

    Exchanges of heads belong to the module that selective recomputation runs again, as they do in Transformer Engine's
    attention; keys and values of Llama 3's form are gathered once for that and for the backward pass.

    Raises SimError for a ring of unfused attention.
    """
    shape = AttentionShape.of_rank(s, kv_heads, qk_head_dim, v_head_dim)
    if s.cp_head_ranks == 1:
        if s.cp > 1 and s.cp_across == "all_gather":
            yield _gather(s, shape)
        yield Part("core_attention", (_kernels(s, shape),))
        return
    inner = shape.of_heads(s.cp_head_ranks)
    is_gathered = s.cp > s.cp_head_ranks and s.cp_across == "all_gather"
    pieces = (
        *tokens_to_heads(s, shape),
        *((_gather(s, inner),) if is_gathered else ()),
        _kernels(s, inner),
        *heads_to_tokens(s, shape),
    )
    yield Part("core_attention", pieces)


def _gather(s: Shapes, shape: AttentionShape) -> Exchange:
    """Keys and values of all tokens. Their gradients are scattered after the backward pass."""
    group = "cp" if s.cp_head_ranks == 1 else "cp_outer"
    nbytes = BYTES * s.sequences * shape.kv_len * shape.kv_width
    return Exchange("cp", nbytes, "all_gather", "reduce_scatter", regathers=True, group=group)


def _kernels(s: Shapes, shape: AttentionShape) -> Piece:
    """Attention of a rank's queries to all keys before them."""
    if s.cp > s.cp_head_ranks and s.cp_across == "ring":
        return ring_attention(s, shape)
    if s.attention == "unfused":
        return _unfused(s, shape)
    if s.cp_chunk is None:
        kv_len, work_frac = shape.kv_len, CAUSAL_FRAC
    else:
        # Queries of chunk c see the c chunks before it and half of their own.
        kv_len, work_frac = shape.q_len * (s.cp_chunk + 1), (s.cp_chunk + CAUSAL_FRAC) / (s.cp_chunk + 1)
    return Core(
        (shape.fused(s, shape.q_len, kv_len, work_frac, is_backward=False),),
        (shape.fused(s, shape.q_len, kv_len, work_frac, is_backward=True),),
    )


def _unfused(s: Shapes, shape: AttentionShape) -> Core:
    """Products over all scores, masked ones too (arXiv 1909.08053). Backward two products for each of the forward's."""
    count = s.sequences * shape.heads

    def product(name: str, m: int, n: int, k: int) -> Gemm:
        return Gemm(name, m, n, k, s.format_16, count, cause="attention")

    q_len, kv_len = shape.q_len, shape.kv_len
    between = tuple(softmax(count * q_len * kv_len, kv_len, s))
    forward: list[Kernel] = [product("scores forward", q_len, kv_len, shape.qk_head_dim)]
    forward += [piece.forward() for piece in between]
    forward.append(product("context forward", q_len, shape.v_head_dim, kv_len))
    backward: list[Kernel] = [
        product("context dgrad", q_len, kv_len, shape.v_head_dim),
        product("values gradient", kv_len, shape.v_head_dim, q_len),
    ]
    backward += [piece.backward() for piece in reversed(between)]
    backward += [
        product("queries gradient", q_len, shape.qk_head_dim, kv_len),
        product("keys gradient", kv_len, shape.qk_head_dim, q_len),
    ]
    return Core(tuple(forward), tuple(backward))
