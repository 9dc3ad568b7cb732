"""Ranges of values in a `sweep:`, in place of a list."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any

from pydantic import AfterValidator, Field, WithJsonSchema, model_validator

from sim.errors import SimError
from sim.spec.mistakes import shown, validated
from sim.spec.quantity import Spec
from sim.spec.source import Node

_WITH_UNIT = re.compile(r"\s*([0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?)\s*([^\s0-9.]\S*)\s*", re.ASCII)
_SLACK = 1e-9
_MANY = 1e15
"""Steps beyond which nobody counts: a tiny step may ask for infinitely many."""


def _parts(value: Any) -> tuple[float, str]:
    """A number and its unit, which is empty for a bare one. Raises ValueError for anything else."""
    found = _WITH_UNIT.fullmatch(value) if isinstance(value, str) else None
    if found is not None:
        return float(found[1]), found[2]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"got {shown(value)}, allowed such as 4, 0.5 or '100 Gbit/s'")
    return value, ""


def _checked(value: Any) -> Any:
    _parts(value)
    return value


Value = Annotated[Any, AfterValidator(_checked), WithJsonSchema({"type": ["number", "string"]})]


class Range(Spec):
    """Values from `first` up to `last`, which is one of them where the steps reach it.

    step: what each value is more than the one before; 1 where neither is given.  times: how many times the one before.
    Values with a unit (`100 Gbit/s`) have the same one in `first`, `last` and `step`.
    """

    first: Value
    last: Value
    step: Value | None = None
    times: Annotated[float, Field(gt=1)] | None = None

    @model_validator(mode="after")
    def _one_way_on(self) -> Range:
        if self.step is not None and self.times is not None:
            raise ValueError("step and times exclude each other")
        units = {_unit(value) for value in (self.first, self.last, self.step) if value is not None}
        if len(units) > 1:
            raise ValueError(f"different units ({', '.join(sorted(map(repr, units)))})")
        if self.step is None and self.times is None and units != {""}:
            raise ValueError("missing step or times (values with a unit need one)")
        if self.step is not None and _number(self.step) <= 0:
            raise ValueError(f"step is out of range (got {self.step}, allowed above 0)")
        if self.times is not None and _number(self.first) <= 0:
            raise ValueError(f"first is out of range (got {self.first}, with times allowed above 0)")
        if _number(self.last) < _number(self.first):
            raise ValueError(f"empty (got first {self.first}, last {self.last}, allowed last >= first)")
        return self

    def num_values(self) -> int:
        """How many values the range has. The last one may miss `last` by rounding."""
        first, last = _number(self.first), _number(self.last)
        steps = (
            math.log(last / first) / math.log(self.times)
            if self.times is not None
            else (last - first) / _number(1 if self.step is None else self.step)
        )
        return math.floor(min(steps * (1 + _SLACK) + _SLACK, _MANY)) + 1

    def values(self) -> list[int | float | str]:
        """The values, in rising order; whole numbers where all that is given is whole.

        >>> Range(first=1, last=8, times=2).values(), Range(first=2, last=4).values()
        ([1, 2, 4, 8], [2, 3, 4])
        >>> Range(first="100 GB/s", last="250 GB/s", step="50 GB/s").values()
        ['100 GB/s', '150 GB/s', '200 GB/s', '250 GB/s']
        """
        first, unit = _number(self.first), _unit(self.first)
        step = _number(1 if self.step is None else self.step)
        count = range(self.num_values())
        found = [first * self.times**i for i in count] if self.times is not None else [first + i * step for i in count]
        whole = all(float(value).is_integer() for value in (first, step, self.times or 1))
        if unit:
            return [f"{value:.12g} {unit}" for value in found]
        is_int = whole and isinstance(self.first, int) and not isinstance(self.step, float)
        return [int(value) if is_int else float(f"{value:.12g}") for value in found]


def spread(node: Node, path: str, limit: int) -> Node:
    """The list of values that the range in `node` stands for, each at its place.

    Raises SimError for a range that is malformed, or of more than `limit` values.
    """
    found = validated(Range, node, path)
    if found.num_values() > limit:
        message = f"too many values (got {found.num_values()}, allowed up to {limit})"
        raise SimError(node.place.problem(path, message))
    return Node(tuple(Node(value, node.place) for value in found.values()), node.place)


def _number(value: Any) -> float:
    return _parts(value)[0]


def _unit(value: Any) -> str:
    return _parts(value)[1]
