"""Rules for what a source leaves open: `sim/catalog/runs/rules.yaml`, one entry for each habit of a source."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator

import sim
from sim.errors import SimError
from sim.spec.mistakes import validated
from sim.spec.quantity import Spec
from sim.spec.source import Node, plain, read
from sim.validation.published import COLUMNS, PublishedRun

RULES_FILE = Path(sim.__file__).resolve().parent / "catalog" / "runs" / "rules.yaml"


class Rule(Spec):
    """What holds for the rows that it matches. All matching rules apply, a later one over an earlier.

    when: column -> regular expression, found anywhere in the cell, upper and lower case alike; `^$` is a blank cell.
    stack: the software stack.  group: the family of sources under which tables and intervals put the row.
    set: dotted path of the scenario -> value.  assume: what is not in the source, in words.
    skip: why no such row can be simulated.  because: where the rule is from.
    """

    title: str
    when: Annotated[dict[str, str], Field(min_length=1)]
    stack: str | None = None
    group: str | None = None
    set: dict[str, Any] = Field(default_factory=dict)
    assume: Annotated[tuple[str, ...], Field(strict=False)] = ()
    skip: str | None = None
    because: str

    @field_validator("when")
    @classmethod
    def _known(cls, when: dict[str, str]) -> dict[str, str]:
        for column, pattern in when.items():
            if column not in COLUMNS:
                raise ValueError(f"no column {column!r} (allowed {', '.join(COLUMNS)})")
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"no regular expression for {column}: {error} (got {pattern!r})") from error
        return when

    def matches(self, run: PublishedRun) -> bool:
        """Whether all conditions hold for the row."""
        return all(re.search(pattern, run.text(column), re.IGNORECASE) for column, pattern in self.when.items())


def read_rules(path: Path = RULES_FILE) -> tuple[Rule, ...]:
    """The rules of a file, in their order. Raises SimError with every mistake at its place."""
    root = read(path)
    entries = root.value.get("rules") if isinstance(root.value, dict) else None
    if entries is None or not isinstance(entries.value, tuple):
        raise SimError(root.place.problem("rules", f"wrong type (got {plain(root)!r}, allowed a list of rules)"))
    return tuple(_rule(entry, f"rules.{number}") for number, entry in enumerate(entries.value))


def _rule(entry: Node, path: str) -> Rule:
    return validated(Rule, entry, path)


@lru_cache(maxsize=1)
def shipped_rules() -> tuple[Rule, ...]:
    """Those of the project."""
    return read_rules()
