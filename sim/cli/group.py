"""What all commands have in common: the user's mistakes are lines on stderr and exit code 2, never a traceback."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Sequence
from typing import Any

import typer
import typer.core

from sim.errors import SimError

EXIT_MISTAKE = 2
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""What a stdout that goes to a file says when no more can be written."""


def epilog(examples: Sequence[str]) -> str:
    """The examples below a command's help."""
    return "\b\nExamples:\n" + "\n".join(f"  {example}" for example in examples)


class Command(typer.core.TyperCommand):
    """A command whose `--json` may stand without a file: then it prints."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """The arguments, with `-` for the file that `--json` lacks."""
        filled = []
        for word, following in zip(args, [*args[1:], "--"], strict=False):
            filled += [word, "-"] if word == "--json" and following.startswith("--") else [word]
        rest: list[str] = super().parse_args(ctx, filled)
        return rest


class Group(typer.core.TyperGroup):
    """The commands. What is not a SimError is our own mistake and keeps its traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; flush here, where a reader that has gone away (`| head`) still ends quietly."""
        _print_anything()
        try:
            value = super().invoke(ctx)
            sys.stdout.flush()
        except SimError as error:
            for problem in error.problems:
                typer.echo(str(problem), err=True)
            raise typer.Exit(EXIT_MISTAKE) from error
        except OSError as error:
            if error.errno not in FULL:
                raise
            typer.echo(f"cannot write the output: {error.strerror}", err=True)
            # What is still in the buffer cannot go anywhere; Python would complain about it at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(EXIT_MISTAKE) from error
        return value


def _print_anything() -> None:
    """A character that the terminal cannot show (a name in a file under LC_ALL=C) is printed as its number."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
