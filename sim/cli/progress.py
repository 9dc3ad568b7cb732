"""Progress on stderr: one line that is written over on a terminal, plain lines elsewhere."""

from __future__ import annotations

import shutil
import sys
import time
from typing import final


@final
class Progress:
    """Counts what is done out of `total`. On a terminal its line is gone when the `with` block ends.

    has_eta: whether a line also says how long the rest will take, by the mean of what was done.
    """

    def __init__(self, total: int, *, has_eta: bool = False) -> None:
        self.total = total
        self.done = 0
        self._has_eta = has_eta
        self._start_s = time.monotonic()
        self._is_terminal = sys.stderr.isatty()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_terminal:
            self._write("\r\x1b[K")

    def advance(self, label: str) -> None:
        """One more is done: what it was."""
        self.done += 1
        self.show(f"{self.done}/{self.total} {self._eta()}{label}")

    def show(self, line: str) -> None:
        """Where things stand, for what has no count."""
        self._write(f"\r\x1b[K{line[: shutil.get_terminal_size().columns - 1]}" if self._is_terminal else f"{line}\n")

    def _eta(self) -> str:
        """Time that is left, where it is shown."""
        if not self._has_eta or self.done == self.total:
            return ""
        left_s = (time.monotonic() - self._start_s) / self.done * (self.total - self.done)
        return f"(ETA {duration(left_s)}) "

    def _write(self, text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()


def duration(seconds: float) -> str:
    """Roughly so much time, in the largest units that say something.

    >>> [duration(seconds) for seconds in (0.4, 59.2, 61.0, 7325.0)]
    ['0.4 s', '59 s', '1 min 1 s', '2 h 2 min']
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
