"""How long fused attention takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from sim.errors import Problem, SimError
from sim.spec.gpu import BYTES_PER_VALUE, AttentionConstants, AttentionKernel, Gpu, NumberFormat, peak_in
from sim.spec.topology import Floats

BACKWARD_PRODUCTS = 2.5
"""Q K^T again, dV, dP, dQ and dK: five products for the forward pass's two (FlashAttention, arXiv 2205.14135)."""
REFERENCE_HEAD_DIM = 128
"""Head dim at which `flop_frac` and `tail_rows` are stated."""
BURST_S = 4.4e-3
"""A lone launch runs at the clock of a short burst for so long, until power management lowers it. Fitted alone on A100,
H100, H200, B200 and GB200 the time is 4 to 6 ms on each."""
HBM_FRAC = 0.87
"""Share of the HBM rate that Q, K, V and O reach, as streaming kernels do (0.865 to 0.887 on A100, H100 and B200)."""

Values: TypeAlias = float | Floats
"""One number, or one for each of many kernels: (kernels,)."""


@dataclass(frozen=True)
class Attention:
    """Fused attention of `batch` sequences: `q_len` queries by `kv_len` keys, `heads` query heads on this rank.

    work_frac: part of the q_len x kv_len scores that is computed (1/2 under a causal mask over a whole sequence).
    kernel: who wrote it.
    """

    name: str
    batch: int
    q_len: int
    kv_len: int
    heads: int
    kv_heads: int
    qk_head_dim: int
    v_head_dim: int
    work_frac: float
    is_backward: bool
    format: NumberFormat
    kernel: AttentionKernel
    cause: str = "attention"


@dataclass(frozen=True)
class Shape:
    """The numbers of `Attention` that its time depends on, of one kernel or of many: each a number or (kernels,)."""

    batch: Values
    q_len: Values
    kv_len: Values
    heads: Values
    kv_heads: Values
    qk_head_dim: Values
    v_head_dim: Values
    work_frac: Values
    value_bytes: Values

    @property
    def head_dim(self) -> Values:
        """Mean of the two head dims: both products of a score cost as much as two of this."""
        return (self.qk_head_dim + self.v_head_dim) / 2


@dataclass(frozen=True)
class Device:
    """What the time depends on of a GPU: the dense peak in each kernel's format, the HBM rate, and its SMs."""

    peak_flop_per_s: Values
    hbm_bytes_per_s: float
    num_sms: int


def shape_of(attention: Attention) -> Shape:
    """The shape of one kernel."""
    return Shape(
        attention.batch,
        attention.q_len,
        attention.kv_len,
        attention.heads,
        attention.kv_heads,
        attention.qk_head_dim,
        attention.v_head_dim,
        attention.work_frac,
        BYTES_PER_VALUE[attention.format],
    )


def device_of(gpu: Gpu, number_format: NumberFormat) -> Device:
    """What attention in `number_format` depends on of `gpu`. Raises SimError where it does not compute in it."""
    return Device(peak_in(gpu, number_format), gpu.hbm_bytes_per_s, gpu.num_sms)


def attention_flop(attention: Attention) -> float:
    """Floating-point operations of both products (five in the backward pass) over the unmasked scores, FLOP.

    >>> attention_flop(Attention("core", 1, 4, 4, 2, 2, 8, 8, 0.5, False, "bf16", "fa2"))
    512.0
    """
    return float(shape_flop(shape_of(attention), is_backward=attention.is_backward))


def shape_flop(shape: Shape, *, is_backward: bool) -> Values:
    """Floating-point operations of `attention_flop` for each kernel, FLOP."""
    scores = shape.batch * shape.heads * shape.q_len * shape.kv_len * shape.work_frac
    return 4.0 * scores * shape.head_dim * (BACKWARD_PRODUCTS if is_backward else 1.0)


def attention_bytes(attention: Attention) -> float:
    """HBM traffic, bytes: Q, K, V read and O written once; the backward pass also reads dO and writes dQ, dK, dV.

    Q (batch, q_len, heads, qk_head_dim), O the same with v_head_dim, K and V (batch, kv_len, kv_heads, ...).
    """
    return float(shape_bytes(shape_of(attention), is_backward=attention.is_backward))


