"""Tensor-parallel communication that is cut into chunks, each beside the product of another chunk.

Source: userbuffers of Transformer Engine (tp_comm_overlap; transformer_engine/pytorch/module/base.py, initialize_ub),
by its default methods: an all_gather before a product goes around in as many chunks as there are ranks
(ring_exchange: products of qkv and fc1 forward, input gradients of proj and fc2), a product's output is scattered chunk
by chunk (pipeline: proj and fc2 forward). The input gradients of qkv and fc1 and their weight gradients have
communication beside them in bulk (`sim.program.passes`). torch's asynchronous tensor parallelism is alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from sim.cost.kernels import Kernel
from sim.program.pieces import Exchange, Linear, Piece, Pointwise


@dataclass(frozen=True)
class Gathered:
    """A product whose input is gathered, or backward its output's gradient, and what casts that."""

    exchange: Exchange
    casts: tuple[Pointwise, ...]
    linear: Linear

    def forward(self) -> Iterator[tuple[Kernel, ...]]:
        """Kernels of each chunk of the forward pass; the first is the rank's own."""
        count = self.exchange.gather_chunks
        return iter([(_rows(self.linear, count).forward(),)] * count)

    def backward(self) -> Iterator[tuple[Kernel, ...]]:
        """Kernels of each chunk of the input gradient."""
        count = self.exchange.gather_chunks
        casts = [replace(cast, backward_bytes=cast.backward_bytes / count).backward() for cast in self.casts]
        return iter([(*casts, _rows(self.linear, count).input_gradient())] * count)


@dataclass(frozen=True)
class Scattered:
    """A product whose partial sums are reduced and scattered."""

    linear: Linear
    exchange: Exchange

    def forward(self) -> Iterator[tuple[Kernel, ...]]:
        """Kernels of each chunk."""
        count = self.exchange.scatter_chunks
        return iter([(_rows(self.linear, count).forward(),)] * count)


Step = Piece | Gathered | Scattered


def forward_steps(pieces: Sequence[Piece]) -> Iterator[Step]:
    """The pieces of a forward pass, those that run in chunks as one."""
    position = 0
    while position < len(pieces):
        step = _gathered_forward(pieces, position) or _scattered(pieces, position)
        if step is None:
            yield pieces[position]
            position += 1
        else:
            found, position = step
            yield found


def backward_step(reverse: Sequence[Piece], position: int) -> tuple[Gathered, int] | None:
    """What begins at `position` of a backward pass, last piece first, if it runs in chunks, and where it ends."""
    exchange = reverse[position]
    if not isinstance(exchange, Exchange) or exchange.backward != "all_gather" or exchange.gather_chunks == 1:
        return None
    casts: list[Pointwise] = []
    for end, piece in enumerate(reverse[position + 1 :], position + 2):
        match piece:
            case Pointwise(cause="cast"):
                casts.append(piece)
            case Linear():
                return Gathered(exchange, tuple(casts), piece), end
            case _:
                return None
    return None


def _gathered_forward(pieces: Sequence[Piece], position: int) -> tuple[Gathered, int] | None:
    match pieces[position : position + 2]:
        case [Exchange(forward="all_gather") as exchange, Linear() as linear] if exchange.gather_chunks > 1:
            return Gathered(exchange, (), linear), position + 2
        case _:
            return None


def _scattered(pieces: Sequence[Piece], position: int) -> tuple[Scattered, int] | None:
    """Between a product and its exchange may stand what only runs in the backward pass."""
    linear = pieces[position]
    if not isinstance(linear, Linear):
        return None
    for end, piece in enumerate(pieces[position + 1 :], position + 2):
        match piece:
            case Pointwise(forward_bytes=0):
                continue
            case Exchange(forward="reduce_scatter") if piece.scatter_chunks > 1:
                return Scattered(linear, piece), end
            case _:
                return None
    return None


def _rows(linear: Linear, count: int) -> Linear:
    """The product of one of `count` equal chunks of its rows."""
    assert linear.m % count == 0, f"{linear.name}: {count} chunks of {linear.m} rows"
    return replace(linear, m=linear.m // count)
