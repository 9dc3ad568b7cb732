"""One thing to measure, and the sections that they come in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from sim.profile.device import Device, Sustained

Size = Literal["full", "quick", "tiny"]
"""How much is measured; tiny is what a CPU can do."""

Cell = str | int | float


@dataclass(frozen=True)
class Case:
    """One row: what it is, and how it is measured.

    key: the columns that tell it from others of its file.  nbytes: of device memory that it needs at once.
    measure: the measured columns; what it allocates is its own and goes with it.
    """

    key: Mapping[str, Cell]
    nbytes: float
    measure: Callable[[Device], Mapping[str, Cell]]

    @property
    def label(self) -> str:
        """What it is, in one line."""
        return " ".join(str(value) for value in self.key.values())


@dataclass(frozen=True)
class Section:
    """The rows of one file: NAME__GPU__TORCH.csv.

    columns: those of the key, then the measured ones.  cases: what to measure on a device.
    """

    name: str
    key_columns: tuple[str, ...]
    measured_columns: tuple[str, ...]
    cases: Callable[[Device, Size], Iterator[Case]] = field(repr=False)

    @property
    def columns(self) -> tuple[str, ...]:
        """The head of the file."""
        return (*self.key_columns, *self.measured_columns)


def latency(time_s: float) -> Mapping[str, Cell]:
    """The column of most public sets, ms."""
    return {"latency_ms": milliseconds(time_s)}


SUSTAINED_COLUMNS = ("sustained_ms", "clock_mhz", "power_w")


def settled(found: Sustained) -> Mapping[str, Cell]:
    """Columns of what ran until the clock had settled; clock and power are empty where they are not known."""
    return {
        "sustained_ms": milliseconds(found.time_s),
        "clock_mhz": "" if found.clock_mhz is None else round(found.clock_mhz),
        "power_w": "" if found.power_w is None else round(found.power_w, 1),
    }


SUSTAINED_S: Mapping[Size, float] = {"full": 25.0, "quick": 20.0, "tiny": 0.05}
"""How long a kernel runs until clock and power have settled and been read."""


def milliseconds(time_s: float) -> float:
    """Six significant digits, finer than an event's clock."""
    return float(f"{time_s * 1e3:.6g}")
