"""A plan as an HTML page that opens offline, with its figures, `plan.json`, and every table as a CSV file."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path

from sim.decide.answer import Answer, Grid
from sim.decide.planner import Decided
from sim.decide.wording import said
from sim.report.figures.style import picture
from sim.report.html import template
from sim.report.page import inline
from sim.report.plan_figures import FIGURES

TEMPLATE = "plan.html"


@dataclass(frozen=True)
class Cells:
    """A grid in words, for the page: heads, rows with whether they are chosen, and which columns are numbers."""

    name: str
    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[bool, tuple[str, ...]], ...]
    is_number: tuple[bool, ...]
    note: str


def write_plan(decided: Decided, folder: Path) -> Path:
    """Write `index.html`, `figures/`, `tables/` and `plan.json`; the same bytes every time. Returns the page."""
    figures, tables = folder / "figures", folder / "tables"
    figures.mkdir(parents=True, exist_ok=True)
    tables.mkdir(parents=True, exist_ok=True)
    drawn: dict[int, list[tuple[str, str, str]]] = {}
    for figure in FIGURES:
        if not figure.applies(decided):
            continue
        drawing = picture(lambda figure=figure: figure.draw(decided))  # type: ignore[misc]
        (figures / f"{figure.name}.svg").write_text(drawing.svg, encoding="utf-8", newline="\n")
        (figures / f"{figure.name}.png").write_bytes(drawing.png)
        drawn.setdefault(figure.number, []).append((figure.name, figure.caption, inline(figure.name, drawing.svg)))
    for answer in decided.answers:
        for grid in answer.grids:
            (tables / f"{grid.name}.csv").write_text(grid_csv(grid), encoding="utf-8", newline="\n")
    text = json.dumps(decided.to_dict(), indent=2, allow_nan=False) + "\n"
    (folder / "plan.json").write_text(text, encoding="utf-8", newline="\n")
    page = folder / "index.html"
    page.write_text(_html(decided, drawn), encoding="utf-8", newline="\n")
    return page


def grid_csv(grid: Grid) -> str:
    """The unrounded numbers; a head is followed by its unit, what does not exist is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(f"{column.head} ({column.unit})" if column.unit else column.head for column in grid.columns)
    writer.writerows(["" if cell is None else cell for cell in row] for row in grid.rows)
    return text.getvalue()


def _html(decided: Decided, drawn: dict[int, list[tuple[str, str, str]]]) -> str:
    return template(TEMPLATE).render(
        title=decided.planned.plan.name,
        summary=decided.summary,
        answers=[(answer, [_cells(grid) for grid in answer.grids], _moves(answer)) for answer in decided.answers],
        drawn=drawn,
        said=said,
    )


def _cells(grid: Grid) -> Cells:
    rows = tuple(
        (index == grid.chosen, tuple(said(cell, column.unit) for cell, column in zip(row, grid.columns, strict=True)))
        for index, row in enumerate(grid.rows)
    )
    heads = tuple(column.head for column in grid.columns)
    return Cells(grid.name, grid.title, heads, rows, tuple(column.unit != "" for column in grid.columns), grid.note)


def _moves(answer: Answer) -> list[tuple[str, ...]]:
    return [
        (effect.change, effect.result, *(said(value, effect.unit) for value in (effect.low, effect.given, effect.high)))
        for effect in answer.sensitivity
    ]
