"""Pictures of a report, one file each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from sim.registry import Registry
from sim.simulation import Simulation

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas


class Figure(Protocol):
    """One picture. `simulations` come the best first; one of a single scenario is about that scenario."""

    title: str
    caption: str
    place: int
    """Where it stands among the others on the page."""

    def applies(self, simulations: Sequence[Simulation]) -> bool:
        """Whether it says something about these."""
        ...

    def draw(self, simulations: Sequence[Simulation]) -> Canvas:
        """The picture; `sim.report.figures.style.render` sets its fonts and saves it."""
        ...


FIGURES: Registry[Figure] = Registry("figure", "sim.report.figures")
