"""Scenario files: loaded, checked and described. The one way from a file to a `Scenario`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from sim.errors import Problem, SimError
from sim.spec.assemble import STRUCTURE, Check, Files, Overrides, build, keys, overlaid, overridden, scenario_tree, without
from sim.spec.find import find
from sim.spec.scenario import Scenario
from sim.spec.schema import schema
from sim.spec.source import Node, nested, plain
from sim.spec.sweep import Assignment, assignments

__all__ = ["Check", "Overrides", "Point", "dump", "load", "load_all", "load_points", "schema"]

T = TypeVar("T")


@dataclass(frozen=True)
class Point:
    """One point of a sweep: its values by dotted path, and its scenario or why there can be none."""

    values: dict[str, Any]
    scenario: Scenario | None = None
    error: SimError | None = None


def load(name: str | Path, overrides: Overrides = (), *, checks: Sequence[Check] = ()) -> Scenario:
    """The scenario of a file, found by path or name.

    `overrides` are `layout.tp=4` texts or a mapping from dotted paths to values (a text is read as in a file). `checks`
    yield (path, message) for what upper layers know to be wrong; their mistakes are reported at their places too.

    Raises SimError with every mistake, and for a file that describes several scenarios.
    """
    file = _File.open(name)
    file.refuse("variants", "several scenarios: play them with `sim compare`, load them with load_all")
    file.refuse("sweep", "several scenarios: play them with `sim sweep`, load them with load_points")
    return file.build(file.root, None, overrides, checks)


def load_all(name: str | Path, overrides: Overrides = (), *, checks: Sequence[Check] = ()) -> list[Scenario]:
    """One scenario for each entry of the file's `variants:`, or the one of a plain file. See `load`.

    A variant is laid on the rest of the file, `overrides` on the variant. Its `name` is the file's, `variant` its key.
    """
    file = _File.open(name)
    file.refuse("sweep", "a sweep: play it with `sim sweep`, load it with load_points")
    variants = keys(file.root).get("variants")
    if variants is None:
        return [file.build(file.root, None, overrides, checks)]
    if not isinstance(variants.value, dict) or not variants.value:
        raise SimError(variants.place.problem("variants", "wrong type (allowed a mapping of names to overrides)"))
    outcomes: dict[str, Scenario | SimError] = {}
    for variant, over in variants.value.items():
        outcomes[variant] = _attempt(lambda variant=variant, over=over: _variant(file, variant, over, overrides, checks))
    failed = {variant: outcome for variant, outcome in outcomes.items() if isinstance(outcome, SimError)}
    if failed:
        raise SimError(_told_once(failed, len(outcomes)))
    return [outcome for outcome in outcomes.values() if isinstance(outcome, Scenario)]


def load_points(name: str | Path, overrides: Overrides = (), *, checks: Sequence[Check] = ()) -> list[Point]:
    """The points of the file's `sweep:`. A point that cannot be is listed with its reason. See `load`.

    Raises SimError for a mistake that every point shares: it is the file's, not the point's.
    """
    file = _File.open(name)
    file.refuse("variants", "variants beside a sweep: sweep one file for each variant (allowed `extends`)")
    if "sweep" not in keys(file.root):
        raise SimError(file.root.place.problem("sweep", "missing: play one scenario with `sim run`, load it with load"))
    points = []
    for values in assignments(keys(file.root)["sweep"]):
        outcome = _attempt(lambda values=values: file.build(_at_point(file.root, values), None, overrides, checks))
        shown = {path: plain(node) for path, node in values.items()}
        failed = isinstance(outcome, SimError)
        points.append(Point(shown, error=outcome) if failed else Point(shown, scenario=outcome))
    errors = [set(point.error.problems) if point.error else set() for point in points]
    if shared := set.intersection(*errors):
        first = points[0].error
        assert first is not None
        raise SimError([problem for problem in first.problems if problem in shared])
    return points


def dump(scenario: Scenario) -> dict[str, Any]:
    """The resolved scenario as plain values in SI, with every field, in the order of the fields."""
    return scenario.model_dump(mode="json")
