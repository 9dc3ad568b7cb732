"""A pipeline schedule as a table: for each pipeline rank, its compute actions in order."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from typing import Protocol

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


Table = tuple[tuple[Action, ...], ...]


class Schedule(Protocol):
    """A pipeline schedule. p pipeline ranks, v chunks on each (virtual stage s on rank s % p), m micro-batches."""

    def refusal(self, p: int, v: int, m: int) -> str | None:
        """Why the schedule cannot run with these numbers, as the violated equation; None where it can."""
        ...

    def table(self, p: int, v: int, m: int) -> Table:
        """Actions of each pipeline rank in order."""
        ...

    def bubble_of_ideal(self, p: int, v: int, m: int) -> Fraction | None:
        """Idle time over ideal compute time for equal stages without communication; None where nothing is published.

        The share of the step is x / (1 + x).
        """
        ...

    def bubble_assumptions(self, p: int, v: int, m: int) -> str | None:
        """Why `bubble_of_ideal` does not hold at these numbers (such as m % p != 0); None where it does."""
        ...


SCHEDULES: Registry[Schedule] = Registry("schedule", "sim.program.schedules")
