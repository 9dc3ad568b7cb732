"""Attention over blocks of keys and values that go around the ranks of a context-parallel group.

Source: ring attention (arXiv 2310.01889); its balanced form, in which rank i of n has chunks i and 2 n - 1 - i of 2 n
(arXiv 2311.09431 stripes for the same end; Megatron-Core and Transformer Engine, AttnFuncWithCPAndKVP2P).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sim.cost.kernels import Attention, Kernel, Stream
from sim.errors import Problem, SimError
from sim.program.attention_shape import AttentionShape
from sim.program.pieces import Ring
from sim.program.shapes import BYTES, Shapes

FP32_BYTES = 4


@dataclass(frozen=True)
class _Block:
    """Queries by keys of a block that a rank computes, and the share of those scores that the mask leaves."""

    q_len: int
    kv_len: int
    work_frac: float


def ring_attention(s: Shapes, shape: AttentionShape) -> Ring:
    """Attention of a rank's queries to all blocks, its own one first; backward in the opposite order.

    Each block gives an output of its own: one is scaled and added to the others (two outputs read, one written, with
    the logarithms of the softmax's sum in fp32), as are the gradients of queries, and of keys and values that come
    around.

    Raises SimError where attention is not fused: its output comes without the softmax's sum.
    """
    if s.attention == "unfused":
        raise SimError(
            Problem(
                "a ring adds up outputs of fused attention (got unfused attention, allowed all_gather and ulysses)",
                path="layout.cp_method",
            )
        )
    blocks = _blocks(s, shape)
    forward = [tuple(_forward(s, shape, block, is_own=step == 0)) for step, block in enumerate(blocks)]
    order = blocks[::-1]
    is_first = [not any(order[:step]) for step in range(len(order))]
    return Ring(
        group="cp" if s.cp_head_ranks == 1 else "cp_outer",
        block_nbytes=float(BYTES * s.sequences * shape.q_len * shape.kv_width),
        forward=tuple(forward),
        backward=tuple(
            tuple(_backward(s, shape, block, is_first=first)) for block, first in zip(order, is_first, strict=True)
        ),
        sums=tuple(tuple(_sums(s, shape, block, step)) for step, block in enumerate(order)),
    )


def _blocks(s: Shapes, shape: AttentionShape) -> list[_Block | None]:
    """What a rank computes in each step of the forward pass; None where all keys come after its queries.

    Balanced, every step of a rank has as many scores: the causal half of its own block, then of each block before it
    in the sequence half of the keys for all queries, of each after it all keys for half of the queries. Error: all
    ranks are played as the last one, which only has the former, whose kernels take a little longer.
    """
    steps = s.cp // s.cp_head_ranks
    own = _Block(shape.q_len, shape.q_len, 0.5)
    if s.cp_chunk is None:
        return [own, *[_Block(shape.q_len, shape.q_len // 2, 1.0)] * (steps - 1)]
    return [own, *[_Block(shape.q_len, shape.q_len, 1.0)] * s.cp_chunk, *[None] * (steps - 1 - s.cp_chunk)]


def _kernel(s: Shapes, shape: AttentionShape, block: _Block, *, is_backward: bool) -> Attention:
    return shape.fused(s, block.q_len, block.kv_len, block.work_frac, is_backward=is_backward)


def _forward(s: Shapes, shape: AttentionShape, block: _Block | None, *, is_own: bool) -> Iterator[Kernel]:
    if block is None:
        return
    yield _kernel(s, shape, block, is_backward=False)
    if not is_own:
        rows = s.sequences * block.q_len
        nbytes = 3 * rows * (BYTES * shape.out_width + FP32_BYTES * shape.heads)
        yield Stream("sum of attention outputs", nbytes)


def _backward(s: Shapes, shape: AttentionShape, block: _Block | None, *, is_first: bool) -> Iterator[Kernel]:
    if block is None:
        return
    yield _kernel(s, shape, block, is_backward=True)
    if not is_first:
        yield Stream("sum of query gradients", 3 * BYTES * s.sequences * block.q_len * shape.q_width)


def _sums(s: Shapes, shape: AttentionShape, block: _Block | None, step: int) -> Iterator[Kernel]:
    """Nothing has arrived in the first step."""
    if block is not None and step > 0:
        yield Stream("sum of key and value gradients", 3 * BYTES * s.sequences * block.kv_len * shape.kv_width)
