"""Ranks of a group exchange a part of the tokens and all heads for all tokens and a part of the heads, and back.

Source: DeepSpeed-Ulysses (arXiv 2309.14509); a2a of Transformer Engine (context_parallel.py,
flash_attn_a2a_communicate): four all_to_all a layer and direction, of queries, keys, values and outputs.
"""

from __future__ import annotations

from collections.abc import Iterator

from sim.program.attention_shape import AttentionShape
from sim.program.pieces import Exchange, Piece, Pointwise
from sim.program.shapes import BYTES, Shapes


def tokens_to_heads(s: Shapes, shape: AttentionShape) -> Iterator[Piece]:
    """Queries, keys and values. Where there are fewer key and value heads than ranks, several get the same one."""
    kv_heads = max(shape.kv_heads, s.cp_head_ranks)
    widths = (shape.q_width, kv_heads * shape.qk_head_dim, kv_heads * shape.v_head_dim)
    yield _copies(s, "heads in front of tokens", widths)
    yield from (_exchange(s, width) for width in widths)
    yield _copies(s, "tokens in order", widths)


def heads_to_tokens(s: Shapes, shape: AttentionShape) -> Iterator[Piece]:
    """The output."""
    yield _copies(s, "tokens out of order", (shape.out_width,))
    yield _exchange(s, shape.out_width)
    yield _copies(s, "heads behind tokens", (shape.out_width,))


def _exchange(s: Shapes, width: int) -> Exchange:
    group = "cp" if s.cp == s.cp_head_ranks else "cp_inner"
    return Exchange("cp", float(BYTES * s.tokens * width), "all_to_all", "all_to_all", group=group)


def _copies(s: Shapes, name: str, widths: tuple[int, ...]) -> Pointwise:
    """Each tensor is read and written in another order, before it is sent and after it has arrived."""
    nbytes = 2.0 * BYTES * s.tokens * sum(widths)
    launches = len(widths)
    return Pointwise(name, nbytes, nbytes, forward_launches=launches, backward_launches=launches)
