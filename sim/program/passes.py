"""From the pieces of a layer to operations: its forward pass, and the backward pass derived from the same list."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from sim.cost.kernels import Kernel
from sim.program.chunks import Gathered, Scattered, backward_step, forward_steps
from sim.program.operations import BlockBuilder, Collective
from sim.program.pieces import Beside, Core, Exchange, Linear, Part, Piece, Pointwise, Ring, flat
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

    def start(self, call: Collective) -> int:
        """Start communication of what was computed so far."""
        self.flush()
        return self.builder.communicate(call)

    def shift(self, kind: str, group: str, nbytes: float) -> int:
        """Start to pass `nbytes` of what was computed, and has arrived so far, to the next rank of a group."""
        self.flush()
        return self.builder.communicate(Collective(kind, "ring_shift", group, nbytes))

    def wait(self, operation: int) -> None:
        """What follows waits for `operation`."""
        self.flush()
        self.builder.wait(operation)

    def exchange(self, call: Collective) -> None:
        """Communicate, and wait for it."""
        started = self.start(call)
        if call.kind == "ep":
            self.settle()
        self.wait(started)


FORWARD = "forward"
BACKWARD = "backward"
RECOMPUTE = "recompute"


def forward_pass(run: PassBuilder, pieces: Sequence[Piece], label: str = FORWARD) -> None:
    """Forward pass of `pieces`; each communication is waited for, but for what is cut into chunks."""
    for piece in forward_steps(pieces):
        match piece:
            case Gathered():
                _around(run, piece.exchange, piece.exchange.forward_call("all_gather").nbytes, piece.forward(), label)
            case Scattered():
                _pipelined(run, piece, label)
            case Linear() | Pointwise() | Core():
                run.add(label, *_forward_kernels(piece))
            case Ring():
                _ring_forward(run, piece, label)
            case Part():
                forward_pass(run, piece.pieces, label)
            case Exchange(forward=None):
                pass
            case Exchange(forward=op):
                assert op is not None
                run.exchange(piece.forward_call(op))
            case Beside(exchange=exchange):
                assert exchange.forward is not None
                sent = run.start(exchange.forward_call(exchange.forward))
                forward_pass(run, piece.pieces, label)
                run.wait(sent)


def _forward_kernels(piece: Linear | Pointwise | Core) -> Iterator[Kernel]:
    """Kernels of the forward pass of a piece that communicates nothing."""
    match piece:
        case Linear():
            yield piece.forward()
        case Pointwise():
            if piece.forward_bytes:
                yield piece.forward()
        case Core():
            yield from piece.forward


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
        if (chunked := backward_step(reverse, position)) is not None:
            step, position = chunked
            _around(run, step.exchange, step.exchange.nbytes, step.backward(), BACKWARD)
            run.add(BACKWARD, *([] if is_split else step.linear.weight_gradient()))
            continue
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
                run.add(BACKWARD, *_gradients(piece, is_split=is_split))
            case ((Core() | Ring()), _):
                _attention_backward(run, piece, before)
            case Part(), _:
                left = _start_part(run, piece, before, recomputes)
                backward_pass(run, piece.pieces, overlaps=overlaps, recomputes=left, is_split=is_split)
            case Beside(), _:
                sent = _started(run, piece.exchange)
                backward_pass(run, piece.pieces, overlaps=overlaps, recomputes=recomputes, is_split=is_split)
                run.wait(sent)
            case Exchange(), _:
                _exchange_gradient(run, piece)


def _started(run: PassBuilder, exchange: Exchange) -> int:
    """The exchange of gradients, started."""
    assert exchange.backward is not None
    return run.start(exchange.backward_call(exchange.backward))


def _exchange_gradient(run: PassBuilder, exchange: Exchange) -> None:
    """The exchange of gradients, where there is one, waited for."""
    if exchange.backward is not None:
        run.exchange(exchange.backward_call(exchange.backward))


def _gradients(piece: Linear | Pointwise, *, is_split: bool) -> Iterator[Kernel]:
    """Kernels of the backward pass of a piece that communicates nothing."""
    match piece:
        case Linear():
            yield piece.input_gradient()
            if not is_split:
                yield from piece.weight_gradient()
        case Pointwise():
            if piece.backward_bytes:
                yield piece.backward()


def _attention_backward(run: PassBuilder, piece: Core | Ring, before: Piece | None) -> None:
    """Keys and values that were gathered inside the module are gathered again."""
    if isinstance(piece, Ring):
        _ring_backward(run, piece)
        return
    if isinstance(before, Exchange) and before.regathers:
        run.exchange(before.forward_call("all_gather"))
    run.add(BACKWARD, *piece.backward)


def _around(
    run: PassBuilder, exchange: Exchange, nbytes: float, chunks: Iterable[tuple[Kernel, ...]], label: str
) -> None:
    """Chunks of an all_gather of `nbytes` go around the group, each beside the product of the one before."""
    last = exchange.gather_chunks - 1
    for number, kernels in enumerate(chunks):
        sent = run.shift(exchange.kind, exchange.kind, nbytes / exchange.gather_chunks) if number < last else None
        run.add(label, *kernels)
        if sent is not None:
            run.wait(sent)


def _pipelined(run: PassBuilder, step: Scattered, label: str) -> None:
    """Each chunk of the output is reduced and scattered beside the product of the next one."""
    exchange = step.exchange
    call = Collective(exchange.kind, "reduce_scatter", exchange.kind, exchange.nbytes / exchange.scatter_chunks)
    sent = []
    for kernels in step.forward():
        run.add(label, *kernels)
        run.flush()
        sent.append(run.builder.communicate(call))
    run.wait(sent[-1])


def _ring_forward(run: PassBuilder, ring: Ring, label: str) -> None:
    """A block goes to the next rank while attention to it is computed. What is received takes the place of the block
    before: a rank holds two, and passes one on when it is done with the one that was there."""
    for step, kernels in enumerate(ring.forward):
        is_last = step == len(ring.forward) - 1
        sent = None if is_last else run.shift("cp", ring.group, ring.block_nbytes)
        run.add(label, *kernels)
        if sent is not None:
            run.wait(sent)


def _ring_backward(run: PassBuilder, ring: Ring) -> None:
    """The blocks of the forward pass from the last to the first. The first step passes on keys and values alone, the
    last one gradients alone, those between both: as much of either as the forward pass (Transformer Engine's
    AttnFuncWithCPAndKVP2P)."""
    last = len(ring.backward) - 1
    for step, (kernels, sums) in enumerate(zip(ring.backward, ring.sums, strict=True)):
        sent = run.shift("cp", ring.group, ring.block_nbytes * (1 if step in (0, last) else 2))
        run.add(BACKWARD, *kernels)
        run.wait(sent)
        run.add(BACKWARD, *sums)


def _start_part(run: PassBuilder, part: Part, before: Piece | None, recomputes: frozenset[Module]) -> frozenset[Module]:
    """What comes before a part's backward pass: what was gathered for it (keys and values) is gathered again, and its
    forward pass runs again where it is recomputed. Returns what is left to recompute inside."""
    if isinstance(before, Exchange) and before.regathers:
        run.exchange(before.forward_call("all_gather"))
    if part.module not in recomputes:
        return recomputes
    forward_pass(run, part.pieces, RECOMPUTE)
    return frozenset()


def _column_parallel(run: PassBuilder, linear: Linear, exchange: Exchange, *, overlaps: bool, is_split: bool) -> None:
    """Gradients of a product whose input was gathered (or copied) for it: what is sent runs beside what is computed."""
    assert exchange.backward is not None
    if is_split:
        run.add(BACKWARD, linear.input_gradient())
        run.exchange(exchange.backward_call(exchange.backward))
        return
    gather = run.start(exchange.forward_call("all_gather")) if exchange.regathers else None
    if not overlaps:
        if gather is not None:
            run.wait(gather)
        run.add(BACKWARD, linear.input_gradient(), *linear.weight_gradient())
        run.exchange(exchange.backward_call(exchange.backward))
        return
    run.add(BACKWARD, linear.input_gradient())
    reduce = run.start(exchange.backward_call(exchange.backward))
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
                run.exchange(before.forward_call("all_gather"))
            run.add(BACKWARD, *piece.weight_gradient())
