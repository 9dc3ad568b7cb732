"""Scenario files: loaded, checked and described. The one way from a file to a `Scenario`."""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from sim.errors import Problem, SimError
from sim.registry import unknown
from sim.spec.assemble import Check, Files, Overrides, build, keys, overlaid, overridden, scenario_tree, without
from sim.spec.find import find
from sim.spec.mistakes import shown
from sim.spec.scenario import Scenario
from sim.spec.schema import schema
from sim.spec.source import Node, Place, merge, nested, plain, planted
from sim.spec.sweep import assignments, conditions
from sim.spec.where import Condition

__all__ = ["Check", "Overrides", "Point", "dump", "load", "load_all", "load_points", "load_values", "schema"]


@dataclass(frozen=True)
class Point:
    """One point of a sweep: its values by dotted path, and its scenario or why there can be none."""

    values: dict[str, Any]
    scenario: Scenario | None = None
    error: SimError | None = None


def load(
    name: str | Path, overrides: Overrides = (), *, variant: str | None = None, checks: Sequence[Check] = ()
) -> Scenario:
    """The scenario of a file, found by path or name; of one with `variants:`, the one called `variant`.

    `overrides` are `layout.tp=4` texts or a mapping from dotted paths to values (a text is read as in a file). `checks`
    yield (path, message) for what upper layers know to be wrong; their mistakes are reported at their places too.

    Raises SimError with every mistake, and for a file that describes several scenarios.
    """
    source = _open(name, overrides, checks)
    source.refuse("sweep", "several scenarios: play them with `sim sweep`, load them with load_points")
    if variant is not None:
        variants = _variants(source)
        if not variants:
            message = f"the file has no variants (got variant {variant!r}, allowed none)"
            raise SimError(source.root.place.problem("variants", message))
        if variant not in variants:
            raise SimError(unknown("variant", variant, list(variants)))
        return source.build_over(without(source.root, "variants", "measured"), variants[variant], variant)
    source.refuse("variants", "several scenarios: compare them with `sim compare`, or name one with `--variant`")
    return source.build(source.root, None)


def load_values(
    values: Mapping[str, Any], name: str, place: Place, *, files: Files | None = None, checks: Sequence[Check] = ()
) -> Scenario:
    """The scenario of plain values as a file has them; `place` is where they come from, for what is wrong with them.

    files: those read so far, for many scenarios that name the same parts. Raises SimError with every mistake.
    """
    return build(planted(values, place), name, None, Files() if files is None else files, checks)


def _variants(source: _Source) -> Mapping[str, Node]:
    """What each variant of the file lays on the rest of it; empty for a plain file."""
    variants = keys(source.root).get("variants")
    if variants is None:
        return {}
    if not isinstance(variants.value, dict) or not variants.value:
        message = f"wrong type (got {shown(plain(variants))}, allowed a mapping of names to overrides)"
        raise SimError(variants.place.problem("variants", message))
    unnamed = [name for name in variants.value if not name.isprintable() or not name.strip()]
    if unnamed:
        message = f"wrong name (got {shown(unnamed[0])}, allowed text on one line)"
        raise SimError(variants.value[unnamed[0]].place.problem("variants", message))
    return variants.value


def load_all(name: str | Path, overrides: Overrides = (), *, checks: Sequence[Check] = ()) -> list[Scenario]:
    """One scenario for each entry of the file's `variants:`, or the one of a plain file. See `load`.

    A variant is laid on the rest of the file, `overrides` on the variant. Its `name` is the file's, `variant` its key.
    """
    source = _open(name, overrides, checks)
    source.refuse("sweep", "several scenarios: play them with `sim sweep`, load them with load_points")
    variants = _variants(source)
    if not variants:
        return [source.build(source.root, None)]
    base = without(source.root, "variants", "measured")
    outcomes = {name: source.attempt(base, over, name) for name, over in variants.items()}
    failed = {name: outcome for name, outcome in outcomes.items() if isinstance(outcome, SimError)}
    if failed:
        raise SimError(_told_once(failed, len(outcomes)))
    return [outcome for outcome in outcomes.values() if isinstance(outcome, Scenario)]


