"""A topology's file: found by name, with values in place of its own, and written again with all else kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from sim.calibrate.entry import Tree, below, planted
from sim.errors import Problem, SimError
from sim.registry import unknown
from sim.spec import source
from sim.spec.find import find
from sim.spec.mistakes import validated
from sim.spec.topology import FABRICS, FabricSpec

WIDTH = 2**20
"""A source stands on one line, as in the files that ship."""


@dataclass(frozen=True)
class TopologyFile:
    """The file of a topology: its first comment, and its keys and values as they stand (`latency: 6 us`)."""

    path: Path
    head: str
    tree: Tree

    @property
    def name(self) -> str:
        """The topology's name."""
        return str(self.tree.get("name", self.path.stem))


def read_topology(name: str) -> TopologyFile:
    """The file that a name or a path means. Raises SimError where there is none, or it is no topology."""
    path = find("topologies", name)
    node = source.read(path)
    if not isinstance(node.value, dict):
        raise SimError(node.place.problem("", "wrong type (allowed a mapping of keys to values)"))
    spec_of(node)
    lines = path.read_text(encoding="utf-8").splitlines()
    head = lines[0] if lines and lines[0].startswith("#") else ""
    tree: Tree = _lists(source.plain(node))
    return TopologyFile(path, head, tree if "name" in tree else {"name": path.stem} | tree)


def spec_of(node: source.Node) -> FabricSpec:
    """The topology that a tree describes; mistakes stand at their places."""
    assert isinstance(node.value, dict)
    family = node.value.get("fabric")
    if family is None or not isinstance(family.value, str) or family.value not in list(FABRICS):
        got = "" if family is None else str(source.plain(family))
        place = node.place if family is None else family.place
        raise SimError(place.problem("fabric", unknown("fabric family", got, list(FABRICS))))
    fields = source.Node({key: item for key, item in node.value.items() if key != "fabric"}, node.place)
    return validated(FABRICS[family.value], fields, "")


def fabric_spec(file: TopologyFile, overrides: Sequence[str] | Mapping[str, object] = ()) -> FabricSpec:
    """The topology of a file with values laid on it: `nodes=4`, `nic.bandwidth=200 Gbit/s`, or a mapping of such.

    Raises SimError for what is no PATH=VALUE, and for a value that the topology cannot have.
    """
    return spec_of(overridden(source.planted(file.tree, source.Place(str(file.path))), overrides))


def overridden(tree: source.Node, overrides: Sequence[str] | Mapping[str, object]) -> source.Node:
    """A tree with values laid on it. Raises SimError for what is no PATH=VALUE."""
    pairs = overrides.items() if isinstance(overrides, Mapping) else [_pair(each) for each in overrides]
    for path, value in pairs:
        leaf = source.Node(source.scalar(value), source.COMMAND_LINE) if isinstance(value, str) else None
        tree = source.merge(tree, source.nested(path, leaf or source.planted(value, source.COMMAND_LINE)))
    return tree


def _pair(text: str) -> tuple[str, str]:
    path, equals, value = text.partition("=")
    path = path.strip()
    if not equals or not all(path.split(".")):
        raise SimError(Problem(f"--set needs a path and a value (got {text!r}, allowed such as nodes=4)"))
    return path, value.strip()


def with_values(file: TopologyFile, values: Mapping[str, object], sources: Mapping[str, str]) -> TopologyFile:
    """The file with values and their sources, by dotted key, in place of what it had; what has a source now is no
    estimate any more."""
    tree = file.tree
    for key, value in values.items():
        tree = planted(tree, key, value)
    estimated = [key for key in tree.get("estimated", []) if key not in sources]
    kept = {key: text for key, text in dict(tree["sources"]).items() if below(tree, key) is not None}
    tree = {key: value for key, value in tree.items() if key not in ("sources", "estimated")}
    tree["sources"] = kept | dict(sources)
    if estimated:
        tree["estimated"] = estimated
    return replace(file, tree=tree)


def text(file: TopologyFile) -> str:
    """The file's text: its first comment, then its keys in their order, sources last."""
    body = yaml.dump(file.tree, Dumper=_Dumper, sort_keys=False, width=WIDTH, default_flow_style=None)
    return f"{file.head}\n{body}" if file.head else body


class _Dumper(yaml.SafeDumper):
    """Sources a line each; every other mapping of plain values on one line; no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        """No anchors."""
        del data
        return True

    def represent_mapping(self, tag: str, mapping: Any, flow_style: bool | None = None) -> Any:
        """A mapping, in lines where one of its values is a sentence."""
        is_prose = any(isinstance(value, str) and " " in value and len(value) > _SHORT for value in mapping.values())
        return super().represent_mapping(tag, mapping, flow_style=False if is_prose else flow_style)


_SHORT = 24
"""Letters of a value that is a number with its unit and no sentence."""


def _lists(value: Any) -> Any:
    """Tuples as lists, which YAML writes."""
    if isinstance(value, Mapping):
        return {key: _lists(inner) for key, inner in value.items()}
    return [_lists(each) for each in value] if isinstance(value, tuple) else value
