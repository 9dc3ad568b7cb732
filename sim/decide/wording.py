"""Numbers of an answer in words: three digits and the unit that people say."""

from __future__ import annotations

import math
from collections.abc import Callable

from sim import units
from sim.decide.answer import Unit, Value

_SCALES = ((1e15, "P"), (1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))
_TIMES = ((86400.0, "days"), (3600.0, "h"), (60.0, "min"))


def said(value: Value, unit: Unit = "") -> str:
    """A value for a table or a sentence; a dash for what does not exist.

    >>> said(1.38e12, "tokens"), said(5.76e23, "FLOP"), said(0.75, "share"), said(3.3e6, "s"), said(None)
    ('1.38T', '5.76e+23', '75.0 %', '38.2 days', '-')
    """
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case str():
            return value
        case _:
            return _number(float(value), unit)


def _number(value: float, unit: Unit) -> str:
    if math.isinf(value):
        return "never" if value > 0 else "always"
    return _WORDS.get(unit, _plain)(value)


def _plain(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) or abs(value) >= 1000 else f"{value:.3g}"


def _bytes(value: float) -> str:
    giga, tera = units.parse("1 GB", "bytes"), units.parse("1 TB", "bytes")
    return f"{value / giga:,.2f} GB" if abs(value) < 10 * tera else f"{value / tera:,.2f} TB"


def _scaled(value: float) -> str:
    """Three digits and the letter of a scale."""
    for scale, letter in _SCALES:
        if float(f"{abs(value):.3g}") >= scale:
            return f"{value / scale:.3g}{letter}" if float(f"{abs(value):.3g}") < 1000 * scale else f"{value:.3g}"
    return f"{value:.3g}"


def _time(value_s: float) -> str:
    for unit_s, name in _TIMES:
        if value_s >= 2 * unit_s:
            return f"{value_s / unit_s:,.3g} {name}" if value_s < 1000 * unit_s else f"{value_s / unit_s:,.0f} {name}"
    return f"{value_s:.3g} s"


_WORDS: dict[Unit, Callable[[float], str]] = {
    "bytes": _bytes,
    "bytes/s": lambda value: units.text(value, "bytes/s"),
    "s": _time,
    "share": lambda value: f"{100 * value:.1f} %",
    "x": lambda value: f"{value:.3g} x",
    "FLOP": lambda value: f"{value:.3g}",
    "tokens": _scaled,
    "parameters": _scaled,
    "h": _scaled,
    "usd": lambda value: f"${_scaled(value)}",
    "nats": lambda value: f"{value:.4f}",
}
"""How a number of each unit is said."""
