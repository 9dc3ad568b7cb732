"""Ranges of values in a `sweep:`, in place of a list."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any

from pydantic import Field, model_validator

from sim.errors import SimError
from sim.spec.mistakes import validated
from sim.spec.quantity import Spec
from sim.spec.source import Node

_WITH_UNIT = re.compile(r"\s*([0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?)\s*([^\s0-9.]\S*)\s*", re.ASCII)
_SLACK = 1e-9
_MANY = 1e15
"""Steps beyond which nobody counts: a tiny step may ask for infinitely many."""


class Range(Spec):
    """Values from `from` up to `to`, which is one of them where the steps reach it.

    step: what each value is more than the one before; 1 where neither is given.  times: how many times the one before.
    Values with a unit (`100 Gbit/s`) have the same one in `from`, `to` and `step`.
    """

    first: int | float | str = Field(alias="from")
    last: int | float | str = Field(alias="to")
    step: int | float | str | None = None
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
            raise ValueError(f"from is out of range (got {self.first}, with times allowed above 0)")
        if _number(self.last) < _number(self.first):
            raise ValueError(f"empty (got from {self.first} to {self.last}, allowed to >= from)")
        return self

    def num_values(self) -> int:
        """How many values the range has. The last one may miss `to` by rounding."""
        first, last = _number(self.first), _number(self.last)
        steps = (
            math.log(last / first) / math.log(self.times)
            if self.times is not None
            else (last - first) / _number(1 if self.step is None else self.step)
        )
        return math.floor(min(steps * (1 + _SLACK) + _SLACK, _MANY)) + 1

    def values(self) -> list[int | float | str]:
        """The values, in rising order; whole numbers where all that is given is whole.

        >>> Range(**{"from": 1, "to": 8, "times": 2.0}).values(), Range(**{"from": 2, "to": 4}).values()
        ([1, 2, 4, 8], [2, 3, 4])
        >>> Range(**{"from": "100 GB/s", "to": "250 GB/s", "step": "50 GB/s"}).values()
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


def _parts(value: Any) -> tuple[float, str]:
    if not isinstance(value, str):
        return value, ""
    found = _WITH_UNIT.fullmatch(value)
    if found is None:
        raise ValueError(f"no number (got {value!r}, allowed such as 4 or '100 Gbit/s')")
    return float(found[1]), found[2]


def _number(value: Any) -> float:
    return _parts(value)[0]


def _unit(value: Any) -> str:
    return _parts(value)[1]
