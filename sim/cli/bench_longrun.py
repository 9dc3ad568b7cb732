"""`sim bench longrun`: do the accounts of random long runs add up."""

from __future__ import annotations

import os
import time
from typing import Annotated

import typer

from sim.cli.group import EXIT_MISTAKE

EXAMPLES = ("sim bench longrun --runs 2000", "sim bench longrun --runs 100000")


def command(
    runs: Annotated[int, typer.Option("--runs", min=1, help="Random runs to play.")] = 2000,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the first; the others follow it.")] = 0,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Processes; without it, one for each core.")
    ] = None,
) -> None:
    """Draw long runs of every kind and check their accounts.

    Every second of every node has one cause, every step that is done is kept or lost, once. Failures strike as often as
    checkpoints, so that they meet writes, restarts and each other. Exit code 2 says that something does not add up.
    """
    from sim.longrun.drawn import audit  # noqa: PLC0415 - see sim.cli.run

    start_s = time.perf_counter()
    found = audit(runs, seed, workers or os.cpu_count() or 1)
    passed_s = time.perf_counter() - start_s
    steps = f"{found.lost_steps:,} steps lost, {found.replayed_steps:,} done again"
    typer.echo(
        f"{found.runs:,} runs, {found.failures:,} failures, {found.restarts:,} restarts, {steps}: "
        f"{len(found.violations):,} violations ({passed_s:.1f} s)"
    )
    for number, problems in found.violations.items():
        typer.echo(f"seed {number}: {'; '.join(problems)}")
    if found.violations:
        raise typer.Exit(EXIT_MISTAKE)
