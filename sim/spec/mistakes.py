"""Pydantic's errors in the words of a scenario file: place, path, what it got, what is allowed, what was meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from sim.errors import Problem, SimError
from sim.registry import unknown
from sim.spec.quantity import UNITS_REQUIRED
from sim.spec.source import Node, locate, plain

T = TypeVar("T", bound=BaseModel)

_ALLOWED = {
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text",
    "model_type": "a mapping of keys to values",
    "model_attributes_type": "a mapping of keys to values",
    "dict_type": "a mapping of keys to values",
    "tuple_type": "a list",
}
_LIMITS = {
    "greater_than": (">", "gt"),
    "greater_than_equal": (">=", "ge"),
    "less_than": ("<", "lt"),
    "less_than_equal": ("<=", "le"),
}
_MAX_SHOWN = 60


def validated(spec: type[T], node: Node, path: str) -> T:
    """`node` as a `spec`. Raises SimError with every mistake in it; paths begin with `path`."""
    try:
        return spec.model_validate(plain(node), context={UNITS_REQUIRED: True})
    except ValidationError as error:
        raise SimError([_problem(spec, node, path, details) for details in error.errors(include_url=False)]) from error


def shown(value: Any) -> str:
    """A value for a message: on one line and not too long."""
    if isinstance(value, Mapping):
        return f"a mapping with {', '.join(map(str, value))}"[:_MAX_SHOWN] if value else "an empty mapping"
    match value:
        case None:
            text = "nothing"
        case bool():
            text = str(value).lower()
        case _:
            text = repr(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 3]}..."


def joined(path: str, parts: Sequence[str | int]) -> str:
    """Dotted path of `parts` below `path`."""
    return ".".join(str(part) for part in (path, *parts) if part != "")


def _problem(spec: type[BaseModel], node: Node, path: str, details: Any) -> Problem:
    kind = details["type"]
    loc = list(_real(node, details["loc"]))
    if kind in ("missing", "extra_forbidden") and (not loc or loc[-1] != details["loc"][-1]):
        loc.append(details["loc"][-1])
    return locate(node, loc).problem(joined(path, loc), _message(spec, loc, details))


def _real(node: Node, loc: Sequence[str | int]) -> Iterator[str | int]:
    """The parts of pydantic's location that stand in the file; it adds names for the branches of a union."""
    for part in loc:
        value = node.value
        if isinstance(value, dict) and part in value:
            node = value[str(part)]
            yield part
        elif isinstance(value, tuple) and isinstance(part, int):
            node = value[part]
            yield part


def _message(spec: type[BaseModel], loc: Sequence[str | int], details: Any) -> str:
    kind, context = details["type"], details.get("ctx", {})
    got = f"got {shown(details['input'])}"
    match kind:
        case "extra_forbidden":
            message = unknown("key", str(loc[-1]), _keys(_spec_at(spec, loc[:-1])))
        case "missing":
            message = "missing"
        case "too_short":
            message = "empty (allowed one value or more)"
        case "literal_error":
            message = _literal(details["input"], context["expected"])
        case "value_error":
            reason = str(context["error"])
            message = f"wrong value ({reason})" if reason.startswith("got ") else reason
        case "string_pattern_mismatch":
            message = f"wrong value ({got}, allowed a name without /, \\ or a leading dot)"
        case "stage_layers":
            message = f"wrong type ({got}, {details['msg']})"
        case _:
            message = worded(details)
    return message


def worded(details: Any) -> str:
    """What pydantic says of a value's type and range, in the words of a scenario file."""
    kind, got = details["type"], f"got {shown(details['input'])}"
    if kind in _LIMITS:
        sign, limit = _LIMITS[kind]
        return f"out of range ({got}, allowed {sign} {details['ctx'][limit]})"
    if kind in _ALLOWED:
        return f"wrong type ({got}, allowed {_ALLOWED[kind]})"
    return f"{details['msg'].removeprefix('Value error, ')} ({got})"


def _literal(value: Any, expected: str) -> str:
    """`expected` is pydantic's list: 'bf16' or 'fp16'."""
    allowed = re.findall(r"'([^']*)'", expected)
    close = difflib.get_close_matches(value, allowed, n=1) if isinstance(value, str) else []
    hint = f", did you mean {close[0]!r}?" if close else ""
    return f"wrong value (got {shown(value)}, allowed {expected}{hint})"


def _keys(spec: type[BaseModel] | None) -> list[str]:
    fields = spec.model_fields if spec is not None else {}
    return [field.alias or name for name, field in fields.items()]


def _spec_at(spec: type[BaseModel], loc: Sequence[str | int]) -> type[BaseModel] | None:
    """The class that describes what stands at `loc` within `spec`; None where no class of ours does."""
    found: type[BaseModel] | None = spec
    for part in loc:
        fields = found.model_fields if found is not None else {}
        field = next((field for name, field in fields.items() if part in (field.alias, name)), None)
        found = next(_specs(field.annotation), None) if field is not None else None
    return found


def _specs(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _specs(inner)
