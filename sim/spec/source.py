"""YAML and JSON files as trees in which every value remembers the place where it was written.

YAML's traps are closed: `1e9` is a number, `yes`, `no`, `on`, `off` and `12:30` are strings, keys are strings (numbers
only where GPUs are listed) and stand once, a file is one document. Whatever a file holds, the outcome is a tree or a
SimError with file:line:column.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from sim.errors import Problem, SimError

Scalar: TypeAlias = str | int | float | bool | None

MAX_BYTES = 2**24
MAX_DEPTH = 50
MAX_NODES = 200_000

NUMBERED = "conditions.gpus"
"""Dotted path, or the end of one, of the mapping whose keys are whole numbers. A tree has them as decimal text."""

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_CONSTANTS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
# Counts have far fewer than 30 digits; Python itself refuses to convert some thousands of them.
_INT = re.compile(r"[-+]?(0|[1-9][0-9_]{0,29})", re.ASCII)
_FLOAT = re.compile(r"[-+]?([0-9][0-9_]*\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?", re.ASCII)


@dataclass(frozen=True)
class Place:
    """Where a value was written; `line` and `column` count from 1. The file `--set` is the command line."""

    file: str
    line: int | None = None
    column: int | None = None

    def problem(self, path: str, message: str) -> Problem:
        """A mistake at this place; one on the command line names the option that carries it."""
        if self.file == COMMAND_LINE.file:
            return Problem(message, path=f"{self.file} {path}")
        return Problem(message, path=path, file=self.file, line=self.line, column=self.column)


COMMAND_LINE = Place("--set")


@dataclass(frozen=True)
class Node:
    """A value and its place: that of its key in a mapping, else of the value itself."""

    value: dict[str, Node] | tuple[Node, ...] | Scalar
    place: Place


def read(path: Path) -> Node:
    """The one document of a YAML or JSON file.

    Raises SimError where the file cannot be read, is no text in UTF-8, no YAML, or none that a scenario can be.
    """
    shown = _shown(path)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise SimError(Problem(f"too large (allowed up to {MAX_BYTES} bytes)", file=shown))
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SimError(Problem(f"cannot be read ({reason})", file=shown)) from error
    return parse(content, shown)


def _shown(path: Path) -> str:
    """Relative to the working folder where the file lies below it."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except (OSError, ValueError):
        return str(path)


