"""A scenario in the making: plain values as a file has them, and what was assumed on the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sim.validation.published import PublishedRun


class CannotSimulate(Exception):  # noqa: N818 - a reason that is listed, not a failure of ours
    """Why a row has no scenario."""


@dataclass
class Draft:
    """What is known so far of the scenario of a row. `assumed`: what the source left open, in words, in order."""

    run: PublishedRun
    values: dict[str, Any] = field(default_factory=dict)
    assumed: list[str] = field(default_factory=list)

    def put(self, path: str, value: Any) -> None:
        """Set the value at a dotted path; a mapping is laid on the one that is there."""
        *parts, last = path.split(".")
        holder = self.values
        for part in parts:
            inner = holder.get(part)
            if isinstance(inner, str):
                inner = {"use": inner}
            holder[part] = inner = {} if not isinstance(inner, dict) else inner
            holder = inner
        if isinstance(value, Mapping) and isinstance(holder.get(last), dict):
            for key, item in value.items():
                self.put(f"{path}.{key}", item)
        else:
            holder[last] = dict(value) if isinstance(value, Mapping) else value

    def get(self, path: str, default: Any = None) -> Any:
        """The value at a dotted path."""
        value: Any = self.values
        for part in path.split("."):
            if not isinstance(value, dict) or part not in value:
                return default
            value = value[part]
        return value

    def assume(self, text: str) -> None:
        """Note an assumption once."""
        if text not in self.assumed:
            self.assumed.append(text)

    def counted(self, column: str, default: int, what: str) -> int:
        """The whole number of a column, or `default`, noted."""
        value = self.run.count(column)
        if value is None:
            self.assume(f"{what} {default} (not stated)")
            return default
        return value

    def needed(self, column: str, what: str) -> int:
        """The whole number of a column of 1 or more. Raises CannotSimulate where it is blank."""
        value = self.run.count(column)
        if not value:
            raise CannotSimulate(f"{what} not stated ({column})")
        return value
