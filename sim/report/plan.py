"""A plan on the terminal: six answers with their tables, or with the chain of formulas behind them."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.text import Text

from sim.decide.answer import Answer, Grid
from sim.decide.planner import Decided
from sim.decide.wording import said

INDENT = "   "
MOST_ROWS = 12
MOST_CELL = 56
"""Of a table on the terminal; the report and the JSON have all of it."""


def print_plan(decided: Decided, console: Console, *, explain: bool) -> None:
    """Each answer: the sentence, what to be careful about, its tables or its formulas, and how far it moves."""
    for answer in decided.answers:
        console.print(Text(f"\n{answer.number}. {answer.question}", style="bold"))
        for line in _lines(answer, console.width, explain=explain):
            console.print(Text(line), soft_wrap=True)
    console.print()
    for line in textwrap.wrap(decided.summary, console.width):
        console.print(Text(line, style="bold"), soft_wrap=True)


def _lines(answer: Answer, width: int, *, explain: bool) -> Iterator[str]:
    given = "Given by the plan. " if answer.is_given else ""
    yield from textwrap.wrap(given + answer.text, width, initial_indent=INDENT, subsequent_indent=INDENT)
    for caution in answer.cautions:
        yield from textwrap.wrap(f"! {caution}", width, initial_indent=INDENT, subsequent_indent=f"{INDENT}  ")
    if explain:
        yield from _chain(answer)
    else:
        for grid in answer.grids:
            yield ""
            yield f"{INDENT}{grid.title}"
            yield from table_lines(grid)
    if answer.sensitivity:
        yield ""
        yield f"{INDENT}How far it moves"
    for effect in answer.sensitivity:
        low, given_value, high = (said(value, effect.unit) for value in (effect.low, effect.given, effect.high))
        yield f"{INDENT}  {effect.change}: {effect.result} {low} .. {given_value} .. {high}"


def _chain(answer: Answer) -> Iterator[str]:
    """Every formula, its numbers, its value, its source."""
    for step in answer.steps:
        yield ""
        yield f"{INDENT}{step.what} = {step.formula}"
        yield f"{INDENT}  {step.numbers}"
        yield f"{INDENT}  = {said(step.value, step.unit)}    [{step.source}]"


def table_lines(grid: Grid, most: int = MOST_ROWS) -> Iterator[str]:
    """The table with aligned columns; the chosen row is marked; beyond `most` rows it is cut."""
    rows = [
        (index, [said(cell, column.unit) for cell, column in zip(row, grid.columns, strict=True)])
        for index, row in enumerate(grid.rows)
    ]
    shown = [row for row in rows if row[0] < most or row[0] == grid.chosen]
    cells = [[column.head for column in grid.columns], *([_cut(cell) for cell in row] for _, row in shown)]
    widths = [max(len(line[place]) for line in cells) for place in range(len(grid.columns))]
    is_number = [column.unit != "" for column in grid.columns]
    marks = ["  ", *("* " if index == grid.chosen else "  " for index, _ in shown)]
    for mark, line in zip(marks, cells, strict=True):
        yield (INDENT + mark + "  ".join(_padded(line, widths, is_number))).rstrip()
    if len(shown) < len(rows):
        yield f"{INDENT}  and {len(rows) - len(shown)} more in the report and in --json"


def _padded(line: Sequence[str], widths: Sequence[int], is_number: Sequence[bool]) -> Iterator[str]:
    for cell, width, right in zip(line, widths, is_number, strict=True):
        yield cell.rjust(width) if right else cell.ljust(width)


def _cut(cell: str) -> str:
    return cell if len(cell) <= MOST_CELL else f"{cell[: MOST_CELL - 3]}..."
