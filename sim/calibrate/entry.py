"""A GPU's file as text: its constants and sources replaced, all else kept, always in one layout."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeAlias, get_args

import yaml
from pydantic import BaseModel

from sim import units
from sim.spec import source
from sim.spec.gpu import Gpu
from sim.spec.mistakes import validated

WIDTH = 116
SIGNIFICANT = 3
"""Digits of a constant in a file: finer than any fit tells."""
LEAST = 1e-4
"""What is less, of a number without unit, is nothing."""

ESTIMATED = "estimated"
"""A source that begins so says that nobody measured the number."""

_DIMENSIONS = {
    "_flop_per_s": "FLOP/s",
    "_bytes_per_s": "bytes/s",
    "_bytes": "bytes",
    "_s": "s",
    "_w": "W",
}
"""By the end of a field's name, longer ends first."""

Tree: TypeAlias = dict[str, Any]
Constant: TypeAlias = float | tuple[float, float]
"""A number, or the range of shapes that a fit saw, in SI."""


@dataclass(frozen=True)
class Entry:
    """The file of a GPU: its first comment, and its keys and values as they stand (`launch: 3.3 us`)."""

    head: str
    tree: Tree

    @property
    def name(self) -> str:
        """The GPU's name."""
        return str(self.tree["name"])

    @property
    def sources(self) -> dict[str, str]:
        """Where numbers come from, by key."""
        return dict(self.tree["sources"])


def read_entry(path: Path) -> Entry:
    """The file of a GPU. Raises SimError where it is none."""
    node = source.read(path)
    validated(Gpu, node, "gpu")
    first = path.read_text(encoding="utf-8").splitlines()[0]
    tree: Tree = _lists(source.plain(node))
    return Entry(first if first.startswith("#") else f"# What does a {tree['name']} do?", tree)


def gpu_of(entry: Entry) -> Gpu:
    """The GPU that the entry describes. Raises SimError where it describes none."""
    return validated(Gpu, source.parse(text(entry).encode(), entry.name), "gpu")


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Values of a tree by dotted key, in its order; a list is one value."""
    for key, value in tree.items():
        path = f"{prefix}.{key}" if prefix else key
        if isinstance(value, Mapping):
            yield from leaves(value, path)
        else:
            yield path, value


def below(tree: Mapping[str, Any], key: str) -> Any:
    """The value or the mapping at a dotted key, None where there is none."""
    for part in key.split("."):
        if not isinstance(tree, Mapping) or part not in tree:
            return None
        tree = tree[part]
    return tree


def planted(tree: Tree, key: str, value: Any) -> Tree:
    """The tree with `value` at a dotted key, whose mappings are made where they are not there."""
    first, _, rest = key.partition(".")
    return {**tree, first: planted(tree.get(first, {}), rest, value) if rest else value}


def with_constants(entry: Entry, constants: Mapping[str, Constant], sources: Mapping[str, str]) -> Entry:
    """The entry with constants (SI, by key) and their sources in place of what it had.

    A source that stood for nothing but these constants goes; one that stands for others as well stays.
    """
    tree = entry.tree
    for key, value in constants.items():
        tree = planted(tree, key, written(key, value))
    needed = {source_key(entry.sources, number) for number, _ in leaves(entry.tree) if number not in constants}
    kept = {key: said for key, said in entry.sources.items() if key in needed}
    return sourced(replace(entry, tree=tree), kept | dict(sources))


def with_group(entry: Entry, key: str, origin: str) -> Entry:
    """The entry with a group of constants at `key` that it lacked: those of the group `origin`, carried over."""
    assert below(entry.tree, key) is None, f"{entry.name} has {key}"
    tree = planted(entry.tree, key, below(entry.tree, origin))
    return sourced(replace(entry, tree=tree), {**entry.sources, key: f"{ESTIMATED}: carried over from {origin}"})


def is_below(number: str, key: str) -> bool:
    """Whether a number's key is `key` or lies below it."""
    return number == key or number.startswith(f"{key}.")


def sourced(entry: Entry, sources: Mapping[str, str]) -> Entry:
    """The entry with these sources, in the order of what they are for, and the list of estimates that they make.

    A range of shapes is no number and has no source.
    """
    order = [number for number, value in leaves(entry.tree) if not isinstance(value, list)]
    said = _said_once(sources, order)
    first = {key: min((order.index(number) for number in order if is_below(number, key)), default=0) for key in said}
    ordered = {key: said[key] for key in sorted(said, key=lambda key: (first[key], key.count(".")))}
    tree = {key: value for key, value in entry.tree.items() if key not in ("sources", "estimated")}
    tree["sources"] = ordered
    if estimated := list(_estimated(ordered, order)):
        tree["estimated"] = estimated
    return replace(entry, tree=tree)


