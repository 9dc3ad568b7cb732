"""How far a simulated step may be from a real one: quantiles of the errors on comparable measured steps."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import sim
from sim.spec.layout import num_ranks
from sim.spec.scenario import Scenario
from sim.validation.published import read_cells

if TYPE_CHECKING:
    from sim.validation.scoreboard import Scoreboard

RESIDUALS_FILE = Path(sim.__file__).resolve().parent / "catalog" / "runs" / "residuals.csv"
COLUMNS = ("case_id", "source", "stack", "gpu", "kind", "num_gpus", "ratio")

COVERAGE = 0.8
"""Share of real steps that an interval is to hold."""

MIN_ROWS = 12
"""Comparable rows below which the next, wider circle is asked. The 10 % quantile of fewer is their smallest."""

SIZE_FACTOR = 8.0
"""Runs on up to this many times more or fewer GPUs are of like size."""

STRETCH = (1.0, 1.0, 1.25, 1.5, 2.0)
"""By circle: how much wider than the errors of its rows the interval is. Estimated: errors of one stack on one GPU say
less about another one, and there are too few of either to learn by how much."""


@dataclass(frozen=True)
class Residual:
    """A measured step. gpu: its family (`h100`).  ratio: measured over predicted."""

    case_id: str
    source: str
    stack: str
    gpu: str
    kind: str
    num_gpus: int
    ratio: float


@dataclass(frozen=True)
class Interval:
    """Between `low_frac` and `high_frac` times the simulated step lie 80 % of comparable measured ones.

    num_rows: those, `like` says what they have in common.  circle: 0 for the closest, 4 for all rows there are.
    """

    low_frac: float
    high_frac: float
    num_rows: int
    like: str
    circle: int


def gpu_family(name: str) -> str:
    """The GPU without its memory and form.

    >>> gpu_family("a100-80gb-sxm"), gpu_family("gb200")
    ('a100', 'gb200')
    """
    return name.lower().split("-")[0]


def residuals_of(board: Scoreboard) -> list[Residual]:
    """Of rows of tiers A and B, without those whose model has fewer layers than the real one."""
    rows = board.headline[~board.headline["scale_proxy"].astype(bool)]
    return [
        Residual(
            case_id=str(row["case_id"]),
            source=str(row["source"]),
            stack=str(row["stack"]),
            gpu=gpu_family(str(row["gpu"])),
            kind=str(row["kind"]),
            num_gpus=int(row["num_gpus"]),
            ratio=float(row["measured_s"] / row["predicted_s"]),
        )
        for row in rows.to_dict("records")
    ]


def write_residuals(residuals: Iterable[Residual], path: Path) -> None:
    """Write them as `sim/catalog/runs/residuals.csv` has them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for each in residuals:
            writer.writerow(
                [each.case_id, each.source, each.stack, each.gpu, each.kind, each.num_gpus, f"{each.ratio:.4f}"]
            )


@lru_cache(maxsize=1)
def shipped_residuals() -> tuple[Residual, ...]:
    """Those of the published runs that ship with the project."""
    return tuple(
        Residual(
            cells["case_id"], cells["source"], cells["stack"], cells["gpu"], cells["kind"], int(cells["num_gpus"]),
            float(cells["ratio"]),
        )
        for _, cells in read_cells(RESIDUALS_FILE, COLUMNS)
    )  # fmt: skip


def interval_of(scenario: Scenario, residuals: Sequence[Residual] | None = None) -> Interval | None:
    """The interval around a scenario's simulated step; None where nothing comparable was ever measured."""
    kind = "dense" if scenario.model.experts is None else "moe"
    about = (scenario.stack.name, gpu_family(scenario.gpu.name), kind, num_ranks(scenario.layout))
    return interval(*about, shipped_residuals() if residuals is None else residuals)


def interval(stack: str, gpu: str, kind: str, num_gpus: int, residuals: Sequence[Residual]) -> Interval | None:
    """The interval from the closest circle of residuals that has enough of them.

    Circles: stack, GPU, kind and size; stack, GPU and kind; stack and kind; GPU and kind; kind. Ends are the quantiles
    at which the next step of the same kind falls inside with the probability `COVERAGE` (as in conformal prediction,
    arXiv 2107.07511: rank (n + 1) (1 - tail)), stretched in logarithms by `STRETCH`.
    """
    circles: tuple[tuple[str, Callable[[Residual], bool]], ...] = (
        (
            f"{kind} models with {stack} on {gpu}, of like size",
            lambda each: _is(each, kind, stack, gpu) and _like_size(each.num_gpus, num_gpus),
        ),
        (f"{kind} models with {stack} on {gpu}", lambda each: _is(each, kind, stack, gpu)),
        (f"{kind} models with {stack}", lambda each: _is(each, kind, stack, each.gpu)),
        (f"{kind} models on {gpu}", lambda each: _is(each, kind, each.stack, gpu)),
        (f"{kind} models", lambda each: each.kind == kind),
    )
    for circle, (like, belongs) in enumerate(circles):
        logs = np.array(sorted(math.log(each.ratio) for each in residuals if belongs(each)))
        if len(logs) >= MIN_ROWS:
            low, high = _ends(logs)
            stretch = STRETCH[circle]
            middle = float(np.median(logs))
            low, high = (middle + stretch * (end - middle) for end in (low, high))
            return Interval(math.exp(low), math.exp(high), len(logs), like, circle)
    return None


def _is(each: Residual, kind: str, stack: str, gpu: str) -> bool:
    return (each.kind, each.stack, each.gpu) == (kind, stack, gpu)


def _like_size(one: int, other: int) -> bool:
    return max(one, other) <= SIZE_FACTOR * min(one, other)


def _ends(logs: np.ndarray[tuple[int], np.dtype[np.float64]]) -> tuple[float, float]:
    """Lower and upper quantile of sorted values (n,), at ranks (n + 1) tail and (n + 1) (1 - tail)."""
    tail = (1 - COVERAGE) / 2
    last = len(logs) - 1
    ranks = np.clip([(last + 2) * tail - 1, (last + 2) * (1 - tail) - 1], 0, last)
    low, high = np.interp(ranks, np.arange(last + 1), logs)
    return float(low), float(high)


@dataclass(frozen=True)
class Coverage:
    """How intervals did on rows whose source was left out: share inside, and half of the median width, %."""

    num_rows: int
    covered_frac: float
    median_half_width: float


def coverage(residuals: Sequence[Residual]) -> Coverage | None:
    """Each row's interval from the residuals of all other sources, and whether the measured step lies in it."""
    inside, widths = [], []
    for source in dict.fromkeys(each.source for each in residuals):
        others = [each for each in residuals if each.source != source]
        for each in residuals:
            if each.source != source:
                continue
            found = interval(each.stack, each.gpu, each.kind, each.num_gpus, others)
            if found is not None:
                inside.append(found.low_frac <= each.ratio <= found.high_frac)
                widths.append(50 * (found.high_frac - found.low_frac))
    if not inside:
        return None
    return Coverage(len(inside), float(np.mean(inside)), float(np.median(widths)))
