"""Bytes and launches of memory-bound kernels, by how a stack implements them.

Every tensor that a kernel reads or writes counts once; a chain of separate torch operations counts every intermediate.
E stands for one 16-bit value of the tensor.
"""

from __future__ import annotations

from collections.abc import Iterator

from sim.cost.kernels import Stream
from sim.program.pieces import Pointwise
from sim.program.shapes import BYTES, DISPATCH_BYTES, Shapes

MASK_BYTES = 1
"""A dropout mask keeps a byte a value (arXiv 2205.05198 section 4.1)."""

LOSS_BYTES = {"fused": (BYTES, 2 * BYTES, 2 * BYTES), "vocab_parallel": (10, 24, 16), "eager": (6, 8, 22)}
"""Per logit: what comes before the first reduction over the vocabulary's shards, what comes after it, backward.

fused: maximum and sum of 16-bit logits in one read (2), the gradient written over them (4), then scaled (4), as
Transformer Engine and Liger do.
vocab_parallel: Megatron-LM's cast to fp32 (6) and maximum (4); subtraction, exponential, sum and division over fp32
logits (24); the gradient in place and its cast (16). eager: cast to fp32 (6), log-softmax (8); its gradient from a
gradient that is written and read (16), and the cast back (6)."""


def norm(name: str, tokens: int, width: int, s: Shapes) -> Pointwise:
    """Forward 2 E, read and written. Backward 3 E: the gradient and the input read, the input's gradient written;
    `two_pass` reads both once more for the weight's gradient, 5 E.

    `eager`, as Hugging Face's LlamaRMSNorm: cast to fp32 (6 bytes), square (8), mean (4), scale (8), cast back (6),
    weight (4): 36; its gradient runs through each of them with one tensor more: 60.
    """
    values = tokens * width
    match s.kernels.norm:
        case "fused":
            return Pointwise(name, 2 * BYTES * values, 3 * BYTES * values, kind="norm")
        case "eager" if s.norm == "rmsnorm":
            return Pointwise(name, 36 * values, 60 * values, forward_launches=7, backward_launches=10)
        case kind:
            row_bytes = BYTES * width if kind == "eager" else 0
            return Pointwise(
                name, 2 * BYTES * values, 5 * BYTES * values, kind="norm", backward_launches=2, row_bytes=row_bytes
            )


def residual(tokens: int, width: int, s: Shapes) -> Iterator[Pointwise]:
    """The branch is added to the stream, both ways: 3 E. Dropout reads its input (again) and a mask, and writes."""
    values = tokens * width
    if s.dropout == 0:
        yield Pointwise("residual", 3 * BYTES * values, 3 * BYTES * values)
    elif s.kernels.dropout == "fused":
        add, drop = 3 * BYTES * values, (2 * BYTES + MASK_BYTES) * values
        yield Pointwise("dropout and residual", add + MASK_BYTES * values, add + drop, backward_launches=2)
    else:
        yield dropout("dropout", values)
        yield Pointwise("residual", 3 * BYTES * values, 3 * BYTES * values)


def dropout(name: str, values: int) -> Pointwise:
    """Reads and writes values and writes a mask; backward reads both and writes."""
    return Pointwise(name, (2 * BYTES + MASK_BYTES) * values, (2 * BYTES + MASK_BYTES) * values)


def activation(name: str, tokens: int, width: int, gates: int, s: Shapes) -> Pointwise:
    """`fused`: `gates` inputs read and one output written; backward the inputs and the gradient read, the inputs'
    gradients written. `eager` with a gate: the activation (2 E), the product (3 E); backward two products (6 E) and
    the activation's gradient (3 E)."""
    values = tokens * width
    if s.kernels.activation == "eager" and gates > 1:
        return Pointwise(name, 5 * BYTES * values, 9 * BYTES * values, forward_launches=2, backward_launches=3)
    return Pointwise(name, (gates + 1) * BYTES * values, (2 * gates + 1) * BYTES * values)


