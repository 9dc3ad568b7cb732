"""The published runs that ship with the project."""

from __future__ import annotations

from pathlib import Path

import sim
from sim.validation.published import PublishedRun, read_published

RUNS_FILE = Path(sim.__file__).resolve().parent / "catalog" / "runs" / "published.csv"


def shipped_runs() -> list[PublishedRun]:
    """All rows of tiers A and B with their sources."""
    return read_published(RUNS_FILE)
