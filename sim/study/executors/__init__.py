"""Where the points of a sweep are played: in this process, in processes beside it, or on a Dask cluster."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from sim.study.play import Outcome, Task

LIVES = 3
"""How often a task is tried whose worker dies; then it is told as crashed."""


class Executor(Protocol):
    """Plays tasks somewhere."""

    @property
    def num_workers(self) -> int:
        """How many tasks are played at once."""
        ...

    def play(self, tasks: Iterator[Task]) -> Iterator[Outcome]:
        """Take tasks as there is room for them, and give their outcomes as they come, in any order.

        Raises SimError where the place cannot be reached, or is lost.
        """
        ...
