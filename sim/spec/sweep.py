"""The points of a `sweep:`: lists, ranges, products and zips of values over dotted paths of a scenario."""

from __future__ import annotations

import itertools
import math
from typing import Annotated, Any, TypeAlias

from pydantic import Field, WithJsonSchema

from sim.errors import SimError
from sim.spec.mistakes import validated
from sim.spec.quantity import Spec
from sim.spec.range import Range, spread
from sim.spec.source import Node
from sim.spec.where import Condition, condition

Values: TypeAlias = Annotated[
    tuple[Any, ...],
    Field(min_length=1),
    WithJsonSchema({"anyOf": [{"type": "array", "items": {}, "minItems": 1}, Range.model_json_schema()]}),
]
Assignment: TypeAlias = dict[str, Node]

MAX_POINTS = 100_000


class Sweep(Spec):
    """Which points a sweep has: each entry of `points` x each step of `zip` x each combination of `product`.

    product: every combination of the values, the last path varying fastest.  zip: the first values of all paths, then
    the second ones; the lists have equal lengths.  points: a list of mappings from path to value.  where: conditions
    that a point must meet to be one; the others are left out.  In place of a list, a `Range`.
    """

    product: dict[str, Values] = Field(default_factory=dict)
    zip: dict[str, Values] = Field(default_factory=dict)
    points: tuple[Annotated[dict[str, Any], Field(min_length=1)], ...] = ()
    where: tuple[str, ...] = ()


def assignments(node: Node) -> list[Assignment]:
    """Values of every point, path by path, each standing at its path in the file.

    Raises SimError for a sweep that is malformed, empty or too large.
    """
    node = _with_ranges_spread(node)
    sweep = validated(Sweep, node, "sweep")
    parts: dict[str, Node] = node.value if isinstance(node.value, dict) else {}
    _refuse_clashes(sweep, node)
    num_points = math.prod(len(values) for values in sweep.product.values())
    num_points *= len(next(iter(sweep.zip.values()), (None,))) * max(1, len(sweep.points))
    if num_points > MAX_POINTS:
        raise SimError(node.place.problem("sweep", f"too many points (got {num_points}, allowed up to {MAX_POINTS})"))
    points = [_entries(point) for point in _items(parts.get("points"))] or [{}]
    zipped = _entries(parts.get("zip"))
    steps = [dict(zip(zipped, step, strict=True)) for step in zip(*_columns(zipped), strict=True)] or [{}]
    product = _entries(parts.get("product"))
    combinations = [dict(zip(product, values, strict=True)) for values in itertools.product(*_columns(product))]
    return [point | step | each for point in points for step in steps for each in combinations]


def conditions(node: Node) -> list[tuple[Condition, Node]]:
    """The conditions of a sweep that `assignments` has checked, each with its place.

    Raises SimError for a text that is none.
    """
    found = []
    for item in _items(_entries(node).get("where")):
        try:
            found.append((condition(str(item.value)), item))
        except ValueError as error:
            raise SimError(item.place.problem("sweep.where", str(error))) from error
    return found


def _with_ranges_spread(node: Node) -> Node:
    """The sweep with a list of values where it has a range."""
    parts = dict(_entries(node))
    for part in ("product", "zip"):
        values = {
            path: spread(entry, f"sweep.{part}.{path}", MAX_POINTS) if isinstance(entry.value, dict) else entry
            for path, entry in _entries(parts.get(part)).items()
        }
        if values:
            parts[part] = Node(values, parts[part].place)
    return Node(parts, node.place) if parts else node


def _refuse_clashes(sweep: Sweep, node: Node) -> None:
    if not (sweep.product or sweep.zip or sweep.points):
        raise SimError(node.place.problem("sweep", "empty (allowed product, zip or points)"))
    lengths = {path: len(values) for path, values in sweep.zip.items()}
    if len(set(lengths.values())) > 1:
        got = ", ".join(f"{path} has {length}" for path, length in lengths.items())
        raise SimError(node.place.problem("sweep.zip", f"lists of different lengths ({got})"))
    in_points = {path for point in sweep.points for path in point}
    groups = [set(sweep.product), set(sweep.zip), in_points]
    if twice := sorted(path for path in set().union(*groups) if sum(path in group for group in groups) > 1):
        raise SimError(
            node.place.problem("sweep", f"{', '.join(twice)} stands in more than one of product, zip, points")
        )
    paths = set().union(*groups)
    for path in sorted(paths):
        # Laid on one another, one of the two would be ignored.
        if above := paths.intersection(itertools.accumulate(path.split(".")[:-1], "{}.{}".format)):
            message = f"{min(above)} holds {path}, which the sweep sets too (allowed one of them)"
            raise SimError(node.place.problem("sweep", message))


def _items(node: Node | None) -> tuple[Node, ...]:
    return node.value if node is not None and isinstance(node.value, tuple) else ()


def _entries(node: Node | None) -> dict[str, Node]:
    return node.value if node is not None and isinstance(node.value, dict) else {}


def _columns(entries: dict[str, Node]) -> list[list[Node]]:
    """Values of each path, all at the place of the path: a mistake of every value is then one mistake."""
    return [[Node(item.value, entry.place) for item in _items(entry)] for entry in entries.values()]
