"""Long-run files: loaded and checked, with every mistake at its place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sim.errors import Problem, SimError
from sim.spec.assemble import Files, Overrides, keys, overridden
from sim.spec.find import Kind, find
from sim.spec.longrun import LongRunFile
from sim.spec.mistakes import shown, validated
from sim.spec.source import COMMAND_LINE, Node, merge, plain

NAMED: dict[tuple[str, ...], Kind] = {
    ("failures",): "failures",
    ("checkpoint", "storage"): "storage",
    ("spikes",): "spikes",
    ("cost", "price"): "prices",
    ("cost", "power"): "power",
}
"""What a file gives by name, by name with other values (`use:`), or in full."""


def load(name: str | Path, overrides: Overrides = ()) -> LongRunFile:
    """The long run of a file, found by path or name; `overrides` such as `checkpoint.every_steps=500` laid on it.

    Raises SimError with every mistake.
    """
    path = find("longruns", str(name))
    files = Files()
    root = files.mapping(path)
    root = Node({"name": Node(path.stem, root.place)} | keys(root), root.place)
    root = _named_parts(overridden(_named_parts(root, files), overrides), files)
    return validated(LongRunFile, root, "")


def scenario_path(name: str, longrun: str | Path) -> str:
    """The scenario that a phase names: a path counts from the long run's file, then from the working folder."""
    return str(find("scenarios", name, find("longruns", str(longrun)).parent))


def _named_parts(root: Node, files: Files) -> Node:
    """The tree with the entries of the catalogue in the places of their names."""
    problems: list[Problem] = []
    for path, kind in NAMED.items():
        try:
            root = _resolved_at(root, path, path, kind, files)
        except SimError as error:
            problems += error.problems
    if problems:
        raise SimError(problems)
    return root


def _resolved_at(node: Node, rest: Sequence[str], path: Sequence[str], kind: Kind, files: Files) -> Node:
    if not rest:
        return _resolved(node, ".".join(path), kind, files)
    if not isinstance(node.value, dict) or rest[0] not in node.value:
        return node
    inner = _resolved_at(node.value[rest[0]], rest[1:], path, kind, files)
    return Node(node.value | {rest[0]: inner}, node.place)


def _resolved(node: Node, path: str, kind: Kind, files: Files) -> Node:
    use = node.value.get("use") if isinstance(node.value, dict) else node
    if use is None:
        return node
    if not isinstance(use.value, str):
        message = f"wrong type (got {shown(plain(use))}, allowed a name, or a mapping of keys to values)"
        raise SimError(use.place.problem(path, message))
    near = None if use.place == COMMAND_LINE else Path(use.place.file).parent
    try:
        found = find(kind, use.value, near)
    except SimError as error:
        raise SimError([use.place.problem(path, problem.message) for problem in error.problems]) from None
    entry = files.mapping(found)
    named = Node({"name": Node(found.stem, entry.place)} | keys(entry), entry.place)
    if use is node:
        return named
    assert isinstance(node.value, dict)
    return merge(named, Node({key: item for key, item in node.value.items() if key != "use"}, node.place))
