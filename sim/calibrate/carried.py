"""Constants that nobody measured on a GPU: taken over from another key or another GPU, as the source of each says.

A source is the rule: `estimated: carried over from h100-sxm` takes the same key of that GPU, `... from gemm.bf16`
another key of the same file, `... from gemm.bf16 of h100-sxm` both, and `times 0.8` a part of each number; words after
a comma say why. The rule of a key holds for all below it that has no source of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from sim.calibrate.entry import Entry, below, is_below, leaves, plain, planted, source_key, sourced
from sim.errors import SimError

RULE = re.compile(
    r"estimated: carried over from (?P<first>[\w.-]+)"
    r"(?: of (?P<gpu>[\w.-]+))?(?: times (?P<factor>\d+\.\d+))?(?=[,; ]|$)"
)


def carried(entries: Mapping[str, Entry]) -> dict[str, Entry]:
    """All entries by name, with every number that is carried over equal to the number that its source names.

    Raises SimError where a rule names no key or GPU that exists, or where rules go round in a circle.
    """
    settled = {name: sourced(entry, entry.sources) for name, entry in entries.items()}
    for _ in range(len(settled) + 1):
        before = settled
        settled = {name: _carried_once(entry, before) for name, entry in before.items()}
        if settled == before:
            return settled
    raise SimError("numbers are carried over from each other in a circle (allowed rules that end at a measurement)")


def _carried_once(entry: Entry, entries: Mapping[str, Entry]) -> Entry:
    tree = entry.tree
    for key, value in _taken(entry, entries):
        tree = planted(tree, key, value)
    return entry if tree == entry.tree else sourced(Entry(entry.head, tree), entry.sources)


def _taken(entry: Entry, entries: Mapping[str, Entry]) -> Iterator[tuple[str, Any]]:
    """Numbers that the rules of an entry give: (key, value)."""
    for key, said in entry.sources.items():
        rule = RULE.match(said)
        if rule is None:
            continue
        of, origin = _origin(entry, key, rule, entries)
        found = below(of.tree, origin)
        if found is None:
            message = f"no number to carry over (got {said!r}, allowed a key of {of.name})"
            raise SimError(f"{entry.name}: sources.{key}: {message}")
        values = dict(leaves(found, key)) if isinstance(found, Mapping) else {key: found}
        for number, value in values.items():
            if is_below(number, key) and source_key(entry.sources, number) == key:
                yield number, value if rule["factor"] is None else _times(value, float(rule["factor"]))


def _times(value: Any, factor: float) -> Any:
    """A part of a number; a range of shapes is none."""
    return value if isinstance(value, list) else plain(factor * value)


def _origin(entry: Entry, key: str, rule: re.Match[str], entries: Mapping[str, Entry]) -> tuple[Entry, str]:
    """The entry and the key that a rule names."""
    first, gpu = rule["first"], rule["gpu"]
    if gpu is None and first in entries:
        return entries[first], key
    if gpu is None:
        return entry, first
    if gpu not in entries:
        raise SimError(f"{entry.name}: sources.{key}: unknown GPU (got {gpu!r}, allowed {', '.join(entries)})")
    return entries[gpu], first
