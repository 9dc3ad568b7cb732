"""Attention itself: one fused kernel each way, or two batched products with a softmax between them."""

from __future__ import annotations

from collections.abc import Iterator

from sim.cost.kernels import Attention, Gemm, Kernel
from sim.program.pieces import Core, Exchange, Part, Piece
from sim.program.pointwise import softmax
from sim.program.shapes import BYTES, Shapes
from sim.spec.gpu import AttentionKernel

CAUSAL_FRAC = 0.5
"""Share of the scores under a causal mask; with context parallelism each rank takes a head and a tail chunk of the
sequence, so that every rank has the same half (Llama 3, arXiv 2407.21783 section 3.3.2)."""


def core(s: Shapes, kv_heads: int, qk_head_dim: int, v_head_dim: int) -> Iterator[Piece]:
    """Attention itself. Under context parallelism, keys and values are gathered before it and their gradients
    scattered after its backward pass (Llama 3's all-gather form)."""
    if s.cp > 1:
        nbytes = BYTES * s.tokens * s.cp * kv_heads * (qk_head_dim + v_head_dim)
        yield Exchange("cp", nbytes, "all_gather", "reduce_scatter", regathers=True)
    if s.attention == "unfused":
        kernels = _unfused(s, qk_head_dim, v_head_dim)
    else:
        kernels = Core(
            (_fused(s, s.attention, kv_heads, qk_head_dim, v_head_dim, is_backward=False),),
            (_fused(s, s.attention, kv_heads, qk_head_dim, v_head_dim, is_backward=True),),
        )
    yield Part("core_attention", (kernels,))


def _fused(
    s: Shapes, kernel: AttentionKernel, kv_heads: int, qk_head_dim: int, v_head_dim: int, *, is_backward: bool
) -> Attention:
    return Attention(
        name="attention backward" if is_backward else "attention forward",
        batch=s.sequences,
        q_len=s.q_len,
        kv_len=s.kv_len,
        heads=s.heads,
        kv_heads=kv_heads,
        qk_head_dim=qk_head_dim,
        v_head_dim=v_head_dim,
        work_frac=CAUSAL_FRAC,
        is_backward=is_backward,
        format=s.format_16,
        kernel=kernel,
    )


def _unfused(s: Shapes, qk_head_dim: int, v_head_dim: int) -> Core:
    """Products over all scores, masked ones too (arXiv 1909.08053). Backward two products for each of the forward's."""
    count = s.sequences * s.heads

    def product(name: str, m: int, n: int, k: int) -> Gemm:
        return Gemm(name, m, n, k, s.format_16, count, cause="attention")

    between = tuple(softmax(count * s.q_len * s.kv_len, s.kv_len, s))
    forward: list[Kernel] = [product("scores forward", s.q_len, s.kv_len, qk_head_dim)]
    forward += [piece.forward() for piece in between]
    forward.append(product("context forward", s.q_len, v_head_dim, s.kv_len))
    backward: list[Kernel] = [
        product("context dgrad", s.q_len, s.kv_len, v_head_dim),
        product("values gradient", s.kv_len, v_head_dim, s.q_len),
    ]
    backward += [piece.backward() for piece in reversed(between)]
    backward += [
        product("queries gradient", s.q_len, qk_head_dim, s.kv_len),
        product("keys gradient", s.kv_len, qk_head_dim, s.q_len),
    ]
    return Core(tuple(forward), tuple(backward))
