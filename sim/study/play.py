"""One point of a sweep, played wherever it was sent: what goes there, and what comes back."""

from __future__ import annotations

import json
import pickle
import time
import traceback
import zlib
from dataclasses import dataclass
from typing import Any, Literal

from sim.errors import SimError
from sim.program.lower import Fidelity
from sim.simulation import simulate
from sim.spec.scenario import Scenario
from sim.study.key import constants

Status = Literal["done", "failed", "crashed"]
"""done: there is a result.  failed: the scenario cannot be played, and never will.  crashed: our own mistake, or a
machine that died: worth another try."""

_LEVEL = 1
"""Of compression: results are read back far less often than they are written."""


@dataclass(frozen=True)
class Task:
    """A scenario on its way: its key, itself pickled, and how it is to be played."""

    key: str
    scenario: bytes
    fidelity: Fidelity


@dataclass(frozen=True)
class Outcome:
    """What became of a task. seconds: that playing took.  result: packed, None without one.  played_by: `constants`."""

    key: str
    status: Status
    error: str
    seconds: float
    result: bytes | None
    played_by: str


def task(key: str, scenario: Scenario, fidelity: Fidelity) -> Task:
    """The task of playing `scenario`."""
    return Task(key, pickle.dumps(scenario, protocol=5), fidelity)


def play(sent: Task) -> Outcome:
    """Play a task. Nothing that goes wrong in one point is raised: it is told beside the points that went well."""
    start = time.perf_counter()
    status: Status = "done"
    error, packed = "", None
    try:
        scenario: Scenario = pickle.loads(sent.scenario)  # noqa: S301 - made by `task` of the same sweep
        values = simulate(scenario, sent.fidelity).to_dict()
        del values["scenario"]
        packed = pack(json.dumps(values, allow_nan=False))
    except SimError as mistake:
        status, error = "failed", reason(mistake)
    except Exception as mistake:  # noqa: BLE001 - a bug that one point meets must not cost the others
        where = traceback.extract_tb(mistake.__traceback__)[-1]
        status, error = "crashed", f"{type(mistake).__name__}: {mistake} ({where.name}, line {where.lineno})"
    return Outcome(sent.key, status, error, time.perf_counter() - start, packed, constants())


def lost(sent: Task, error: str) -> Outcome:
    """The outcome of a task whose worker died whenever it was played."""
    return Outcome(sent.key, "crashed", error, 0.0, None, constants())


def reason(error: SimError) -> str:
    """All that a SimError says, on one line."""
    return "; ".join(str(problem) for problem in error.problems)


def pack(text: str) -> bytes:
    """Text made small."""
    return zlib.compress(text.encode(), _LEVEL)


def unpacked(packed: bytes) -> dict[str, Any]:
    """The mapping whose JSON was packed. Raises ValueError for bytes that were damaged."""
    try:
        values: dict[str, Any] = json.loads(zlib.decompress(packed))
    except zlib.error as error:
        raise ValueError(str(error)) from error
    return values