def shape_bytes(shape: Shape, *, is_backward: bool) -> Values:
    """HBM traffic of `attention_bytes` for each kernel, bytes."""
    rows = shape.q_len * shape.heads + shape.kv_len * shape.kv_heads
    return shape.batch * rows * 2.0 * shape.head_dim * shape.value_bytes * (2.0 if is_backward else 1.0)


def head_dim_share(head_dim: Values, softmax_dim: float, full_head_dim: float) -> Values:
    """Rate at `head_dim` over the rate at head dim 128.

    A score costs one exponential whatever the head dim: as much time as `softmax_dim` more columns of the products, as
    far as it is not hidden behind them (FlashAttention-3, arXiv 2407.08608, section 3.1). Beyond `full_head_dim` the
    accumulators of a tile do not fit on an SM, and the tile that shares a loaded block of keys shrinks in proportion.

    >>> float(head_dim_share(64, 64.0, 256.0)), float(head_dim_share(128, 64.0, 256.0))
    (0.75, 1.0)
    >>> float(head_dim_share(512, 0.0, 256.0))
    0.5
    """
    share: Values = _dim_share(head_dim, softmax_dim, full_head_dim) / _dim_share(
        float(REFERENCE_HEAD_DIM), softmax_dim, full_head_dim
    )
    return share


def _dim_share(head_dim: Values, softmax_dim: float, full_head_dim: float) -> Values:
    fits: Values = np.minimum(1.0, full_head_dim / head_dim)
    return head_dim / (head_dim + softmax_dim) * fits


def last_query_frac(work_frac: Values) -> Values:
    """Share of the keys that the last query sees: all of them, or those of a sliding window.

    A window of x kv_len keys behind each query computes x - x^2 / 2 of the scores: 1/2 at x = 1, the causal mask.

    >>> float(last_query_frac(0.5)), float(last_query_frac(1.0)), float(last_query_frac(0.375))
    (1.0, 1.0, 0.5)
    """
    window: Values = 1.0 - np.sqrt(np.maximum(0.0, 1.0 - 2.0 * work_frac))
    return window


def products_s(shape: Shape, constants: AttentionConstants, device: Device, *, is_backward: bool) -> Values:
    """Time on the tensor cores at the clock of the measurements, s.

    (FLOP of all tiles + SMs x FLOP of the last tile) / rate, where a query costs more than the keys that it sees.

    To load a block of queries and write its output costs as much as `s_half` more. An edge of the mask cuts through
    blocks that are computed whole: `edge_keys` for each of the 2 (1 - work_frac) edges (none without a mask, the
    diagonal of a causal one, both sides of a narrow sliding window), but no more than all keys.

    The last tile ends at the last query and runs while other SMs have nothing left to do. It has `tail_rows` queries at
    head dim 128, and as many more as the root of the head dim is smaller: between a fixed number of queries and a fixed
    number of values, which both fit worse (H100 6.9 and 7.1 %, B200 7.0 and 6.0, against 6.9 and 5.2).
    """
    rates = constants.backward if is_backward else constants.forward
    head_dim = shape.head_dim
    share = rates.flop_frac * head_dim_share(head_dim, rates.softmax_dim, constants.full_head_dim)
    rate = device.peak_flop_per_s * np.minimum(1.0, share)
    edge_keys = constants.edge_keys * 2.0 * (1.0 - shape.work_frac)
    flop_by_key = 4.0 * head_dim * (BACKWARD_PRODUCTS if is_backward else 1.0)
    queries = shape.batch * shape.heads * shape.q_len
    tail_rows = np.minimum(constants.tail_rows * np.sqrt(REFERENCE_HEAD_DIM / head_dim), shape.q_len)
    mean_keys = np.minimum(shape.kv_len, shape.kv_len * shape.work_frac + edge_keys)
    last_keys = np.minimum(shape.kv_len, shape.kv_len * last_query_frac(shape.work_frac) + edge_keys)
    all_tiles = queries * (mean_keys + rates.s_half)
    last_tile = tail_rows * (last_keys + rates.s_half)
    duration_s: Values = flop_by_key * (all_tiles + last_tile * device.num_sms) / rate
    return duration_s


