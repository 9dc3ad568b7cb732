"""How long fused attention takes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sim.spec.gpu import BYTES_PER_VALUE, Gpu, NumberFormat, peak_in

BACKWARD_PRODUCTS = 2.5
"""Q K^T again, dV, dP, dQ and dK: five products for the forward pass's two (FlashAttention, arXiv 2205.14135)."""
FULL_RATE_HEAD_DIM = 128


@dataclass(frozen=True)
class Attention:
    """Fused attention of `batch` sequences: `q_len` queries by `kv_len` keys, `heads` query heads on this rank.

    work_frac: part of the q_len x kv_len scores that is computed (1/2 under a causal mask over a whole sequence).
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
    cause: str = "attention"


def attention_flop(attention: Attention) -> float:
    """Floating-point operations of both products (five in the backward pass) over the unmasked scores, FLOP.

    >>> attention_flop(Attention("core", 1, 4, 4, 2, 2, 8, 8, 0.5, False, "bf16"))
    512.0
    """
    scores = attention.batch * attention.heads * attention.q_len * attention.kv_len * attention.work_frac
    forward = 2.0 * scores * (attention.qk_head_dim + attention.v_head_dim)
    return forward * (BACKWARD_PRODUCTS if attention.is_backward else 1.0)


def attention_bytes(attention: Attention) -> float:
    """HBM traffic, bytes: Q, K, V read and O written once; the backward pass also reads dO and writes dQ, dK, dV.

    Q (batch, q_len, heads, qk_head_dim), O the same with v_head_dim, K and V (batch, kv_len, kv_heads, ...).
    """
    width = attention.qk_head_dim + attention.v_head_dim
    rows = attention.q_len * attention.heads + attention.kv_len * attention.kv_heads
    forward = attention.batch * rows * width * BYTES_PER_VALUE[attention.format]
    return forward * (2.0 if attention.is_backward else 1.0)


def head_dim_share(head_dim: float, head_dim_64_frac: float) -> float:
    """Share of the rate at head dim 128 that is left at `head_dim`, 0..1.

    A score costs one exponential whatever the head dim, so narrow heads run slower (FlashAttention-3, arXiv
    2407.08608, section 3.1): `head_dim_64_frac` for each halving below 128. Wider heads gain nothing in cuDNN 9 (the
    paper's figures: 509 TFLOP/s at 256 against 539 at 128, causal, 16k).

    >>> head_dim_share(64, 0.7), head_dim_share(256, 0.7)
    (0.7, 1.0)
    """
    return math.pow(head_dim_64_frac, max(0.0, math.log2(FULL_RATE_HEAD_DIM / head_dim)))


def attention_s(attention: Attention, gpu: Gpu) -> float:
    """Time of one kernel that has the GPU to itself, s.

    launch + max(FLOP / (peak x flop_frac x s / (s + s_half) x head_dim_share), bytes / (HBM x hbm_frac)), where
    s = kv_len x work_frac is the mean number of keys that a query sees: loading a block of queries and writing its
    output costs as much as s_half more keys. Counting seen keys lets one s_half serve causal and full attention.

    Source: shape of the rate from FlashAttention-2 and -3 (arXiv 2307.08691, 2407.08608); constants from the sources
    of each GPU: cuDNN on Hopper and Blackwell (what Transformer Engine runs), FlashAttention-2 on A100. No share for
    the sustained clock is applied: the Hopper figures were taken at a fixed clock of 1830 MHz, and the A100's share
    is in its flop_frac.
    Error: against the 33 cuDNN rows of the FlashAttention-3 paper (head dims 64 and 128, 512 to 16,384 tokens) mean
    absolute 5.6 % forward (causal 3.1, full 8.1), 1.5 % backward (full only); against FlashAttention-3 on H100, causal,
    head dim 128 (aiconfigurator, no part of the fit), launches beyond 1 ms: 8.0 %, bias +0.1. Left out: dropout, ragged
    batches, too few heads to fill the GPU, head dims that are no multiple of 8.
    """
    assert 0.0 < attention.work_frac <= 1.0, f"{attention.name}: work_frac {attention.work_frac}"
    constants = gpu.attention.backward if attention.is_backward else gpu.attention.forward
    head_dim = (attention.qk_head_dim + attention.v_head_dim) / 2
    share = head_dim_share(head_dim, constants.head_dim_64_frac)
    rate = peak_in(gpu, attention.format) * constants.flop_frac * share
    seen_keys = attention.kv_len * attention.work_frac
    compute_s = attention_flop(attention) * (1.0 + constants.s_half / seen_keys) / rate
    memory_s = attention_bytes(attention) / (gpu.hbm_bytes_per_s * gpu.memory_bound.hbm_frac)
    duration_s: float = gpu.attention.launch_s + max(compute_s, memory_s)
    return duration_s
