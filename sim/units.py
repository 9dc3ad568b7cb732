"""Human units at the edge, SI inside: the only place that knows what a GiB, a Gbit/s or a microsecond is."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping

EXAMPLES: dict[str, str] = {
    "bytes": "80 GiB",
    "bytes/s": "400 Gbit/s",
    "s": "1.5 us",
    "FLOP/s": "989.4 TFLOP/s",
    "W": "700 W",
}
"""Every dimension, by its SI unit, with a value as a file may give it."""

_DECIMAL = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
_BINARY = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50}
_BITS_PER_BYTE = 8


def _scaled(unit: str, prefixes: Mapping[str, float]) -> dict[str, float]:
    return {prefix + unit: factor for prefix, factor in prefixes.items()}


_UNITS: dict[str, dict[str, float]] = {
    "bytes": _scaled("B", _DECIMAL | _BINARY),
    "bytes/s": _scaled("B/s", _DECIMAL | _BINARY)
    | {unit: factor / _BITS_PER_BYTE for unit, factor in _scaled("bit/s", _DECIMAL).items()},
    "s": {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0},
    "FLOP/s": _scaled("FLOP/s", _DECIMAL),
    "W": _scaled("W", {"": 1.0, "k": 1e3, "M": 1e6}),
}

_SHOWN: dict[str, dict[str, float]] = {
    "bytes": _scaled("B", {"": 1.0} | _BINARY),
    "bytes/s": _scaled("B/s", _DECIMAL),
    "s": {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0},
    "FLOP/s": _UNITS["FLOP/s"],
    "W": _UNITS["W"],
}

# Spellings that are common but say two things at once (is Gb a bit or a byte?); they are never read, only explained.
_MEANT = {
    "bps": "bit/s",
    "bit": "bit/s",
    "bits/s": "bit/s",
    "b/s": "bit/s",
    "Bps": "B/s",
    "B": "B/s",
    "b": "B",
    "FLOPS": "FLOP/s",
    "FLOPs": "FLOP/s",
    "FLOPs/s": "FLOP/s",
    "flops": "FLOP/s",
    "FLOP": "FLOP/s",
    "sec": "s",
    "\u00b5s": "us",
    "\u03bcs": "us",
}

_NUMBER_AND_UNIT = re.compile(r"\s*([0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?|[0-9]+\.)\s*([^\s0-9.]\S*)\s*", re.ASCII)


def parse(value: object, dimension: str) -> float:
    """SI value of a number with its unit; a bare number is in the SI unit, which is the dimension's name.

    Raises ValueError on another unit, and on what is negative, infinite or no number.

    >>> parse("400 Gbit/s", "bytes/s")
    50000000000.0
    >>> parse("2 KiB", "bytes")
    2048.0
    """
    si = None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        si = _float(value)
    elif isinstance(value, str) and (match := _NUMBER_AND_UNIT.fullmatch(value)):
        factor = _UNITS[dimension].get(match[2])
        si = None if factor is None else float(match[1]) * factor
    if si is None or not 0 <= si < math.inf:
        raise ValueError(_refusal(value, dimension))
    return si


def _float(value: float) -> float:
    """Infinity for an integer that no float can hold."""
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _refusal(value: object, dimension: str) -> str:
    got = repr(value)
    got = got if len(got) <= 60 else f"{got[:57]}..."
    hint = f", did you mean {meant!r}?" if (meant := _meant(value, dimension)) else ""
    return f"got {got}, allowed a value such as {EXAMPLES[dimension]!r}{hint}"


def _meant(value: object, dimension: str) -> str | None:
    """The value with the unit that was probably meant."""
    match = _NUMBER_AND_UNIT.fullmatch(value) if isinstance(value, str) else None
    if match is None or match[2] in _UNITS[dimension]:
        return None
    number, unit = match.groups()
    allowed = list(_UNITS[dimension])
    candidates = [unit, *(unit[: -len(end)] + right for end, right in _MEANT.items() if unit.endswith(end))]
    for candidate in candidates:
        if candidate in allowed:
            return f"{number} {candidate}"
    by_lower_case = {name.lower(): name for name in allowed}
    for candidate in candidates:
        if candidate.lower() in by_lower_case:
            return f"{number} {by_lower_case[candidate.lower()]}"
    close = difflib.get_close_matches(unit, allowed, n=1)
    return f"{number} {close[0]}" if close else None


def text(value: float, dimension: str) -> str:
    """Three significant digits and the unit that suits them: bytes in binary units, all else in decimal ones.

    >>> text(31.2 * 2**30, "bytes"), text(0.00035, "s"), text(450e9, "bytes/s")
    ('31.2 GiB', '350 us', '450 GB/s')
    """
    units = _SHOWN[dimension]
    fitting = [unit for unit, factor in units.items() if float(f"{abs(value) / factor:.3g}") >= 1]
    unit = fitting[-1] if fitting else dimension if value == 0 and dimension in units else next(iter(units))
    scaled = value / units[unit]
    digits = f"{scaled:.0f}" if abs(scaled) >= 999.5 else f"{scaled:.3g}"
    return f"{digits} {unit}"
