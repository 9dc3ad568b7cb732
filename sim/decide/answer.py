"""What the planner says: an answer with its numbers, the chain of formulas behind it, and how far it moves."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

Value: TypeAlias = float | int | str | bool | None
Unit: TypeAlias = Literal["", "s", "bytes", "bytes/s", "FLOP", "tokens", "parameters", "usd", "share", "x", "nats", "h"]
"""SI, but `h` for GPU-hours and `usd` for dollars. A `share` is 0..1, `x` a factor, no unit a count or a text."""


@dataclass(frozen=True)
class Column:
    """Of a grid: its head, and the unit of its numbers."""

    head: str
    unit: Unit = ""


@dataclass(frozen=True)
class Grid:
    """A table. chosen: index of the row that the plan goes on with.  note: what a reader must know to read it."""

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Value, ...], ...]
    chosen: int | None = None
    note: str = ""

    def __post_init__(self) -> None:
        assert all(len(row) == len(self.columns) for row in self.rows), self.title


@dataclass(frozen=True)
class Step:
    """A link of the chain: a formula in symbols, with its numbers put in, what it gives, and where it is from."""

    what: str
    formula: str
    numbers: str
    value: Value
    unit: Unit
    source: str


@dataclass(frozen=True)
class Effect:
    """Sensitivity: what the result becomes when one input is changed."""

    change: str
    result: str
    low: Value
    given: Value
    high: Value
    unit: Unit


@dataclass(frozen=True)
class Answer:
    """One of the six. is_given: the file says it, and the computed answer stands beside it.

    values: the numbers that later answers and other programs use.  cautions: extrapolations, refusals, contradictions.
    """

    number: int
    question: str
    text: str
    values: Mapping[str, Value]
    grids: tuple[Grid, ...]
    steps: tuple[Step, ...]
    sensitivity: tuple[Effect, ...]
    cautions: tuple[str, ...] = ()
    is_given: bool = False

    @property
    def sources(self) -> tuple[str, ...]:
        """Of its formulas, each once."""
        return tuple(dict.fromkeys(step.source for step in self.steps))

    def to_dict(self) -> dict[str, Any]:
        """Plain values with stable keys."""
        names = [field.name for field in dataclasses.fields(self) if field.name != "values"]
        plain = {name: getattr(self, name) for name in names}
        plain = {
            name: [each if isinstance(each, str) else dataclasses.asdict(each) for each in value]
            if isinstance(value, tuple)
            else value
            for name, value in plain.items()
        }
        return dict(_finite(plain | {"values": dict(self.values), "sources": list(self.sources)}))


def _finite(value: Any) -> Any:
    """The same with null for what never happens: JSON has no infinity."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
