"""What a layer is made of, in the order of its forward pass. Forward and backward are derived from it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from sim.cost.collectives.spread import Spread
from sim.cost.kernels import Gemm, GroupedGemm, Kernel, Stream
from sim.cost.stream import StreamKind
from sim.program.operations import Collective
from sim.spec.gpu import NumberFormat
from sim.spec.training import Module

OUTPUT_BYTES = 2
"""Of a value that a product writes, whatever its operands' format."""

CollectiveOp = Literal["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "ring_shift"]


@dataclass(frozen=True)
class Linear:
    """A product (m, k) x (k, n) with weights (k, n), or one for each expert in one launch; a bias is part of the
    epilogue.

    groups: (rows, how many experts have so many), whose rows add up to m; None for one product.

    accumulates: the weight gradient is added to a buffer of `grad_bytes` a value by the product itself (`fused`), or by
    a kernel after it (`separate`); with None the product's own output is the gradient.
    """

    name: str
    m: int
    n: int
    k: int
    format: NumberFormat
    grad_bytes: int
    accumulates: Literal["fused", "separate"] | None
    groups: tuple[tuple[int, int], ...] | None = None
    cause: str = "gemm"

    @property
    def num_experts(self) -> int:
        """Products of one launch."""
        return 1 if self.groups is None else sum(count for _, count in self.groups)

    @property
    def weights(self) -> int:
        """Of all experts."""
        return self.n * self.k * self.num_experts

    def forward(self) -> Gemm | GroupedGemm:
        """(m, k) x (k, n)."""
        return self._rows("forward", self.n, self.k)

    def input_gradient(self) -> Gemm | GroupedGemm:
        """(m, n) x (n, k): the gradient of the input."""
        return self._rows("dgrad", self.k, self.n)

    def _rows(self, what: str, n: int, k: int) -> Gemm | GroupedGemm:
        name = f"{self.name} {what}"
        if self.groups is None:
            return Gemm(name, self.m, n, k, self.format, cause=self.cause)
        return GroupedGemm(name, self.groups, n, k, self.format, cause=self.cause)

    def weight_gradient(self) -> Iterator[Kernel]:
        """(n, m) x (m, k), and what adds it to the gradient buffer. Where the product does, it reads and writes the
        buffer in its own format instead of the 16-bit output that it would write alone."""
        extra_bytes = (2 * self.grad_bytes - OUTPUT_BYTES) * self.weights if self.accumulates == "fused" else 0
        name = f"{self.name} wgrad"
        if self.groups is None:
            yield Gemm(name, self.n, self.k, self.m, self.format, extra_bytes=extra_bytes, cause=self.cause)
        else:
            yield GroupedGemm(name, self.groups, self.n, self.k, self.format, True, extra_bytes, self.cause)
        if self.accumulates == "separate":
            nbytes = (OUTPUT_BYTES + 2 * self.grad_bytes) * self.weights
            yield Stream(f"{self.name} gradient accumulation", nbytes, launches=self.num_experts)


@dataclass(frozen=True)
class Pointwise:
    """Kernels bound by memory: bytes that their forward and their backward pass read and write, and in how many
    launches. row_bytes: see `sim.cost.stream.Stream`."""

    name: str
    forward_bytes: float
    backward_bytes: float
    cause: str = "memory_bound"
    kind: StreamKind = "elementwise"
    forward_launches: int = 1
    backward_launches: int = 1
    row_bytes: float = 0.0

    def forward(self) -> Stream:
        """Of the forward pass."""
        return self._stream("forward", self.forward_bytes, self.forward_launches)

    def backward(self) -> Stream:
        """Of the backward pass."""
        return self._stream("backward", self.backward_bytes, self.backward_launches)

    def _stream(self, direction: str, nbytes: float, launches: int) -> Stream:
        return Stream(f"{self.name} {direction}", nbytes, self.cause, self.kind, launches, self.row_bytes)


@dataclass(frozen=True)
class Core:
    """Attention itself: one fused kernel each way, or products with a softmax between them."""

    forward: tuple[Kernel, ...]
    backward: tuple[Kernel, ...]


@dataclass(frozen=True)
class Exchange:
    """Communication between two pieces: `forward` on activations, `backward` on their gradient, either may be none.

    nbytes: of the activations in 16 bits, or of their gradient.  cast_nbytes: of activations that were cast before.
    gradient_cast_nbytes: of their gradient, cast.  spread: to whom an all_to_all of experts sends forward; backward,
    gradients go the other way.
    regathers: the backward pass gathers the forward input again, because only a shard of it was kept (Megatron's
    sequence parallelism, arXiv 2205.05198 section 4.2.2; keys and values under context parallelism).
    group: axis whose ranks take part; that of the kind where it is none.
    gather_chunks, scatter_chunks: into how many chunks an all_gather before a product, and a reduce_scatter after one,
    are cut (`sim.program.chunks`).
    """

    kind: str
    nbytes: float
    forward: CollectiveOp | None
    backward: CollectiveOp | None
    regathers: bool = False
    cast_nbytes: float | None = None
    group: str | None = None
    gather_chunks: int = 1
    scatter_chunks: int = 1
    gradient_cast_nbytes: float | None = None
    spread: Spread | None = None

    def forward_call(self, op: str) -> Collective:
        """Of the activations, as they are sent."""
        nbytes = self.nbytes if self.cast_nbytes is None else self.cast_nbytes
        return Collective(self.kind, op, self.group or self.kind, nbytes, self.spread)

    def backward_call(self, op: str) -> Collective:
        """Of their gradient, as it is sent."""
        nbytes = self.nbytes if self.gradient_cast_nbytes is None else self.gradient_cast_nbytes
        back = None if self.spread is None else self.spread.back
        return Collective(self.kind, op, self.group or self.kind, nbytes, back)


@dataclass(frozen=True)
class Beside:
    """Pieces that are computed while an exchange is in flight, in both passes."""

    exchange: Exchange
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class Ring:
    """Attention in steps, between which keys and values go around the ranks of `group` (ring attention, arXiv
    2310.01889); backward also their gradients.

    block_nbytes: keys and values of one rank, or their gradients.  forward, backward: kernels of each step, of none
    where the mask leaves nothing to do.  sums: what a backward step adds to gradients of keys and values that arrived
    meanwhile.
    """

    group: str
    block_nbytes: float
    forward: tuple[tuple[Kernel, ...], ...]
    backward: tuple[tuple[Kernel, ...], ...]
    sums: tuple[tuple[Kernel, ...], ...]

    @property
    def buffer_nbytes(self) -> float:
        """Backward: a block of keys and values and one of gradients that leave, and as much that arrives."""
        return 4 * self.block_nbytes


@dataclass(frozen=True)
class Part:
    """Pieces that selective recomputation runs again together: a `sim.spec.training.Module`."""

    module: Module
    pieces: tuple[Piece, ...]


Piece = Linear | Pointwise | Core | Ring | Exchange | Part | Beside


def flat(pieces: Iterable[Piece]) -> Iterator[Linear | Pointwise | Core | Ring | Exchange]:
    """The pieces with those inside of parts and beside exchanges, in their order."""
    for piece in pieces:
        if isinstance(piece, Part):
            yield from flat(piece.pieces)
        elif isinstance(piece, Beside):
            yield piece.exchange
            yield from flat(piece.pieces)
        else:
            yield piece