def rotary(values: int, s: Shapes) -> Pointwise:
    """`fused`: queries and keys read and written. `eager`: times cosine (2 E), halves negated (1 E) and joined (2 E),
    times sine (2 E), added (3 E)."""
    if s.kernels.rotary == "eager":
        return Pointwise("rotary", 10 * BYTES * values, 10 * BYTES * values, forward_launches=10, backward_launches=10)
    return Pointwise("rotary", 2 * BYTES * values, 2 * BYTES * values)


def softmax(scores: int, row: int, s: Shapes) -> Iterator[Pointwise]:
    """Of unfused attention. `fused` scale, mask and softmax: scores read and written in 16 bits; backward the output
    and its gradient read, the scores' written. `eager`: scale (2 E), mask (2 E), softmax in fp32 with its casts
    (6 + 8 + 6 bytes); backward casts (12), softmax (12), mask and scale (4 E). Then dropout."""
    if s.kernels.softmax == "eager":
        yield Pointwise(
            "softmax",
            28 * scores,
            32 * scores,
            kind="softmax",
            forward_launches=5,
            backward_launches=5,
            row_bytes=4 * row,
        )
    else:
        yield Pointwise("softmax", 2 * BYTES * scores, 3 * BYTES * scores, kind="softmax")
    if s.dropout > 0:
        yield dropout("attention dropout", scores)


def permutation(name: str, values: int, s: Shapes) -> Pointwise:
    """MoE tokens in the order of their experts and back: read and written. `eager` scales (and sums) them apart."""
    factor, launches = (2, 2) if s.kernels.permutation == "eager" else (1, 1)
    nbytes = factor * 2 * BYTES * values
    return Pointwise(name, nbytes, nbytes, kind="gather", forward_launches=launches, backward_launches=launches)


def input_cast(name: str, values: int, s: Shapes) -> Pointwise:
    """Of what a product reads, in the forward pass. See `_cast_bytes`."""
    return Pointwise(f"{name} input cast", _cast_bytes(values, s), 0.0, "cast", forward_launches=_num_reads(s))


def gradient_cast(name: str, values: int, s: Shapes) -> Pointwise:
    """Of the gradient of what a product wrote, in the backward pass. See `_cast_bytes`."""
    return Pointwise(f"{name} gradient cast", 0.0, _cast_bytes(values, s), "cast", backward_launches=_num_reads(s))


def to_dispatch(name: str, values: int, *, is_gradient: bool) -> Pointwise:
    """16-bit values of tokens (forward) or of gradients (backward) read, and written in fp8 with their scales."""
    return _one_way(name, (BYTES + DISPATCH_BYTES) * values, is_gradient=is_gradient)


def from_dispatch(name: str, values: int, *, is_gradient: bool) -> Pointwise:
    """What came in fp8 read, and written in 16 bits for what follows."""
    return _one_way(name, (DISPATCH_BYTES + BYTES) * values, is_gradient=is_gradient)


def _one_way(name: str, nbytes: float, *, is_gradient: bool) -> Pointwise:
    forward_bytes, backward_bytes = (0.0, nbytes) if is_gradient else (nbytes, 0.0)
    return Pointwise(name, forward_bytes, backward_bytes, "cast")


def _num_reads(s: Shapes) -> int:
    """A scale that is taken from the values themselves (`current`) needs them read once more."""
    return 2 if s.recipe == "current" else 1


def _cast_bytes(values: float, s: Shapes) -> float:
    """16-bit values read, and written in low precision twice: as they are, and transposed for the product of the weight
    gradient (Transformer Engine's cast_transpose, and its blockwise and MX quantizers)."""
    return (_num_reads(s) * BYTES + 2 * s.quantized_bytes) * values


def weight_cast(parameters: float, s: Shapes) -> Stream:
    """Weights of products, for all micro-batches: as `_cast_bytes`, or only transposed where they are kept cast."""
    nbytes = 2 * s.quantized_bytes if s.keeps_weights_cast else BYTES + 2 * s.quantized_bytes
    return Stream("weight cast", nbytes * parameters, "cast")
