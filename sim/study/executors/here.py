"""No other process: one point after the other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

from sim.study.play import Outcome, Task, play


@final
@dataclass(frozen=True)
class Here:
    """Plays each task when its turn comes."""

    num_workers: int = 1

    def play(self, tasks: Iterator[Task]) -> Iterator[Outcome]:
        """See `Executor`."""
        return map(play, tasks)
