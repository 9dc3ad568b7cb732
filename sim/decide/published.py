"""Published pretraining runs: size, tokens and GPU-hours, each with its source; and the hours that we predict."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median

import sim
from sim.decide import recovery
from sim.decide.answer import Column, Grid, Value
from sim.results.result import Result
from sim.simulation import load, simulate
from sim.spec.parameters import parameters

CATALOG = Path(sim.__file__).resolve().parent / "catalog"
FILE, SCENARIOS = CATALOG / "pretraining_runs.csv", CATALOG / "runs_in_hours"


@dataclass(frozen=True)
class PublishedRun:
    """One line of the file.

    parameters: that a token meets.  bound: `exact`, or `upper` where the hours hold more work than the one pass.
    phases: (scenario of a step, tokens of the phase), empty where the set-up is not known well enough.
    failures_per_1000_node_days: of that cluster, or of the most similar one that published a rate.
    storage_bytes_per_s: to which checkpoints go, of the run or of another one as the file says.
    """

    model: str
    parameters: float
    tokens: float
    gpu_hours: float
    gpu: str
    bound: str
    source: str
    phases: tuple[tuple[str, float], ...]
    failures_per_1000_node_days: float | None
    storage_bytes_per_s: float | None


@dataclass(frozen=True)
class Predicted:
    """GPU-hours of a run: steps of each phase, over the share of the time that trains."""

    run: PublishedRun
    steps: tuple[Result, ...]
    training_share: float
    gpu_hours: float

    @property
    def error(self) -> float:
        """Of the published hours; negative where we predict fewer."""
        return self.gpu_hours / self.run.gpu_hours - 1


@cache
def published_runs() -> tuple[PublishedRun, ...]:
    """Every line of the file."""
    with FILE.open(encoding="utf-8", newline="") as file:
        return tuple(_run(row) for row in csv.DictReader(file))


def _run(row: dict[str, str]) -> PublishedRun:
    rate = row["failures_per_1000_node_days"]
    return PublishedRun(
        model=row["model"],
        parameters=float(row["parameters"]),
        tokens=float(row["tokens"]),
        gpu_hours=float(row["gpu_hours"]),
        gpu=row["gpu"],
        bound=row["bound"],
        source=row["source"],
        phases=tuple((name, float(tokens)) for name, tokens in (part.split(":") for part in row["phases"].split())),
        failures_per_1000_node_days=float(rate) if rate else None,
        storage_bytes_per_s=float(row["storage_bytes_per_s"]) if row["storage_bytes_per_s"] else None,
    )


def predicted(run: PublishedRun) -> Predicted:
    """The hours of a run with known phases: simulated steps, and the best checkpoint interval under its failures.

    A checkpoint has 14 bytes a parameter and a restart takes 10 minutes (`sim.decide.recovery` has their sources).
    Left out: growth of the batch, experiments before the run, evaluation, waiting for machines.
    """
    assert run.phases, run.model
    assert run.failures_per_1000_node_days is not None
    assert run.storage_bytes_per_s is not None
    train_s, results = 0.0, []
    for name, tokens in run.phases:
        result = simulate(load(SCENARIOS / f"{name}.yaml"))
        training = result.scenario.training
        train_s += result.step_time_s * tokens / (training.global_batch * training.seq_len)
        results.append(result)
    first = results[0]
    nodes = first.num_gpus // first.scenario.topology.build().gpus_per_node
    mtbf = recovery.mtbf_s(run.failures_per_1000_node_days, nodes)
    cost_s = parameters(first.scenario.model).total * recovery.BYTES_PER_PARAMETER / run.storage_bytes_per_s
    interval = recovery.best_interval_s(mtbf, cost_s)
    share = recovery.training_share(interval, mtbf, cost_s, recovery.RESTART_S)
    return Predicted(run, tuple(results), share, train_s / share / 3600 * first.num_gpus)


def predictions() -> Iterator[Predicted]:
    """Of every run whose phases are known, one after the other."""
    return (predicted(run) for run in published_runs() if run.phases)


def hours_table(found: list[Predicted]) -> Grid:
    """Published and predicted hours, and their errors; the note has the median and the worst."""
    errors = [abs(each.error) for each in found]
    rows: tuple[tuple[Value, ...], ...] = tuple(
        (each.run.model, each.run.gpu_hours, each.gpu_hours, each.error, each.steps[0].step_time_s,
         each.steps[0].mfu_causal, each.training_share, _assumed(each), each.run.source)
        for each in found
    )  # fmt: skip
    return Grid(
        "published_hours",
        "GPU-hours of published runs",
        (
            Column("run"),
            Column("published", "h"),
            Column("predicted", "h"),
            Column("error", "share"),
            Column("step", "s"),
            Column("MFU, causal", "share"),
            Column("time that trains", "share"),
            Column("set-up"),
            Column("source"),
        ),
        rows,
        note=f"Absolute error: median {median(errors):.1%}, worst {max(errors):.1%} of {len(errors)} runs.",
    )


def _assumed(each: Predicted) -> str:
    """The question of the scenario of its first phase, which says what is known and what is assumed."""
    name = each.run.phases[0][0]
    return (SCENARIOS / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
