"""Published pretraining runs: size, tokens and GPU-hours, each with its source."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import sim

FILE = Path(sim.__file__).resolve().parent / "catalog" / "pretraining_runs.csv"


@dataclass(frozen=True)
class PublishedRun:
    """One line of the file. bound: `exact`, or `upper` where the hours hold more work than the one pass over the
    tokens.

    parameters: that a token meets.
    """

    model: str
    parameters: float
    tokens: float
    gpu_hours: float
    gpu: str
    bound: str
    source: str


@cache
def published_runs() -> tuple[PublishedRun, ...]:
    """Every line of the file."""
    with FILE.open(encoding="utf-8", newline="") as file:
        return tuple(
            PublishedRun(
                row["model"],
                float(row["parameters"]),
                float(row["tokens"]),
                float(row["gpu_hours"]),
                row["gpu"],
                row["bound"],
                row["source"],
            )
            for row in csv.DictReader(file)
        )
