"""The kernels that a step is made of, by shape, and how long each takes alone."""

from __future__ import annotations

from dataclasses import dataclass

from sim.spec.gpu import Gpu, NumberFormat


@dataclass(frozen=True)
class Gemm:
    """`count` products (m, k) x (k, n) of one launch (grouped where count > 1: one for each expert).

    extra_bytes: traffic beyond reading both operands and writing the output once in `format`, such as the gradient
    buffer in fp32 that a weight-gradient product reads and writes.
    """

    name: str
    m: int
    n: int
    k: int
    format: NumberFormat
    count: int = 1
    extra_bytes: float = 0.0
    cause: str = "gemm"


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


@dataclass(frozen=True)
class Stream:
    """A kernel bound by memory: norm, activation, residual, rotary, cross-entropy, optimizer. `nbytes` read and written."""

    name: str
    nbytes: float
    cause: str = "memory_bound"


Kernel = Gemm | Attention | Stream


def duration_s(kernel: Kernel, gpu: Gpu) -> float:
    """Time of one kernel that has the GPU to itself, s."""
    raise NotImplementedError


def flop(kernel: Kernel) -> float:
    """Floating-point operations that the kernel executes (tensor-core work; 0 for a Stream)."""
    raise NotImplementedError
