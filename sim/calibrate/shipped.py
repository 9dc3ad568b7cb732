"""The measurements that ship with the catalogue, and all of its GPUs fitted to them again."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sim
from sim import units
from sim.calibrate.calibration import Calibration, Data, calibrated
from sim.calibrate.carried import carried
from sim.calibrate.entry import Entry, dimension_of, leaves, read_entry
from sim.calibrate.kind import KINDS
from sim.calibrate.measured import measured
from sim.spec import source
from sim.spec.find import find, names

FOLDER = Path(sim.__file__).resolve().parent / "catalog" / "measurements"
FIRST = ("memory_bound", "gemm", "attention")
"""Kinds whose constants the model of another kind has in it: the fused MoE kernel moves bytes as well, and sustained
kernels run at a share of the rate of a burst."""

ROUNDS = 4
TOLERANCE = 0.01
"""By which share a number may differ when it is fitted again: three digits are kept, and solvers differ in the last."""


@dataclass(frozen=True)
class Refit:
    """GPUs of the catalogue after fits: all entries, and what was fitted, by GPU and kind."""

    entries: Mapping[str, Entry]
    calibrations: Mapping[str, Mapping[str, Calibration]]


@dataclass(frozen=True)
class Shipped:
    """A file of measurements of one GPU: its path, its kind, and how it is cited."""

    path: Path
    kind: str
    gpu: str
    source: str


def shipped() -> list[Shipped]:
    """Files that ship, sorted by name: KIND__GPU__WHO.csv.gz, each with its source in `sources.yaml`."""
    cited = source.plain(source.read(FOLDER / "sources.yaml"))
    found = []
    for path in sorted(FOLDER.glob("*.csv.gz")):
        name = path.name.removesuffix(".csv.gz")
        kind, gpu, _ = name.split("__")
        found.append(Shipped(path, kind, gpu, cited[name]["source"]))
    return found


def data_of(gpu: str, kind: str) -> list[Data]:
    """What ships on one GPU and one kind."""
    files = [each for each in shipped() if (each.gpu, each.kind) == (gpu, kind)]
    return [Data(rows, each.source) for each in files for rows in measured(each.path, KINDS[kind])]


def entries() -> dict[str, Entry]:
    """All GPUs of the catalogue."""
    return {name: read_entry(find("gpus", name)) for name in names("gpus")}


def fitted_again(
    gpus: Mapping[str, Entry],
    chosen: Collection[str],
    advance: Callable[[str], None] = lambda _: None,
    *,
    rounds: int = ROUNDS,
) -> Refit:
    """The chosen GPUs fitted to all that ships on them; then every number that is carried over, of all GPUs.

    A fit holds what its rows do not tell, which may be carried over from another fit: all are repeated until no number
    changes, `rounds` times at most. `advance` hears of each fit when it is done.
    """
    current = carried(gpus)
    calibrations: dict[str, dict[str, Calibration]] = {}
    for _ in range(rounds):
        before = current
        for kind, name in ((kind, name) for kind in in_order(KINDS) for name in sorted(chosen)):
            data = data_of(name, kind)
            if data:
                entry, calibrations.setdefault(name, {})[kind] = calibrated(current[name], KINDS[kind], data)
                current = carried({**current, name: entry})
                advance(f"{name}: {kind}")
        if not any(differences(before[name], current[name]) for name in current):
            break
    return Refit(current, calibrations)


def in_order(kinds: Mapping[str, object]) -> list[str]:
    """Names of kinds, those first whose constants others need."""
    return [*(name for name in FIRST if name in kinds), *(name for name in kinds if name not in FIRST)]


def differences(before: Entry, after: Entry) -> list[str]:
    """Numbers that differ by more than the tolerance, a line for each."""
    old, new = (dict(leaves(entry.tree)) for entry in (before, after))
    return [
        f"{before.name}: {key}: {old.get(key, 'missing')} in the file, {new.get(key, 'missing')} when fitted again"
        for key in sorted({*old, *new})
        if not key.startswith(("sources.", "estimated")) and not _alike(key, old.get(key), new.get(key))
    ]


def _alike(key: str, old: Any, new: Any) -> bool:
    if old is None or new is None or isinstance(old, list) != isinstance(new, list):
        return False
    if isinstance(old, list):
        return len(old) == len(new) and all(_alike(key, *pair) for pair in zip(old, new, strict=True))
    dimension = dimension_of(key)
    if dimension is not None:
        old, new = units.parse(old, dimension), units.parse(new, dimension)
    if isinstance(old, str):
        return bool(old == new)
    return bool(abs(new - old) <= TOLERANCE * abs(old))
