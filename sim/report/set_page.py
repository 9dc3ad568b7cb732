"""The page over a set of results: a table that can be sorted and searched, and the pictures of `sim.report.sets`."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sim import units
from sim.errors import SimError
from sim.registry import unknown
from sim.report.figures import FIGURES
from sim.report.figures.style import Picture, picture, render
from sim.report.html import template
from sim.report.page import inline
from sim.report.points import Point, ranked, told_apart, varied
from sim.report.sets import SET_FIGURES
from sim.report.tables import MILLION, percent, ranking, seconds
from sim.simulation import Simulation

OF_SETS = ("breakdown", "timeline", "memory", "memory_timeline", "topology")
"""Figures of a report that several played scenarios share with the page of a set."""

MOST_PLAYED = 12
"""Scenarios beside each other in one of those figures."""


ANSWER_HEADS = ("step time (s)", "tokens/s of a GPU", "MFU", "peak (GiB)", "fits", "W of a GPU", "USD/Mtok")


@dataclass(frozen=True)
class Cell:
    """Text of a cell, and what it is sorted by: a number, or nothing where the text decides."""

    text: str
    order: float | None = None


@dataclass(frozen=True)
class Drawn:
    """A figure on the page."""

    name: str
    title: str
    caption: str
    svg: str


def write_set_report(
    points: Sequence[Point], simulations: Sequence[Simulation], folder: Path, title: str, against: str | None = None
) -> Path:
    """Write `index.html`, `figures/*.svg` and `*.png`, and `points.csv`; the same bytes every time.

    simulations: of those points that were just played, for pictures that need a timeline.  against: name of the point
    that the best is compared with, by default the next best.

    Raises SimError where no point has that name.
    """
    assert points, "a page needs a point"
    order = _with_rival(ranked(points), against)
    pictures: list[tuple[str, str, str, Picture]] = []
    for name, figure in sorted(SET_FIGURES.items(), key=lambda item: item[1].place):
        if figure.applies(order):
            pictures.append((name, figure.title, figure.caption, picture(partial(figure.draw, order))))
    pictures += _played(simulations)
    figures = folder / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    for name, _, _, drawn in pictures:
        (figures / f"{name}.svg").write_text(drawn.svg, encoding="utf-8", newline="\n")
        (figures / f"{name}.png").write_bytes(drawn.png)
    (folder / "points.csv").write_text(points_csv(order), encoding="utf-8", newline="\n")
    heads, rows = _table(ranked(points))
    page = folder / "index.html"
    text = template("set.html").render(
        title=title,
        summary=summary(order),
        heads=heads,
        rows=rows,
        figures=[Drawn(name, head, caption, inline(name, drawn.svg)) for name, head, caption, drawn in pictures],
    )
    page.write_text(text, encoding="utf-8", newline="\n")
    return page


def _with_rival(points: list[Point], against: str | None) -> list[Point]:
    """The best, the one that it is compared with, then the others."""
    if against is None:
        return points
    names = [*(point.name for point in points), *told_apart(points)]
    if against not in names:
        raise SimError(unknown("result", against, [point.name for point in points]))
    rival = points[names.index(against) % len(points)]
    if rival is points[0]:
        raise SimError(f"{against} is the best itself (allowed the name of another result)")
    return [points[0], rival, *(point for point in points[1:] if point is not rival)]


def _played(simulations: Sequence[Simulation]) -> list[tuple[str, str, str, Picture]]:
    """Pictures with a timeline, of the best of those that were just played."""
    place = {id(result): index for index, result in enumerate(ranking([each.result for each in simulations]))}
    chosen = sorted(simulations, key=lambda each: place[id(each.result)])[:MOST_PLAYED]
    return [
        (name, FIGURES[name].title, FIGURES[name].caption, render(FIGURES[name], chosen))
        for name in OF_SETS
        if chosen and FIGURES[name].applies(chosen)
    ]


def summary(points: Sequence[Point]) -> str:
    """How many there are, and which is the best."""
    best = points[0]
    fitting = sum(point.fits for point in points)
    head = f"{len(points):,} results, of which {fitting:,} fit the memory. "
    if not best.fits:
        return head + "None of them can be trained."
    cost = best.answers.get("usd_per_token")
    money = "" if cost is None else f", ${MILLION * cost:,.2f} for a million tokens"
    return (
        f"{head}The fastest that fits is {best.name}: {seconds(best.answers['step_time_s'])} a step, "
        f"{best.answers['tokens_per_s_per_gpu']:,.0f} tokens/s of a GPU{money}."
    )


def _table(points: Sequence[Point]) -> tuple[list[str], list[list[Cell]]]:
    """Name, settings that differ, answers."""
    paths = list(varied(points))
    gib = units.parse("1 GiB", "bytes")
    heads = ["result", *paths, *ANSWER_HEADS]
    rows = []
    for point, name in zip(points, told_apart(points), strict=True):
        answers = point.answers
        cells = [Cell(name)]
        for path in paths:
            value = point.settings[path]
            cells.append(Cell(str(value), None if isinstance(value, str) else float(value)))
        cells += [
            Cell(f"{answers['step_time_s']:.3f}", answers["step_time_s"]),
            Cell(f"{answers['tokens_per_s_per_gpu']:,.0f}", answers["tokens_per_s_per_gpu"]),
            _optional(answers.get("mfu"), percent(answers.get("mfu"))),
            Cell(f"{answers['peak_bytes'] / gib:.1f}", answers["peak_bytes"]),
            Cell("yes" if point.fits else "no"),
            _optional(answers.get("gpu_w"), f"{answers.get('gpu_w', 0):,.0f}"),
            _optional(answers.get("usd_per_token"), f"{MILLION * answers.get('usd_per_token', 0):,.2f}"),
        ]
        rows.append(cells)
    return heads, rows


def _optional(value: float | None, text: str) -> Cell:
    return Cell("-") if value is None else Cell(text, value)


def points_csv(points: Sequence[Point]) -> str:
    """One line for each point: name, whether it fits, settings that differ, and all answers, unrounded, in SI."""
    paths = list(varied(points))
    answers = list(dict.fromkeys(key for point in points for key in point.answers))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["name", "fits", *paths, *answers])
    for point in points:
        settings = [point.settings[path] for path in paths]
        writer.writerow([point.name, point.fits, *settings, *(point.answers.get(key, "") for key in answers)])
    return text.getvalue()
