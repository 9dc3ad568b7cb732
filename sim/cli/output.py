"""Where commands print and write."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from sim.errors import SimError

if TYPE_CHECKING:
    from rich.console import Console

STDOUT = "-"
PLAIN_WIDTH = 120


@contextmanager
def writing(path: Path | str) -> Iterator[None]:
    """A file or folder that cannot be written is the user's mistake."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise SimError(f"cannot write {path}: {error.strerror or error}") from error


def refuse_folder(folder: Path | None) -> None:
    """Raise SimError, before anything is played, where results could not be written into `folder` later."""
    if folder is None:
        return
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists() or path.is_symlink())
    if not nearest.is_dir():
        raise SimError(f"cannot write {folder}: {nearest} is no folder (allowed a new folder, or one to write over)")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise SimError(f"cannot write {folder}: {nearest} cannot be written to (allowed a folder that you may change)")


def refuse_file(target: str | None) -> None:
    """Raise SimError, before anything is played, where results could not be written to the file `target` later."""
    if target is None or target == STDOUT:
        return
    if not target or Path(target).is_dir():
        raise SimError(f"cannot write {target!r}: no name of a file (allowed a file, or {STDOUT} for stdout)")
    refuse_folder(Path(target).parent)


def json_text(value: Any) -> str:
    """The bytes of `--json`: the same for the same value, in every run."""
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


def write_json(value: Any, target: str) -> None:
    """Write `value` to the file `target`, or to stdout where it is `-`."""
    if target == STDOUT:
        sys.stdout.write(json_text(value))
        return
    with writing(target):
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        Path(target).write_text(json_text(value), encoding="utf-8")
    typer.echo(f"JSON: {target}")


def console() -> Console:
    """Where results are printed: a terminal as wide as it is, else plain text of 120 columns."""
    from rich.console import Console  # noqa: PLC0415 - --help does not pay for it

    return Console() if sys.stdout.isatty() else Console(width=PLAIN_WIDTH)


def columns(rows: Sequence[Sequence[str]], *, indent: str = "") -> str:
    """Rows as lines with aligned columns, the first row a head; a column of numbers stands to the right.

    >>> print(columns([["name", "GPUs"], ["a", "8"], ["bcdef", "1,024"]]))
    name    GPUs
    a          8
    bcdef  1,024
    """
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    is_number = [_is_numeric([row[index] for row in rows[1:]]) for index in range(len(widths))]
    lines = [
        indent
        + "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, is_number, strict=True)
        ).rstrip()
        for row in rows
    ]
    return "\n".join(lines)


def _is_numeric(cells: Sequence[str]) -> bool:
    """Whether most of the cells that say something are numbers."""
    digits = [cell[0].isdigit() for cell in cells if cell]
    return sum(digits) * 2 > len(digits)
