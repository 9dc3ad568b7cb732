"""Catalogue entries whose every number has a source."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, model_validator

from sim.spec.quantity import Spec


class Sourced(Spec):
    """An entry of a catalogue: every number has a line in `sources`, and those that nobody measured are `estimated`.

    A key of either stands for one number (`peak.bf16`) or for all below it (`gemm.bf16`). `chosen` names the fields
    that are the experiment's choice and need no source.
    """

    chosen: ClassVar[frozenset[str]] = frozenset()

    name: str
    sources: dict[str, str]
    estimated: Annotated[tuple[str, ...], Field(strict=False)] = ()

    @model_validator(mode="after")
    def _every_number_has_a_source(self) -> Self:
        covering = {key: set(_covering(key)) for key in self.facts()}
        missing = sorted(key for key, covers in covering.items() if covers.isdisjoint(self.sources))
        if missing:
            raise ValueError(f"no source for {', '.join(missing)}")
        unknown = sorted({*self.sources, *self.estimated}.difference(*covering.values()))
        if unknown:
            raise ValueError(f"sources or estimated name nothing of {self.name}: {', '.join(unknown)}")
        return self

    def facts(self) -> Collection[str]:
        """Dotted keys of what needs a source: every number."""
        return numbers(self)


def _covering(number: str) -> Iterator[str]:
    """The keys that stand for the number: its own, and each beginning of it.

    >>> list(_covering("gemm.bf16.launch"))
    ['gemm', 'gemm.bf16', 'gemm.bf16.launch']
    """
    return itertools.accumulate(number.split("."), "{}.{}".format)


def _covers(key: str, number: str) -> bool:
    """Whether a key of `sources` stands for the number: its own key, or the beginning of it."""
    return number == key or number.startswith(f"{key}.")


def source_of(entry: Sourced, number: str) -> str:
    """The line of `sources` that stands for the number: the one with the longest key."""
    return entry.sources[max((key for key in entry.sources if _covers(key, number)), key=len)]


def is_estimated(entry: Sourced, number: str) -> bool:
    """Whether nobody measured the number."""
    return any(_covers(key, number) for key in entry.estimated)


def num_estimated(entry: Sourced) -> int:
    """How many numbers of the entry nobody measured."""
    return sum(is_estimated(entry, number) for number in numbers(entry))


def numbers(entry: Sourced) -> dict[str, float]:
    """Every number of the entry by the dotted key of its file: `peak.bf16`, `nic.bandwidth`."""
    found = values(entry)
    return {
        key: value for key, value in found.items() if isinstance(value, (int, float)) and not isinstance(value, bool)
    }


def values(entry: Sourced) -> dict[str, Any]:
    """Everything that the entry says, by dotted key, but where it is from."""
    found: dict[str, Any] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(f"{prefix}.{key}" if prefix else key, inner)
        else:
            found[prefix] = value

    walk("", entry.model_dump(by_alias=True, exclude={"sources", "estimated", *entry.chosen}))
    return found
