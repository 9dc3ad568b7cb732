"""The best result of every split: tensor-parallel against pipeline-parallel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import numpy as np
from matplotlib.figure import Figure as Canvas

from sim.report.figures.style import INK, PAPER, PNG_DPI, WIDTH_IN
from sim.report.points import Point
from sim.report.sets import SET_FIGURES

TP, PP = "layout.tp", "layout.pp"
COLOURS = "cividis"
DARK = 0.55


@final
class HeatMap:
    """One cell for each pair: tokens/s of a GPU of the fastest result that fits."""

    title = "Tensor-parallel against pipeline-parallel"
    caption = (
        "Each cell is the fastest result of its tp and pp that fits the memory, whatever else differs; a dash is a "
        "pair of which none fits, an empty cell one that nobody tried."
    )
    place = 3

    def applies(self, points: Sequence[Point]) -> bool:
        """Where both axes vary."""
        return all(len({point.settings.get(axis) for point in points} - {None}) > 1 for axis in (TP, PP))

    def draw(self, points: Sequence[Point]) -> Canvas:
        """Cells with their numbers."""
        known = [point for point in points if TP in point.settings and PP in point.settings]
        rows = sorted({float(point.settings[PP]) for point in known})
        columns = sorted({float(point.settings[TP]) for point in known})
        best = np.full((len(rows), len(columns)), np.nan)
        tried = np.zeros(best.shape, dtype=bool)
        for point in known:
            cell = rows.index(float(point.settings[PP])), columns.index(float(point.settings[TP]))
            tried[cell] = True
            if point.fits:
                best[cell] = np.fmax(best[cell], point.answers["tokens_per_s_per_gpu"])
        canvas = Canvas(figsize=(WIDTH_IN, 1.6 + 0.5 * len(rows)), dpi=PNG_DPI, layout="constrained")
        axes = canvas.subplots()
        shown = axes.pcolormesh(np.ma.masked_invalid(best), cmap=COLOURS, edgecolors=PAPER, linewidth=1.5)
        low, high = (np.nanmin(best), np.nanmax(best)) if not np.isnan(best).all() else (0.0, 1.0)
        for row, column in np.argwhere(tried):
            value = best[row, column]
            text = "-" if np.isnan(value) else f"{value:,.0f}"
            is_bright = not np.isnan(value) and value > low + DARK * (high - low)
            colour = INK if np.isnan(value) else "#000000" if is_bright else "#ffffff"
            axes.annotate(text, (column + 0.5, row + 0.5), ha="center", va="center", fontsize=8.5, color=colour)
        axes.set_xticks([0.5 + place for place in range(len(columns))], [f"{value:g}" for value in columns])
        axes.set_yticks([0.5 + place for place in range(len(rows))], [f"{value:g}" for value in rows])
        axes.set_xlabel("tp (GPUs)")
        axes.set_ylabel("pp (stages)")
        canvas.colorbar(shown, label="tokens/s of a GPU")
        axes.set_title(_point(best, rows, columns))
        return canvas


def _point(best: np.ndarray[tuple[int, int], np.dtype[np.float64]], rows: list[float], columns: list[float]) -> str:
    if np.isnan(best).all():
        return "No pair fits the memory"
    row, column = np.unravel_index(np.nanargmax(best), best.shape)
    return f"tp {columns[column]:g}, pp {rows[row]:g} is the fastest pair that fits"


SET_FIGURES.register("heatmap")(HeatMap())
