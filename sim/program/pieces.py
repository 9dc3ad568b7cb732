"""What a layer is made of, in the order of its forward pass. Forward and backward are derived from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sim.cost.kernels import Attention, Gemm
from sim.spec.gpu import NumberFormat

CollectiveOp = Literal["all_reduce", "all_gather", "reduce_scatter", "all_to_all"]


@dataclass(frozen=True)
class Linear:
    """`count` products (m, k) x (k, n) with weights (k, n); a bias is part of the epilogue."""

    name: str
    m: int
    n: int
    k: int
    format: NumberFormat
    grad_bytes: int
    count: int = 1
    cause: str = "gemm"

    def forward(self) -> Gemm:
        """(m, k) x (k, n)."""
        return Gemm(f"{self.name} forward", self.m, self.n, self.k, self.format, self.count, cause=self.cause)

    def input_gradient(self) -> Gemm:
        """(m, n) x (n, k): the gradient of the input."""
        return Gemm(f"{self.name} dgrad", self.m, self.k, self.n, self.format, self.count, cause=self.cause)

    def weight_gradient(self) -> Gemm:
        """(n, m) x (m, k), added to the gradient buffer: it is read and written in its own format instead of the
        16-bit output that the product would write alone."""
        extra_bytes = (2 * self.grad_bytes - 2) * self.n * self.k * self.count
        return Gemm(f"{self.name} wgrad", self.n, self.k, self.m, self.format, self.count, extra_bytes, self.cause)


@dataclass(frozen=True)
class Pointwise:
    """A kernel bound by memory: bytes that its forward and its backward pass read and write."""

    name: str
    forward_bytes: float
    backward_bytes: float
    cause: str = "memory_bound"


@dataclass(frozen=True)
class Core:
    """Fused attention; selective recomputation runs its forward pass again."""

    forward: Attention
    backward: Attention


@dataclass(frozen=True)
class Exchange:
    """Communication between two pieces: `forward` on activations, `backward` on their gradient, either may be none.

    regathers: the backward pass gathers the forward input again, because only a shard of it was kept (Megatron's
    sequence parallelism, arXiv 2205.05198 section 4.2.2; keys and values under context parallelism).
    """

    kind: str
    nbytes: float
    forward: CollectiveOp | None
    backward: CollectiveOp | None
    regathers: bool = False


Piece = Linear | Pointwise | Core | Exchange
