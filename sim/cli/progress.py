"""Progress on stderr: one line that is written over on a terminal, plain lines elsewhere."""

from __future__ import annotations

import shutil
import sys
from typing import final


@final
class Progress:
    """Counts what is done out of `total`. On a terminal its line is gone when the `with` block ends."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.done = 0
        self._is_terminal = sys.stderr.isatty()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_terminal:
            self._write("\r\x1b[K")

    def advance(self, label: str) -> None:
        """One more is done: what it was."""
        self.done += 1
        self.show(f"{self.done}/{self.total} {label}")

    def show(self, line: str) -> None:
        """Where things stand, for what has no count."""
        self._write(f"\r\x1b[K{line[: shutil.get_terminal_size().columns - 1]}" if self._is_terminal else f"{line}\n")

    def _write(self, text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()
