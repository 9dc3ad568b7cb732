"""Paces as a stack's file has them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from sim.spec.pace import Pace
from sim.validation.pace_fit import PaceFit

_BLOCK = re.compile(r"^pace:.*\n(?:[ \t].*\n)*", re.MULTILINE)
_SOURCE = re.compile(r"^  pace: .*\n(?:    .*\n)*", re.MULTILINE)


def pace_block(fits: Sequence[PaceFit]) -> str:
    """The key `pace` with what is fitted; constants that are as in microbenchmarks are left out."""
    lines = [f"  {fit.key}: {{{_constants(fit.pace)}}}\n" for fit in fits]
    return "pace:\n" + "".join(lines) if lines else "pace: {}\n"


def _constants(pace: Pace) -> str:
    neutral = Pace()
    return ", ".join(
        f"{name}: {value:g}" for name, value in pace.model_dump().items() if value != getattr(neutral, name)
    )


def with_pace(text: str, fits: Sequence[PaceFit]) -> str:
    """The text of a stack's file with other paces, and their source: which steps, and the errors."""
    assert _BLOCK.search(text) is not None, "a stack has a pace"
    text = _BLOCK.sub(lambda _: pace_block(fits), text, count=1)
    return _SOURCE.sub(lambda _: f"  pace: {_source(fits)}\n", text, count=1)


def _source(fits: Sequence[PaceFit]) -> str:
    if not fits:
        return "'none: no published steps'"
    parts = [
        f"{fit.key} {fit.num_rows} steps of {', '.join(fit.sources)} ({fit.alone:.1f} % off as in microbenchmarks, "
        f"{fit.fitted:.1f} % fitted, {fit.other_half:.1f} % for half of them by the other)"
        for fit in fits
    ]
    return f"'sim calibrate step, sim/catalog/runs/published.csv: {'; '.join(parts)}'"
