"""Writes the table of errors in docs/calibration.md from the sources of the GPU files.

python tests/calibrate/error_table.py
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from sim.calibrate.shipped import entries

DOCUMENT = Path(__file__).parents[2] / "docs" / "calibration.md"
BEGIN, END = "<!-- errors: begin -->\n", "<!-- errors: end -->"
HEAD = "| GPU | constants | rows | error, % | bias, % | out of sample: error / bias, % |\n|---|---|---|---|---|---|\n"
STATED = re.compile(
    r"fitted to (?P<data>.*); mean absolute error / bias of the sum (?P<mape>[\d.]+) / (?P<bias>[+-][\d.]+) % "
    r"\(n = (?P<n>[\d,]+)\)(?:; out of sample: (?P<unseen>.*))?"
)


def stated() -> Iterator[tuple[str, str, re.Match[str]]]:
    """Every error that a GPU's file states: (GPU, key of the constants, figures)."""
    for name, entry in entries().items():
        for key, said in entry.sources.items():
            match = STATED.fullmatch(said)
            if match is not None:
                yield name, key, match


def table() -> str:
    """A line for each group of constants; where a group and its parts state the same figures, the first of them."""
    lines: dict[tuple[str, ...], str] = {}
    for name, key, match in stated():
        cells = (match["n"], match["mape"], match["bias"], match["unseen"] or "")
        lines.setdefault((name, key.split(".")[0], *cells), f"| {name} | `{key}` | {' | '.join(cells)} |\n")
    return HEAD + "".join(lines.values())


if __name__ == "__main__":
    before, rest = DOCUMENT.read_text(encoding="utf-8").split(BEGIN)
    DOCUMENT.write_text(before + BEGIN + table() + END + rest.split(END)[1], encoding="utf-8")