def _said_once(sources: Mapping[str, str], numbers: Iterable[str]) -> dict[str, str]:
    """What several keys below a group (`attention.fa3`) say, said once for the group.

    Only where each number of the group has a source below it. What is estimated stays with its own key: the words of a
    rule may name another one.
    """
    said, listed = dict(sources), list(numbers)
    groups = {key[:end] for key in said for end, letter in enumerate(key) if letter == "."}
    for group in sorted((key for key in groups - set(said) if "." in key), key=lambda key: (-key.count("."), key)):
        inside = {key: text for key, text in said.items() if is_below(key, group)}
        if not all(source_key(inside, number) for number in listed if is_below(number, group)):
            continue
        outer = [key for key in inside if not any(key != other and is_below(key, other) for other in inside)]
        texts = Counter(inside[key] for key in outer if not inside[key].startswith(ESTIMATED))
        common, count = max(texts.items(), key=lambda each: each[1], default=("", 0))
        if count > 1:
            said = {key: text for key, text in said.items() if key not in outer or text != common} | {group: common}
    return said


def source_key(sources: Iterable[str], number: str) -> str | None:
    """The key of the source that says most exactly where a number comes from."""
    return max((key for key in sources if is_below(number, key)), key=len, default=None)


def _estimated(sources: Mapping[str, str], numbers: Iterable[str]) -> Iterator[str]:
    """Keys of what is estimated: that of the source where it holds for all below it, else each number's own."""
    listed = list(numbers)
    for key, said in sources.items():
        if not said.startswith(ESTIMATED):
            continue
        covered = [number for number in listed if is_below(number, key)]
        own = [number for number in covered if source_key(sources, number) == key]
        if all(sources[source_key(sources, number) or key].startswith(ESTIMATED) for number in covered):
            yield key
        else:
            yield from own


def written(key: str, value: Constant, spec: type[BaseModel] = Gpu) -> Any:
    """A constant as a file of `spec` has it: three digits, and the unit that its field says.

    >>> written("memory_bound.launch", 3.2999e-6), written("gemm.bf16.range_m", (512.0, 65536.0))
    ('3.3 us', [512, 65536])
    """
    if isinstance(value, tuple):
        return [plain(each) for each in value]
    dimension = dimension_of(key, spec)
    return plain(value) if dimension is None else units.text(value, dimension)


def plain(value: float) -> float | int:
    """A number without unit as a file has it."""
    if abs(value) < LEAST:
        return 0.0
    rounded = value if float(value).is_integer() else float(f"{value:.{SIGNIFICANT}g}")
    return int(rounded) if float(rounded).is_integer() and abs(rounded) > 1 else rounded


def dimension_of(key: str, spec: type[BaseModel] = Gpu) -> str | None:
    """The SI unit of the field that a dotted key of a file of `spec` means, None for a plain number."""
    inner: Any = spec
    name = ""
    for part in key.split("."):
        fields = _fields(inner)
        if part in fields:
            name, inner = fields[part]
        else:
            inner = get_args(inner)[1] if len(get_args(inner)) > 1 else None
    return next((dimension for end, dimension in _DIMENSIONS.items() if f"_{name}".endswith(end)), None)


def _fields(spec: Any) -> dict[str, tuple[str, Any]]:
    """Name and type of each field of a class, which may be left out (`| None`), by its key; of anything else none."""
    if isinstance(spec, UnionType):
        spec = next((each for each in get_args(spec) if each is not NoneType), None)
    if not (isinstance(spec, type) and issubclass(spec, BaseModel)):
        return {}
    return {field.alias or name: (name, field.annotation) for name, field in spec.model_fields.items()}


def text(entry: Entry) -> str:
    """The file's text: the question that it answers, then its keys in the order of `sim.spec.gpu.Gpu`."""
    order = [field.alias or name for name, field in Gpu.model_fields.items()]
    order = ["name", *(key for key in order if key not in ("name", "sources", "estimated")), "sources", "estimated"]
    tree = {key: entry.tree[key] for key in order if key in entry.tree}
    assert set(tree) == set(entry.tree), "a key that no GPU has"
    return f"{entry.head}\n{yaml.dump(tree, Dumper=_Dumper, sort_keys=False, width=WIDTH)}"


class _Dumper(yaml.SafeDumper):
    """Lists of numbers on one line, and every value in full, also where another key has the same."""

    def ignore_aliases(self, data: Any) -> bool:
        """No anchors."""
        del data
        return True

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> Any:
        """A list, on one line where it holds numbers."""
        is_range = all(isinstance(value, (int, float)) for value in sequence)
        return super().represent_sequence(tag, sequence, flow_style=is_range or flow_style)


def _lists(value: Any) -> Any:
    """Tuples as lists, which YAML writes."""
    if isinstance(value, Mapping):
        return {key: _lists(inner) for key, inner in value.items()}
    return [_lists(each) for each in value] if isinstance(value, tuple) else value
