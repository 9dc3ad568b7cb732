"""Conditions over a scenario's fields, such as `layout.tp * layout.pp <= 64`: which points a sweep keeps.

An expression has dotted paths, numbers, texts in quotes, `true`, `false`, `null`, lists, `and`, `or`, `not`,
comparisons, `in`, and `+ - * / // %`. It is read with Python's grammar and evaluated here; nothing of it is executed.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

Lookup: TypeAlias = Callable[[str], Any]
"""Value at a dotted path. Raises LookupError where there is none."""

MAX_LENGTH = 1_000

_CONSTANTS = {"true": True, "false": False, "null": None}
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda item, items: item in items,
    ast.NotIn: lambda item, items: item not in items,
}


@dataclass(frozen=True)
class Condition:
    """An expression that was read, and its text."""

    text: str
    tree: ast.expr

    def holds(self, lookup: Lookup) -> bool:
        """Whether the expression is true of the values that `lookup` finds.

        Raises ValueError for a path without a value, types that cannot be compared, and a division by 0.

        >>> condition("layout.tp * 2 <= 16 and precision in ['bf16', 'fp8']").holds({"layout.tp": 8,
        ... "precision": "bf16"}.__getitem__)
        True
        """
        try:
            value = _value(self.tree, lookup)
        except (TypeError, ZeroDivisionError, OverflowError) as error:
            raise ValueError(f"{error} (got {self.text!r})") from error
        except LookupError as error:
            raise ValueError(f"no value at {error.args[0]!r} (got {self.text!r})") from error
        if not isinstance(value, bool):
            raise ValueError(f"neither true nor false (got {self.text!r}, which is {value!r})")  # noqa: TRY004 - see holds
        return value


def condition(text: str) -> Condition:
    """The expression that `text` holds. Raises ValueError for what is none."""
    if len(text) > MAX_LENGTH:
        raise ValueError(f"too long ({len(text)} characters, allowed up to {MAX_LENGTH})")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        _refuse_what_is_not_read(tree, text)
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"no expression (got {text!r}, allowed such as 'layout.tp <= 8')") from error
    return Condition(text, tree)


def _refuse_what_is_not_read(tree: ast.expr, text: str) -> None:
    allowed = (
        *(ast.BoolOp, ast.boolop, ast.UnaryOp, ast.Not, ast.USub, ast.Compare, ast.BinOp, ast.Constant, ast.List),
        *(ast.Tuple, ast.Name, ast.Attribute, ast.expr_context, *_ARITHMETIC, *_COMPARISONS),
    )
    for node in ast.walk(tree):
        is_read = isinstance(node, allowed)
        if isinstance(node, ast.Attribute):
            is_read = isinstance(node.value, (ast.Name, ast.Attribute))
        if isinstance(node, ast.Constant):
            is_read = isinstance(node.value, (int, float, str, bool, type(None)))
        if not is_read:
            what = ast.unparse(node) if isinstance(node, ast.expr) else type(node).__name__
            raise ValueError(
                f"cannot be read: {what!r} (got {text!r}, allowed paths, numbers, texts, lists, and or not, "
                "comparisons, in, + - * / // %)"
            )


def _value(node: ast.expr, lookup: Lookup) -> Any:  # noqa: PLR0911 - one line a kind of node
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name() | ast.Attribute():
            path = ast.unparse(node)
            value = _CONSTANTS[path] if path in _CONSTANTS else lookup(path)
            return list(value) if isinstance(value, tuple) else value
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_value(item, lookup) for item in items]
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return not _truth(operand, lookup)
        case ast.UnaryOp(operand=operand):
            return -_number(_value(operand, lookup))
        case ast.BinOp(left=left, op=op, right=right):
            return _ARITHMETIC[type(op)](_number(_value(left, lookup)), _number(_value(right, lookup)))
        case ast.BoolOp(op=ast.And(), values=values):
            return all(_truth(value, lookup) for value in values)
        case ast.BoolOp(values=values):
            return any(_truth(value, lookup) for value in values)
        case ast.Compare():
            return _compared(node, lookup)
    raise AssertionError(ast.dump(node))


def _truth(node: ast.expr, lookup: Lookup) -> bool:
    value = _value(node, lookup)
    if not isinstance(value, bool):
        raise TypeError(f"{ast.unparse(node)} is {value!r}, neither true nor false")
    return value


def _number(value: Any) -> int | float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{value!r} is no number")
    return value


def _compared(node: ast.Compare, lookup: Lookup) -> bool:
    left = _value(node.left, lookup)
    for op, comparator in zip(node.ops, node.comparators, strict=True):
        right = _value(comparator, lookup)
        if not _COMPARISONS[type(op)](left, right):
            return False
        left = right
    return True
