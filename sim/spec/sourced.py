"""Catalogue entries whose every number has a source."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, model_validator

from sim.spec.quantity import Spec


class Sourced(Spec):
    """An entry of a catalogue: every number has a line in `sources`, and those that nobody measured are `estimated`.

    `chosen` names the fields that are the experiment's choice and need no source.
    """

    chosen: ClassVar[frozenset[str]] = frozenset()

    name: str
    sources: dict[str, str]
    estimated: Annotated[tuple[str, ...], Field(strict=False)] = ()

    @model_validator(mode="after")
    def _every_number_has_a_source(self) -> Self:
        keys = set(numbers(self))
        missing = sorted(keys - set(self.sources))
        if missing:
            raise ValueError(f"no source for {', '.join(missing)}")
        unknown = sorted((set(self.sources) | set(self.estimated)) - keys)
        if unknown:
            raise ValueError(f"sources or estimated name no number of {self.name}: {', '.join(unknown)}")
        return self


def numbers(entry: Sourced) -> dict[str, float]:
    """Every number of the entry by the dotted key of its file: `peak.bf16`, `nic.bandwidth`."""
    found: dict[str, float] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(f"{prefix}.{key}" if prefix else key, inner)
        elif isinstance(value, (int, float)):
            found[prefix] = value

    walk("", entry.model_dump(by_alias=True, exclude={"sources", "estimated", *entry.chosen}))
    return found
