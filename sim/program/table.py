"""A pipeline schedule as a table: for each pipeline rank, its compute actions in order."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from typing import Literal, Protocol

from sim.errors import SimError
from sim.registry import Registry


class Kind(StrEnum):
    """F forward, B full backward, I input gradient only, W weight gradient only."""

    F = "F"
    B = "B"
    I = "I"
    W = "W"


@dataclass(frozen=True, order=True)
class Action:
    """`2F0`: virtual stage 2, forward, micro-batch 0."""

    stage: int
    kind: Kind
    microbatch: int

    def __str__(self) -> str:
        return f"{self.stage}{self.kind}{self.microbatch}"


@dataclass(frozen=True)
class Pair:
    """`2F0&5B1`: a forward and a backward pass of different micro-batches side by side on one rank.

    They begin when the inputs of both are there, and hand on their results when both are done (F&B of arXiv 2412.19437
    section 3.2.1).
    """

    forward: Action
    backward: Action

    def __str__(self) -> str:
        return f"{self.forward}&{self.backward}"


Cell = Action | Pair

Table = tuple[tuple[Cell, ...], ...]


def actions_of(cells: Iterable[Cell]) -> Iterator[Action]:
    """The actions of cells in order; of a pair the forward pass first."""
    for cell in cells:
        match cell:
            case Pair():
                yield cell.forward
                yield cell.backward
            case Action():
                yield cell


Placement = Literal["loop", "v", "both"]
"""How chunks lie on p ranks. `loop`: stage s on rank s % p. `v`: odd chunks in reverse, so that stage p follows p - 1
on the same rank, and the first and the last of two chunks share rank 0. `both`: the model twice, stage s on rank s for
the first half of the micro-batches and on rank p - 1 - s for the others."""


def rank_of(stage: int, p: int, placement: Placement, *, is_mirrored: bool = False) -> int:
    """Pipeline rank of a virtual stage; of its second copy where `is_mirrored`.

    >>> [rank_of(stage, 3, "v") for stage in range(6)]
    [0, 1, 2, 2, 1, 0]
    """
    chunk, place = divmod(stage, p)
    return p - 1 - place if is_mirrored or (placement == "v" and chunk % 2) else place


def is_mirrored(microbatch: int, m: int, placement: Placement) -> bool:
    """Whether one of m micro-batches runs through the second copy of the model, from the last rank to the first."""
    return placement == "both" and microbatch >= m // 2


def home(action: Action, p: int, m: int, placement: Placement) -> int:
    """Pipeline rank on which an action runs.

    >>> home(Action(0, Kind.F, 0), 4, 8, "both"), home(Action(0, Kind.F, 4), 4, 8, "both")
    (0, 3)
    """
    return rank_of(action.stage, p, placement, is_mirrored=is_mirrored(action.microbatch, m, placement))


def stages_of(rank: int, p: int, v: int, placement: Placement) -> tuple[int, ...]:
    """Virtual stages of a pipeline rank, in their order.

    >>> stages_of(0, 3, 2, "v"), stages_of(3, 4, 1, "both")
    ((0, 5), (0, 3))
    """
    copies = (False, True) if placement == "both" else (False,)
    return tuple(
        stage
        for stage in range(p * v)
        if any(rank_of(stage, p, placement, is_mirrored=copy) == rank for copy in copies)
    )


def awaited(action: Action, num_stages: int) -> tuple[Action, ...]:
    """What the neighbour stage does before `action` can run, one of these: F for F, B or I for B and I."""
    mb = action.microbatch
    if action.kind is Kind.F and action.stage > 0:
        return (Action(action.stage - 1, Kind.F, mb),)
    if action.kind in (Kind.B, Kind.I) and action.stage < num_stages - 1:
        return Action(action.stage + 1, Kind.B, mb), Action(action.stage + 1, Kind.I, mb)
    return ()


@dataclass(frozen=True)
class PassTimes:
    """What one micro-batch takes on one rank, over all of its chunks, in any unit. B takes I and W together.

    pair: of a forward and a backward pass side by side; F + B where None.
    """

    forward: Fraction
    input_gradient: Fraction
    weight_gradient: Fraction
    pair: Fraction | None = None

    @property
    def backward(self) -> Fraction:
        """B."""
        return self.input_gradient + self.weight_gradient

    @property
    def forward_and_backward(self) -> Fraction:
        """F&B."""
        return self.forward + self.backward if self.pair is None else self.pair

    @property
    def total(self) -> Fraction:
        """Of the micro-batch."""
        return self.forward + self.input_gradient + self.weight_gradient


class Schedule(Protocol):
    """A pipeline schedule. p pipeline ranks, v chunks on each, m micro-batches.

    placement: where the chunks lie.
    span: what the published bubble is about: the `pipeline`'s window, from the first forward to the last backward over
    all ranks, or the longest own span of a `rank`, which zero-bubble schedules let begin and end in turn.
    """

    @property
    def placement(self) -> Placement:
        """Where the chunks lie."""
        ...

    @property
    def span(self) -> Literal["pipeline", "rank"]:
        """What the published bubble is about."""
        ...

    def refusal(self, p: int, v: int, m: int) -> str | None:
        """Why the schedule cannot run with these numbers, as the violated equation; None where it can."""
        ...

    def table(self, p: int, v: int, m: int) -> Table:
        """Actions of each pipeline rank in order."""
        ...

    def bubble_of_ideal(self, p: int, v: int, m: int, times: PassTimes) -> Fraction | None:
        """Idle time over ideal compute time for equal stages without communication; None where nothing is published.

        The ideal is m (F + I + W). The share of the span is x / (1 + x) where pairs take F + B.
        """
        ...

    def bubble_assumptions(self, p: int, v: int, m: int, times: PassTimes) -> str | None:
        """Why `bubble_of_ideal` does not hold at these numbers (such as m % p != 0); None where it does."""
        ...


SCHEDULES: Registry[Schedule] = Registry("schedule", "sim.program.schedules")


RELEASES = frozenset({Kind.B, Kind.W})
"""Kinds after which nothing that the forward pass kept is needed any more."""

_TOKEN = re.compile(r"(\d+)([FBIW])(\d+)", re.ASCII)
_TORCH_PAIR = re.compile(r"\((.*);(.*)\)OVERLAP_F_B", re.ASCII)
"""As torch.distributed.pipelining writes a pair in its CSV files: `(2F0;5B1)OVERLAP_F_B`."""

CELLS = "<stage><F, B, I or W><micro-batch> such as 0F0, or a pair of F and B such as 0F1&0B0"


def grid(table: Table, marked: Container[tuple[int, int]] = ()) -> str:
    """The table as text: one line for each rank, `0F0` for each action, `>0F0<` at the `marked` (rank, position).

    >>> print(grid(from_text("0F0 0F1 0B0 0B1"), {(0, 1)}))
    0F0 >0F1< 0B0 0B1
    """
    tokens = [
        [f">{cell}<" if (rank, position) in marked else str(cell) for position, cell in enumerate(row)]
        for rank, row in enumerate(table)
    ]
    widths = [max(len(row[position]) for row in tokens if position < len(row)) for position in range(_longest(tokens))]
    lines = [" ".join(token.ljust(width) for token, width in zip(row, widths, strict=False)) for row in tokens]
    return "\n".join(line.rstrip() for line in lines)


def _longest(rows: list[list[str]]) -> int:
    return max((len(row) for row in rows), default=0)


def from_text(text: str) -> Table:
    """The table that `grid` wrote. Empty lines and lines that start with # are left out.

    Raises SimError, naming line and token, where a token is no action.
    """
    rows = []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip() and not line.startswith("#"):
            rows.append(tuple(_cell(token, number) for token in line.split()))
    return tuple(rows)


def action_of(token: str) -> Action | None:
    """The action that a token such as `2F0` stands for; None for what is no action."""
    match = _TOKEN.fullmatch(token)
    if match is None:
        return None
    stage, kind, microbatch = match.groups()
    return Action(int(stage), Kind(kind), int(microbatch))


def cell_of(token: str) -> Cell | None:
    """The action, or the pair of F and B, that a token stands for; None for what is neither.

    >>> str(cell_of("(2F0;5B1)OVERLAP_F_B"))
    '2F0&5B1'
    """
    torch = _TORCH_PAIR.fullmatch(token)
    parts = [action_of(part) for part in (torch.groups() if torch else token.split("&"))]
    match parts:
        case [Action() as alone]:
            return alone
        case [Action(kind=Kind.F) as forward, Action(kind=Kind.B) as backward]:
            return Pair(forward, backward)
        case _:
            return None


def _cell(token: str, line: int) -> Cell:
    cell = cell_of(token)
    if cell is None:
        raise SimError(f"line {line}: no action (got {token!r}, allowed {CELLS})")
    return cell


def in_flight(table: Table) -> tuple[int, ...]:
    """Most (stage, micro-batch) pairs whose activations each rank holds at once.

    They are held from F to the end of B, or of W where the backward pass is split.

    >>> in_flight(from_text("0F0 0F1 0B0 0B1"))
    (2,)
    """
    return tuple(_most_held(row) for row in table)


def _most_held(row: tuple[Cell, ...]) -> int:
    held = most = 0
    for action in actions_of(row):
        if action.kind is Kind.F:
            held += 1
            most = max(most, held)
        elif action.kind in RELEASES:
            held -= 1
    return most
