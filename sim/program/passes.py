"""From the pieces of a layer to operations: its forward pass, and the backward pass derived from the same list."""

from __future__ import annotations

from collections.abc import Sequence

from sim.cost.kernels import Kernel, Stream
from sim.program.operations import BlockBuilder, Collective
from sim.program.pieces import Core, Exchange, Linear, Piece, Pointwise


class _Run:
    """Kernels since the last communication; they become one compute operation."""

    def __init__(self, builder: BlockBuilder, label: str, *, is_recompute: bool = False) -> None:
        self.builder = builder
        self.label = label
        self.is_recompute = is_recompute
        self.kernels: list[Kernel] = []

    def add(self, *kernels: Kernel) -> None:
        self.kernels += kernels

    def flush(self) -> None:
        if self.kernels:
            self.builder.compute(self.label, tuple(self.kernels), is_recompute=self.is_recompute)
            self.kernels = []

    def start(self, exchange: Exchange, op: str) -> int:
        """Start communication of what was computed so far."""
        self.flush()
        return self.builder.communicate(Collective(exchange.kind, op, exchange.kind, exchange.nbytes))

    def exchange(self, exchange: Exchange, op: str) -> None:
        """Communicate, and wait for it."""
        self.builder.wait(self.start(exchange, op))


def forward_pass(builder: BlockBuilder, pieces: Sequence[Piece], label: str, *, is_recompute: bool = False) -> None:
    """Forward pass of `pieces`; each communication is waited for."""
    run = _Run(builder, label, is_recompute=is_recompute)
    for piece in pieces:
        match piece:
            case Linear():
                run.add(piece.forward())
            case Pointwise():
                run.add(Stream(f"{piece.name} forward", piece.forward_bytes, piece.cause))
            case Core():
                run.add(piece.forward)
            case Exchange(forward=None):
                pass
            case Exchange(forward=op):
                assert op is not None
                run.exchange(piece, op)
    run.flush()


def backward_pass(
    builder: BlockBuilder, pieces: Sequence[Piece], label: str, *, overlaps: bool, recomputes_core: bool
) -> None:
    """Backward pass of `pieces`, last piece first.

    overlaps: where a product follows communication in the forward pass (column-parallel), the input is gathered again
    beside the input-gradient product, and the input's gradient is reduced beside the weight-gradient product.
    """
    run = _Run(builder, label)
    reverse = list(reversed(pieces))
    position = 0
    while position < len(reverse):
        piece = reverse[position]
        before = reverse[position + 1] if position + 1 < len(reverse) else None
        consumed = 1
        match piece, before:
            case Linear(), Exchange() if before.backward is not None and before.forward != "all_to_all":
                _column_parallel(run, piece, before, overlaps=overlaps)
                consumed = 2
            case Linear(), _:
                run.add(piece.input_gradient(), piece.weight_gradient())
            case Pointwise(), _:
                run.add(Stream(f"{piece.name} backward", piece.backward_bytes, piece.cause))
            case Core(), _:
                if isinstance(before, Exchange) and before.regathers:
                    run.exchange(before, "all_gather")
                if recomputes_core:
                    _recompute_core(run, piece)
                run.add(piece.backward)
            case Exchange(backward=None), _:
                pass
            case Exchange(), _:
                assert piece.backward is not None
                run.exchange(piece, piece.backward)
        position += consumed
    run.flush()


def _column_parallel(run: _Run, linear: Linear, exchange: Exchange, *, overlaps: bool) -> None:
    """Gradients of a product whose input was gathered (or copied) for it: what is sent runs beside what is computed."""
    assert exchange.backward is not None
    gather = run.start(exchange, "all_gather") if exchange.regathers else None
    if gather is not None and not overlaps:
        run.builder.wait(gather)
        gather = None
    run.add(linear.input_gradient())
    if not overlaps:
        run.add(linear.weight_gradient())
        run.exchange(exchange, exchange.backward)
        return
    reduce = run.start(exchange, exchange.backward)
    if gather is not None:
        run.builder.wait(gather)
    run.add(linear.weight_gradient())
    run.flush()
    run.builder.wait(reduce)


def _recompute_core(run: _Run, core: Core) -> None:
    run.flush()
    run.builder.compute(f"{run.label} recompute", (core.forward,), is_recompute=True)
