"""What all commands have in common: the user's mistakes are lines on stderr and exit code 2, never a traceback."""

from __future__ import annotations

import sys
from typing import Any

import typer
import typer.core

from sim.errors import SimError

EXIT_MISTAKE = 2


class Group(typer.core.TyperGroup):
    """The commands. What is not a SimError is our own mistake and keeps its traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; flush here, where a reader that has gone away (`| head`) still ends quietly."""
        try:
            value = super().invoke(ctx)
        except SimError as error:
            for problem in error.problems:
                typer.echo(str(problem), err=True)
            raise typer.Exit(EXIT_MISTAKE) from error
        sys.stdout.flush()
        return value