def parse(content: bytes, file: str, path: str = "") -> Node:
    """The one document of `content`; `file` is what its places name, `path` where a scenario has it.

    >>> plain(parse(b"a: [1e9, yes, 12:30]", "x.yaml"))
    {'a': (1000000000.0, 'yes', '12:30')}
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start]
        place = Place(file, before.count(b"\n") + 1, len(before) - before.rfind(b"\n"))
        raise SimError(place.problem("", f"no text in UTF-8 (byte {content[error.start]:#04x})")) from error
    composer = _Composer(file, path)
    try:
        return composer.document(yaml.parse(text, Loader=_LOADER))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(file, mark.line + 1, mark.column + 1) if mark else Place(file)
        what = ", ".join(part for part in (error.context, error.problem) if part)
        raise SimError(place.problem("", f"no valid YAML: {what}")) from error
    except yaml.reader.ReaderError as error:
        before_text = text[: error.position] if isinstance(error.position, int) else ""
        place = Place(file, before_text.count("\n") + 1, len(before_text) - before_text.rfind("\n"))
        raise SimError(place.problem("", f"no valid YAML: {error.reason}")) from error


def scalar(text: str) -> Scalar:
    """Value of a scalar without quotes, by the rules of a scenario file.

    >>> [scalar(text) for text in ("8", "1e9", "on", "010", "true", "")]
    [8, 1000000000.0, 'on', '010', True, None]
    """
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _INT.fullmatch(text):
        return int(text.replace("_", ""))
    if _FLOAT.fullmatch(text) and (not re.match(r"[-+]?[0-9_]+$", text)):
        return float(text.replace("_", ""))
    return text


class _Composer:
    """Builds the tree of one document from YAML events, without recursion."""

    def __init__(self, file: str, path: str) -> None:
        self._file = file
        self._path = path
        self._anchors: dict[str, tuple[Node, int] | None] = {}
        self._num_nodes = 0
        self._problems: list[Problem] = []

    def document(self, events: Iterator[Any]) -> Node:
        """The tree of the one document; all that is wrong with its keys, tags and aliases is raised together."""
        root: Node | None = None
        is_open = False
        open_nodes: list[_Open] = []
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                if is_open:
                    raise SimError(self._place(event).problem("", "a second document (allowed one in a file)"))
                is_open = True
            node = self._node(event, open_nodes)
            if self._num_nodes > MAX_NODES:
                message = f"too many values, aliases counted (allowed up to {MAX_NODES})"
                raise SimError(self._place(event).problem("", message))
            if node is not None and open_nodes:
                self._add(open_nodes[-1], node, event)
            elif node is not None:
                root = node
        if self._problems:
            raise SimError(self._problems)
        if root is None or root.value is None:
            raise SimError(Place(self._file, 1, 1).problem("", "empty (allowed a mapping of keys to values)"))
        return root

    def _place(self, event: Any) -> Place:
        return Place(self._file, event.start_mark.line + 1, event.start_mark.column + 1)

    def _node(self, event: Any, open_nodes: list[_Open]) -> Node | None:
        """The node that `event` completes, if any; a start event opens one."""
        place = self._place(event)
        if isinstance(event, (yaml.ScalarEvent, yaml.CollectionStartEvent)) and event.tag is not None:
            self._problems.append(place.problem("", f"a tag (got {event.tag!r}, allowed values without tags)"))
        match event:
            case yaml.ScalarEvent():
                self._num_nodes += 1
                return self._anchored(event.anchor, Node(event.value if event.style else scalar(event.value), place), 1)
            case yaml.AliasEvent():
                return self._alias(str(event.anchor), place)
            case yaml.CollectionStartEvent():
                if len(open_nodes) >= MAX_DEPTH:
                    raise SimError(place.problem("", f"too deep (allowed up to {MAX_DEPTH} levels)"))
                is_mapping = isinstance(event, yaml.MappingStartEvent)
                path = open_nodes[-1].path_of_next() if open_nodes else self._path
                open_nodes.append(_Open(is_mapping, place, event.anchor, path, self._num_nodes, [], set()))
                self._num_nodes += 1
                if event.anchor is not None:
                    self._anchors[event.anchor] = None
                return None
            case yaml.CollectionEndEvent():
                return self._close(open_nodes.pop())
            case _:
                return None

    def _alias(self, anchor: str, place: Place) -> Node:
        anchored = self._anchors.get(anchor)
        if anchored is None:
            what = "lies inside what it names" if anchor in self._anchors else "names no anchor above it"
            raise SimError(place.problem("", f"alias *{anchor} {what}"))
        self._num_nodes += anchored[1]
        return anchored[0]

    def _anchored(self, anchor: str | None, node: Node, num_nodes: int) -> Node:
        if anchor is not None:
            self._anchors[anchor] = (node, num_nodes)
        return node

    def _add(self, parent: _Open, node: Node, event: Any) -> None:
        """Put a complete node into its collection; in a mapping keys and values alternate."""
        if not parent.is_mapping or len(parent.items) % 2:
            parent.items.append(node)
            return
        place = self._place(event) if isinstance(event, yaml.AliasEvent) else node.place
        key = parent.key(node.value)
        if key == "<<":
            self._problems.append(
                place.problem("", "merge keys are not read (allowed `extends`, or the keys themselves)")
            )
        elif not isinstance(key, str):
            wanted, allowed = ("a whole number", "such as 3") if parent.is_numbered else ("a string", "it in quotes")
            message = f"a key must be {wanted} (got {_brief(key)}, allowed {allowed})"
            self._problems.append(place.problem("", message))
        elif key in parent.keys:
            self._problems.append(place.problem("", f"key {key!r} stands twice"))
        else:
            parent.keys.add(key)
        parent.items.append(Node(key if isinstance(key, str) else "", place))

    def _close(self, closed: _Open) -> Node:
        value: dict[str, Node] | tuple[Node, ...]
        if closed.is_mapping:
            pairs = zip(closed.items[::2], closed.items[1::2], strict=True)
            value = {str(key.value): Node(item.value, key.place) for key, item in pairs}
        else:
            value = tuple(closed.items)
        return self._anchored(closed.anchor, Node(value, closed.place), self._num_nodes - closed.num_nodes_before)


@dataclass(frozen=True)
class _Open:
    """A collection whose end has not come; a mapping's items are keys and values in turn."""

    is_mapping: bool
    place: Place
    anchor: str | None
    path: str
    num_nodes_before: int
    items: list[Node]
    keys: set[str]

    @property
    def is_numbered(self) -> bool:
        """Whether its keys may be whole numbers."""
        return f".{self.path}".endswith(f".{NUMBERED}")

    def path_of_next(self) -> str:
        """End of the dotted path of the collection that opens inside; items of a list stand at the list's path."""
        if not self.is_mapping or len(self.items) % 2 == 0:
            return self.path
        return f"{self.path}.{self.items[-1].value}"[-len(NUMBERED) - 1 :]

    def key(self, value: object) -> object:
        """A key as the tree has it: a whole number as text, where it may be one."""
        return str(value) if self.is_numbered and isinstance(value, int) and not isinstance(value, bool) else value


def _brief(value: object) -> str:
    if isinstance(value, dict):
        return "a mapping"
    return "a list" if isinstance(value, tuple) else repr(value)


def plain(node: Node) -> Any:
    """The value without places: dicts, tuples and scalars."""
    match node.value:
        case dict() as mapping:
            return {key: plain(item) for key, item in mapping.items()}
        case tuple() as items:
            return tuple(plain(item) for item in items)
        case value:
            return value


def planted(value: Any, place: Place) -> Node:
    """A plain value as a tree that stands at one place: the inverse of `plain`."""
    if isinstance(value, Mapping):
        return Node({str(key): planted(item, place) for key, item in value.items()}, place)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return Node(tuple(planted(item, place) for item in value), place)
    return Node(value, place)


def merge(base: Node, over: Node) -> Node:
    """`over` laid on `base`: mappings key by key, everything else (lists too) replaced.

    A mapping that both have stands where `over` has it, unless that is the command line, where there is nothing to see.
    """
    if not isinstance(base.value, dict) or not isinstance(over.value, dict):
        return over
    merged = dict(base.value)
    for key, item in over.value.items():
        merged[key] = merge(merged[key], item) if key in merged else item
    return Node(merged, base.place if over.place == COMMAND_LINE else over.place)


def locate(node: Node, path: Sequence[str | int]) -> Place:
    """Place of the value at `path`, or of the innermost value on the way to it that exists."""
    for part in path:
        value = node.value
        if isinstance(value, dict) and part in value:
            node = value[str(part)]
        elif isinstance(value, tuple) and isinstance(part, int) and part < len(value):
            node = value[part]
        else:
            break
    return node.place


def nested(path: str, leaf: Node) -> Node:
    """Mappings around `leaf`, one for each key of the dotted `path`."""
    for key in reversed(path.split(".")):
        leaf = Node({key: leaf}, leaf.place)
    return leaf
