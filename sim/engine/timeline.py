"""What happened, and when: start and end of every operation that was played."""

from __future__ import annotations

from dataclasses import dataclass

from sim.program.program import Program
from sim.spec.topology import Floats


@dataclass(frozen=True)
class Timeline:
    """Start and end of every slot of the program, s. Slots of one node share them: a collective runs from the moment
    at which its last member has arrived.

    ready_s: when the slot's own rank had done everything that the operation comes after (its arrival).
    kernel_s: time of each payload's kernels; kernel durations of payload i add up to those of its slots.
    moved: progress of each flow, integrated over its rates.
    step_s: end of the last operation.
    """

    program: Program
    start_s: Floats
    end_s: Floats
    kernel_s: tuple[tuple[float, ...], ...]
    moved: Floats
    step_s: float
    settlements: int
