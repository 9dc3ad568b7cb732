"""`sim schema`: what an editor needs to check scenario files while they are written."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from sim.cli.output import STDOUT, json_text, refuse_file, writing

EXAMPLES = ("sim schema --out scenario.schema.json",)


def command(
    out: Annotated[
        str, typer.Option("--out", metavar="FILE", help="Where it goes; `-` is stdout.", show_default=True)
    ] = STDOUT,
) -> None:
    """Print the JSON Schema of scenario files, for editors.

    An editor with a YAML language server checks a file whose first line is `# yaml-language-server: $schema=FILE`.
    """
    from sim.spec.load import schema  # noqa: PLC0415 - see sim.cli.run

    refuse_file(out)
    text = json_text(schema())
    if out == STDOUT:
        sys.stdout.write(text)
        return
    with writing(out):
        Path(out).write_text(text, encoding="utf-8")
    typer.echo(f"schema: {out}")
