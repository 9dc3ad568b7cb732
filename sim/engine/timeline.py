"""What happened, and when: start and end of every operation that was played."""

from __future__ import annotations

from dataclasses import dataclass

from sim.program.program import Program
from sim.spec.topology import Floats


@dataclass(frozen=True)
class Timeline:
    """Start and end of every slot of the program, s. Slots of one node share them: a collective runs from the moment
    at which its last member has arrived.

    release_s: moment at which the host has issued each node that it may hold up, 0 for the others: (slots,).
    kernel_s: times of each payload's kernels, in their order; they add up to the time of its slots.
    moved: progress of each flow, integrated over its rates.
    step_s: end of the last operation.
    played: how many events stood for the operations.
    settlements: how often rates of flows that share links were settled.
    """

    program: Program
    start_s: Floats
    end_s: Floats
    release_s: Floats
    kernel_s: tuple[tuple[float, ...], ...]
    moved: Floats
    step_s: float
    played: int
    settlements: int
