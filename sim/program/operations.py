"""What a rank does: compute, collectives and sends, and the block of them that one schedule action stands for."""

from __future__ import annotations

from dataclasses import dataclass, field

from sim.cost.collectives.spread import Spread
from sim.cost.kernels import Kernel

COMPUTE = "compute"
PP_FORWARD = "pp_forward"
PP_BACKWARD = "pp_backward"
COLLECTIVE_KINDS = ("tp", "cp", "ep", "etp", "dp_reduce", "dp_replica", "dp_gather", "embedding", "grad_norm")
STREAMS = (COMPUTE, *COLLECTIVE_KINDS, PP_FORWARD, PP_BACKWARD)
"""One stream of a rank for compute and one for each kind of communication; the pipeline has one for each direction."""


@dataclass(frozen=True)
class Compute:
    """Kernels that run one after the other with no communication between them."""

    label: str
    kernels: tuple[Kernel, ...]
    is_recompute: bool = False

    @property
    def stream(self) -> str:
        """The stream that it occupies."""
        return COMPUTE


@dataclass(frozen=True)
class Collective:
    """One call of a collective by every member of a group. `group` is an axis of `sim.spec.layout.groups` or
    `embedding`; `nbytes` is counted as nccl-tests does (see `sim.cost.collectives.Pattern`). spread: to whom an
    all_to_all of experts sends."""

    kind: str
    op: str
    group: str
    nbytes: float
    spread: Spread | None = None

    @property
    def stream(self) -> str:
        """The stream that it occupies: the one of its kind."""
        return self.kind

    @property
    def label(self) -> str:
        """Name in traces."""
        return f"{self.kind} {self.op}"


@dataclass(frozen=True)
class Send:
    """Activations (forward) or their gradient (backward) to the neighbour in the pipeline."""

    stream: str
    nbytes: float

    kind = "pp"

    @property
    def label(self) -> str:
        """Name in traces."""
        return f"{self.stream} send"


Payload = Compute | Collective | Send


@dataclass(frozen=True)
class Operation:
    """A payload on its stream, after the operations `after` of the same block (and after its stream's predecessor)."""

    payload: Payload
    after: tuple[int, ...]


@dataclass(frozen=True)
class Block:
    """Operations of a schedule's cell, an action or a pair of them, or of the step's end, in the order in which the
    host issues them.

    entries: operations that consume what the pipeline's neighbours sent.  sends: for each action that the block stands
    for, what it sends on; None where that is nothing.
    tail: operations for which the next block waits: awaited communication that no compute follows.
    uses: (gathers, last operation that needs them) of each ZeRO-3 unit: bounds how far ahead the gathers run.
    """

    operations: tuple[Operation, ...]
    entries: tuple[int, ...]
    sends: tuple[int | None, ...]
    tail: tuple[int, ...] = ()
    uses: tuple[tuple[tuple[int, ...], int], ...] = ()


@dataclass
class BlockBuilder:
    """Collects a block in issue order: communication waits for the compute issued before it, compute (and further
    communication) for the communication that it was told to wait for."""

    operations: list[Operation] = field(default_factory=list)
    entries: list[int] = field(default_factory=list)
    tail: list[int] = field(default_factory=list)
    uses: list[tuple[tuple[int, ...], int]] = field(default_factory=list)
    _waits: list[int] = field(default_factory=list)
    _last_compute: int | None = None

    def compute(self, label: str, kernels: tuple[Kernel, ...], *, is_recompute: bool = False) -> int:
        """Append kernels; what `wait` named before is what they wait for."""
        index = self._append(Compute(label, kernels, is_recompute), tuple(self._waits))
        self._waits.clear()
        if self._last_compute is None:
            self.entries.append(index)
        self._last_compute = index
        return index

    def communicate(self, payload: Collective | Send) -> int:
        """Append communication of what was computed last. The next compute does not wait for it unless told."""
        after = list(self._waits)
        index = len(self.operations)
        if self._last_compute is not None:
            after.append(self._last_compute)
        else:
            self.entries.append(index)
        self._append(payload, tuple(after))
        return index

    def follow(self, payload: Collective, before: int) -> int:
        """Append communication of what the communication `before` left; it waits for nothing else."""
        return self._append(payload, (before,))

    def gather_ahead(self, payload: Collective) -> int:
        """Append communication that needs nothing of what this rank computes."""
        return self._append(payload, ())

    def wait(self, index: int) -> None:
        """The next operation waits for operation `index`."""
        self._waits.append(index)

    def last(self) -> int:
        """The last compute operation."""
        assert self._last_compute is not None, "the block computes nothing"
        return self._last_compute

    def _append(self, payload: Payload, after: tuple[int, ...]) -> int:
        self.operations.append(Operation(payload, tuple(sorted(set(after)))))
        return len(self.operations) - 1

    def build(self) -> Block:
        """The finished block."""
        tail = (*self._waits, *self.tail)
        sends = [index for index, each in enumerate(self.operations) if isinstance(each.payload, Send)]
        send = sends[-1] if sends else None
        return Block(tuple(self.operations), tuple(self.entries), (send,), tail, tuple(self.uses))
