"""Pictures of a set of results, one file each: they need no timeline, only what a file holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from sim.registry import Registry
from sim.report.points import Point

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas


class SetFigure(Protocol):
    """One picture. `points` come the best first."""

    title: str
    caption: str
    place: int
    """Where it stands among the others on the page."""

    def applies(self, points: Sequence[Point]) -> bool:
        """Whether it says something about these."""
        ...

    def draw(self, points: Sequence[Point]) -> Canvas:
        """The picture; `sim.report.figures.style.picture` sets its fonts and saves it."""
        ...


SET_FIGURES: Registry[SetFigure] = Registry("figure of a set", "sim.report.sets")