def lone_launch_s(alone_s: Values, long_frac: float, burst_s: Values = BURST_S) -> Values:
    """Time of `alone_s` of products in one launch on an idle GPU, s: what lies beyond `burst_s` runs at `long_frac`.

    burst_s is infinite under a fixed clock.

    >>> float(lone_launch_s(3.0, 0.5, burst_s=2.0))
    4.0
    """
    slowed_s: Values = np.minimum(alone_s, burst_s) + np.maximum(0.0, alone_s - burst_s) / long_frac
    return slowed_s


def launched_s(
    compute_s: Values, shape: Shape, constants: AttentionConstants, device: Device, *, is_backward: bool
) -> Values:
    """Time of each kernel whose products take `compute_s`, s: launch + max(products, bytes / HBM)."""
    memory_s = shape_bytes(shape, is_backward=is_backward) / (device.hbm_bytes_per_s * HBM_FRAC)
    duration_s: Values = constants.launch_s + np.maximum(compute_s, memory_s)
    return duration_s


def attention_s(attention: Attention, gpu: Gpu, *, burst: bool = False) -> float:
    """Time of one kernel that has the GPU to itself, s: in a training run or, with `burst`, as a lone launch.

    launch + max(products / in_run_frac, bytes / HBM), see `products_s`; of a lone launch what `lone_launch_s` says.
    Counting the keys that a query sees lets one `s_half` serve causal and full attention. `in_run_frac` is what power
    leaves of the rate to which the constants were fitted: near 1 where that was measured at a fixed clock.

    Source: tiles and their cost from FlashAttention-2 and -3 (arXiv 2307.08691, 2407.08608); constants from the sources
    of each GPU.
    Error: lone launches, causal, 1,024 tokens or more, all head dims (64 to 512) and group sizes of
    ai-dynamo/aiconfigurator, mean absolute / bias of the sum in %: A100 3.2 / +0.1, H100 6.9 / +0.2, H200 6.9 / -0.0,
    B200 5.2 / +0.1, GB200 6.5 / +0.1; head dim 128 alone 3.2, 6.0, 6.1, 5.5, 6.7; windows of 128 to 8,192 keys 9-12.
    Of FlashAttention-3's paper, cuDNN and FlashAttention-2, which are fitted to it, 2; FlashAttention-3, of which only
    backward over forward is taken from there (within 6 %), 7.
    Left out: dropout, ragged batches, splits of the keys over SMs, head dims that are no multiple of 8.

    Raises SimError where the GPU has no constants of this kernel or does not compute in its number format.
    """
    assert 0.0 < attention.work_frac <= 1.0, f"{attention.name}: work_frac {attention.work_frac}"
    shape, constants = shape_of(attention), constants_of(gpu, attention.kernel)
    device, back = device_of(gpu, attention.format), attention.is_backward
    alone_s = products_s(shape, constants, device, is_backward=back)
    compute_s = lone_launch_s(alone_s, constants.long_frac) if burst else alone_s / constants.in_run_frac
    return float(launched_s(compute_s, shape, constants, device, is_backward=back))


def constants_of(gpu: Gpu, kernel: AttentionKernel) -> AttentionConstants:
    """Constants of a kernel on a GPU. Raises SimError, naming those that the GPU has, where it has none."""
    constants = gpu.attention.get(kernel)
    if constants is None:
        allowed = ", ".join(gpu.attention)
        message = f"no constants of this attention kernel (got {kernel!r}, allowed {allowed})"
        raise SimError(Problem(message, path=f"{gpu.name}: attention"))
    return constants


def outside(attention: Attention, gpu: Gpu) -> str | None:
    """In what the kernel lies outside the shapes to which its constants were fitted, in words; None where inside."""
    constants = constants_of(gpu, attention.kernel)
    shape = shape_of(attention)
    sides = (
        ("keys", attention.kv_len, constants.range_seq_len),
        ("head dim", shape.head_dim, constants.range_head_dim),
    )
    beyond = [
        f"{value:,.0f} {side} (fitted to {low:,.0f} to {high:,.0f})"
        for side, value, (low, high) in sides
        if not low <= value <= high
    ]
    return f"{attention.name}: {' and '.join(beyond)}" if beyond else None
