"""From the pieces of a layer to operations: its forward pass, and the backward pass derived from the same list."""

from __future__ import annotations

from collections.abc import Sequence

from sim.cost.kernels import Kernel
from sim.program.operations import BlockBuilder, Collective
from sim.program.pieces import Core, Exchange, Linear, Part, Piece, Pointwise, flat
from sim.spec.training import Module


class PassBuilder:
    """Adds passes to a block. Kernels with no communication between them become one compute operation, across layers
    too, until `flush` says that something may be observed in between.

    delays: weight gradients run after the start of the next exchange over ep, which does not wait for them (MLP(W)
    behind MLP(B) in figure 4 of arXiv 2412.19437).
    """

    def __init__(self, builder: BlockBuilder, *, delays: bool = False) -> None:
        self.builder = builder
        self._delays = delays
        self._kernels: list[Kernel] = []
        self._delayed: list[Kernel] = []
        self._label = ""

    def add(self, label: str, *kernels: Kernel) -> None:
        """Kernels of one label; `recompute` is the label of those that run again."""
        if label != self._label:
            self.flush()
            self._label = label
        self._kernels += kernels

    def add_weights(self, *kernels: Kernel) -> None:
        """Weight gradients, which nothing in the pass waits for."""
        if self._delays:
            self._delayed += kernels
        else:
            self.add(BACKWARD, *kernels)

    def settle(self) -> None:
        """Run the weight gradients that were delayed."""
        if self._delayed:
            self.add(BACKWARD, *self._delayed)
            self._delayed = []

    def flush(self) -> None:
        """End the compute operation that is being collected."""
        if self._kernels:
            self.builder.compute(self._label, tuple(self._kernels), is_recompute=self._label == RECOMPUTE)
            self._kernels = []

    def start(self, exchange: Exchange, op: str) -> int:
        """Start communication of what was computed so far; an all_gather in the backward pass repeats the forward's."""
        self.flush()
        nbytes = exchange.forward_nbytes if op == exchange.forward else exchange.nbytes
        return self.builder.communicate(Collective(exchange.kind, op, exchange.kind, nbytes))

    def wait(self, operation: int) -> None:
        """What follows waits for `operation`."""
        self.flush()
        self.builder.wait(operation)

    def exchange(self, exchange: Exchange, op: str) -> None:
        """Communicate, and wait for it."""
        started = self.start(exchange, op)
        if exchange.kind == "ep":
            self.settle()
        self.wait(started)


FORWARD = "forward"
BACKWARD = "backward"
RECOMPUTE = "recompute"


def forward_pass(run: PassBuilder, pieces: Sequence[Piece], label: str = FORWARD) -> None:
    """Forward pass of `pieces`; each communication is waited for."""
    for piece in pieces:
        match piece:
            case Linear():
                run.add(label, piece.forward())
            case Pointwise():
                if piece.forward_bytes:
                    run.add(label, piece.forward())
            case Core():
                run.add(label, *piece.forward)
            case Part():
                forward_pass(run, piece.pieces, label)
            case Exchange(forward=None):
                pass
            case Exchange(forward=op):
                assert op is not None
                run.exchange(piece, op)


def backward_pass(
    run: PassBuilder,
    pieces: Sequence[Piece],
    *,
    overlaps: bool,
    recomputes: frozenset[Module] = frozenset(),
    is_split: bool = False,
) -> None:
    """Backward pass of `pieces`, last piece first.

    overlaps: where a product follows communication in the forward pass (column-parallel), the input is gathered again
    beside the input-gradient product, and the input's gradient is reduced beside the weight-gradient product.
    recomputes: parts whose forward pass runs again first.  is_split: whether the weight gradients of products are left
    for `weight_gradients`.
    """
    reverse = list(reversed(pieces))
    position = 0
    while position < len(reverse):
        piece = reverse[position]
        before = reverse[position + 1] if position + 1 < len(reverse) else None
        position += 1
        match piece, before:
            case Linear(), Exchange() if before.backward is not None and before.forward != "all_to_all":
                _column_parallel(run, piece, before, overlaps=overlaps, is_split=is_split)
                position += 1
            case Linear(), _:
                run.add(BACKWARD, piece.input_gradient())
                run.add_weights(*([] if is_split else piece.weight_gradient()))
            case Pointwise(), _:
                if piece.backward_bytes:
                    run.add(BACKWARD, piece.backward())
            case Core(), _:
                run.add(BACKWARD, *piece.backward)
            case Part(), _:
                left = _start_part(run, piece, before, recomputes)
                backward_pass(run, piece.pieces, overlaps=overlaps, recomputes=left, is_split=is_split)
            case Exchange(), _:
                if piece.backward is not None:
                    run.exchange(piece, piece.backward)


def _start_part(run: PassBuilder, part: Part, before: Piece | None, recomputes: frozenset[Module]) -> frozenset[Module]:
    """What comes before a part's backward pass: what was gathered for it (keys and values) is gathered again, and its
    forward pass runs again where it is recomputed. Returns what is left to recompute inside."""
    if isinstance(before, Exchange) and before.regathers:
        run.exchange(before, "all_gather")
    if part.module not in recomputes:
        return recomputes
    forward_pass(run, part.pieces, RECOMPUTE)
    return frozenset()


def _column_parallel(run: PassBuilder, linear: Linear, exchange: Exchange, *, overlaps: bool, is_split: bool) -> None:
    """Gradients of a product whose input was gathered (or copied) for it: what is sent runs beside what is computed."""
    assert exchange.backward is not None
    if is_split:
        run.add(BACKWARD, linear.input_gradient())
        run.exchange(exchange, exchange.backward)
        return
    gather = run.start(exchange, "all_gather") if exchange.regathers else None
    if not overlaps:
        if gather is not None:
            run.wait(gather)
        run.add(BACKWARD, linear.input_gradient(), *linear.weight_gradient())
        run.exchange(exchange, exchange.backward)
        return
    run.add(BACKWARD, linear.input_gradient())
    reduce = run.start(exchange, exchange.backward)
    if gather is not None:
        run.wait(gather)
    run.add(BACKWARD, *linear.weight_gradient())
    run.wait(reduce)


def weight_gradients(run: PassBuilder, pieces: Sequence[Piece]) -> None:
    """Weight gradients of the products in `pieces`, last one first: what a split backward pass leaves for later.

    Where sequence parallelism kept a part of a product's input, it is gathered again. Gradients of a norm's weight and
    of the embedding stay with the kernels of the backward pass, which give them beside the input's gradient.
    """
    reverse = list(reversed(list(flat(pieces))))
    for piece, before in zip(reverse, [*reverse[1:], None], strict=True):
        if isinstance(piece, Linear):
            if isinstance(before, Exchange) and before.regathers:
                run.exchange(before, "all_gather")
            run.add(BACKWARD, *piece.weight_gradient())