def load_points(name: str | Path, overrides: Overrides = (), *, checks: Sequence[Check] = ()) -> list[Point]:
    """The points of the file's `sweep:`. A point that cannot be is listed with its reason. See `load`.

    Raises SimError for a mistake that every point shares: it is the file's, not the point's.
    """
    source = _open(name, overrides, checks)
    sweep = keys(source.root).get("sweep")
    if sweep is None:
        source.refuse("variants", "no sweep: compare them with `sim compare`, load them with load_all")
        message = "missing: a file without it is played with `sim run` and loaded with load or load_all"
        raise SimError(source.root.place.problem("sweep", message))
    source.refuse("variants", "a sweep beside it: sweep each variant in a file of its own (allowed `extends`)")
    base = without(source.root, "sweep", "measured")
    points = []
    tried = assignments(sweep)
    wanted = conditions(sweep)
    for assignment in tried:
        over = Node({}, base.place)
        for path, leaf in assignment.items():
            over = merge(over, nested(path, leaf))
        outcome = source.attempt(base, over, None)
        values = {path: plain(leaf) for path, leaf in assignment.items()}
        match outcome:
            case SimError():
                if source.is_wanted(wanted, overlaid(base, over)):
                    points.append(Point(values, error=outcome))
            case _:
                if _meets(wanted, outcome):
                    points.append(Point(values, scenario=outcome))
    if not points:
        message = f"no point is left by `where` (got {len(tried)} points, allowed one that meets all conditions)"
        raise SimError(wanted[0][1].place.problem("sweep.where", message))
    problems = [point.error.problems if point.error else () for point in points]
    shared = set(problems[0]).intersection(*problems)
    if shared:
        raise SimError([problem for problem in problems[0] if problem in shared])
    return points


def field_of(scenario: Scenario, path: str) -> Any:
    """Value at a dotted path of a resolved scenario, in SI; keys as in files or as in dumps.

    None below a part that the scenario has not, such as the experts of a dense model. Raises KeyError for a path that
    there cannot be.
    """
    found: Any = scenario
    for part in path.split("."):
        match found:
            case None:
                return None
            case BaseModel():
                fields = type(found).model_fields
                names = [name for name, field in fields.items() if part in (name, field.alias)]
                if not names:
                    raise KeyError(path)
                found = getattr(found, names[0])
            case dict() if part in found:
                found = found[part]
            case _:
                raise KeyError(path)
    return found


def _meets(wanted: Sequence[tuple[Condition, Node]], scenario: Scenario) -> bool:
    """Whether a scenario meets all conditions. Raises SimError for one that cannot be asked of it."""
    for condition, node in wanted:
        try:
            if not condition.holds(lambda path: field_of(scenario, path)):
                return False
        except ValueError as error:
            raise SimError(node.place.problem("sweep.where", str(error))) from error
    return True


def dump(scenario: Scenario) -> dict[str, Any]:
    """The resolved scenario as plain values in SI, with every field, in the order of the fields."""
    return scenario.model_dump(mode="json")


@dataclass(frozen=True)
class _Source:
    """A scenario file with what it extends, and how it is to be read."""

    name: str
    root: Node
    files: Files
    overrides: Overrides
    checks: Sequence[Check]

    def refuse(self, key: str, message: str) -> None:
        """Raise SimError where the file has `key`."""
        if node := keys(self.root).get(key):
            raise SimError(node.place.problem(key, message))

    def build(self, tree: Node, variant: str | None) -> Scenario:
        """The scenario of a tree, overrides applied."""
        return build(overridden(tree, self.overrides), self.name, variant, self.files, self.checks)

    def build_over(self, base: Node, over: Node, variant: str | None) -> Scenario:
        """The scenario of `over` laid on `base`."""
        if not isinstance(over.value, dict):
            message = f"wrong type (got {shown(plain(over))}, allowed a mapping of overrides)"
            raise SimError(over.place.problem(f"variants.{variant}", message))
        return self.build(overlaid(base, over), variant)

    def is_wanted(self, wanted: Sequence[tuple[Condition, Node]], tree: Node) -> bool:
        """Whether an impossible point is none of those that conditions leave out, as far as its file says."""
        tree = overridden(tree, self.overrides)

        def lookup(path: str) -> Any:
            return functools.reduce(operator.getitem, path.split("."), plain(tree))

        for condition, _ in wanted:
            try:
                if not condition.holds(lookup):
                    return False
            except ValueError:
                continue
        return True

    def attempt(self, base: Node, over: Node, variant: str | None) -> Scenario | SimError:
        """The same, or what is wrong with it."""
        try:
            return self.build_over(base, over, variant)
        except SimError as error:
            return error


def _open(name: str | Path, overrides: Overrides, checks: Sequence[Check]) -> _Source:
    files = Files()
    path = find("scenarios", str(name))
    return _Source(path.stem, scenario_tree(path, files), files, overrides, checks)


def _told_once(failed: Mapping[str, SimError], num_variants: int) -> list[Problem]:
    """Each mistake once; one that not all variants share names those that have it."""
    variants: dict[Problem, list[str]] = {}
    for variant, error in failed.items():
        for problem in error.problems:
            variants.setdefault(problem, []).append(variant)
    return [
        problem
        if len(names) == num_variants
        else replace(problem, message=f"{problem.message} [variant {', '.join(names)}]")
        for problem, names in variants.items()
    ]
