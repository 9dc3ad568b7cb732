"""Terminal output: a panel for one result, a table for several, plain lines where nobody reads it on a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from sim.program.memory import verdict
from sim.program.schedule_file import schedule_of
from sim.report.spent import spent_energy, spent_money, whole_run
from sim.report.tables import Column, Row, columns_for, comparison_rows, gibibytes, percent, seconds
from sim.report.words import by_group
from sim.results.result import Result

BAR_WIDTH = 40
PLAIN_WIDTH = 120
SAME_STEP = 1e-3
"""Below this share a step of its own is not told apart from one of many."""
GOOD, BAD = "green", "red"
KEPT = ("name", "step_time_s", "step_time_over_best", "mfu", "fits")
"""Columns that even a narrow terminal shows."""


def print_result(result: Result, console: Console) -> None:
    """Key numbers of one result, and where its step goes."""
    facts = key_numbers(result)
    if not console.is_terminal:
        _plain(console, [result.name, *(f"  {name:<14} {value}" for name, value in facts), *_plain_breakdown(result)])
        return
    grid = Table.grid(padding=(0, 2))
    for name, value in facts:
        style = (GOOD if result.fits else BAD) if name == "memory" else ""
        grid.add_row(Text(name, style="dim"), Text(value, style=style))
    console.print(Panel(grid, title=Text(result.name, style="bold"), title_align="left", expand=False))
    console.print(_breakdown(result, console))
    for note in result.notes:
        console.print(Text(f"note: {note}", style="yellow"))


def _bubble(result: Result) -> str:
    """The played bubble beside the published one, which some schedules promise within each rank's own span only."""
    closed = result.bubble_fraction_closed_form
    closed_text = f"closed form {percent(closed)}" if closed is not None else f"no closed form: {result.bubble_note}"
    played = percent(result.bubble_fraction)
    if schedule_of(result.scenario.layout.schedule).span == "pipeline":
        return f"{played} ({closed_text})"
    return f"{played}; within each rank's own span {percent(result.bubble_fraction_steady)} ({closed_text})"


def key_numbers(result: Result) -> list[tuple[str, str]]:
    """The answers of one result: (name, text)."""
    exposed = sum(result.exposed_s_by_kind.values())
    facts = [
        ("step time", f"{seconds(result.step_time_s)} on {result.num_gpus:,} GPUs"),
        ("throughput", f"{result.tokens_per_s_per_gpu:,.0f} tokens/s/GPU, {result.tokens_per_s:,.0f} tokens/s"),
        ("MFU", f"{percent(result.mfu)} ({percent(result.mfu_causal)} causal; HFU {percent(result.hfu)})"),
        ("bubble", _bubble(result)),
        ("communication", f"{seconds(exposed)} exposed, {percent(result.overlap_fraction)} overlapped"),
        ("memory", f"{gibibytes(result.peak_bytes)} at the peak, {verdict(result.memory)}"),
        ("power", spent_energy(result)),
        *([("cost", spent_money(result))] if result.usd is not None else []),
        *([("whole run", whole_run(result.spending.run))] if result.spending.run is not None else []),
        (
            "played",
            f"{result.simulated_operations:,} of {result.operations:,} operations, on {result.simulated_ranks:,} ranks",
        ),
    ]
    if not math.isclose(result.lone_step_s, result.step_time_s, rel_tol=SAME_STEP):
        facts.insert(
            1, ("a lone step", f"{seconds(result.lone_step_s)}: in a steady run ranks do not wait for the last")
        )
    measured = result.scenario.measured
    if measured is not None:
        error = result.step_time_s / measured.step_time_s - 1
        facts.insert(
            1, ("measured", f"{seconds(measured.step_time_s)}, {100 * error:+.1f} % simulated ({measured.source})")
        )
    return facts


def _breakdown(result: Result, console: Console) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), title="where the step goes", title_justify="left")
    table.add_column("cause")
    table.add_column("time", justify="right", no_wrap=True)
    table.add_column("share", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    groups = by_group(result.breakdown_s)
    rows = [(group.name, seconds(value), percent(value / result.step_time_s)) for group, value in groups.items()]
    beside = sum(2 + max(len(row[index]) for row in rows) for index in range(3))
    unit = min(BAR_WIDTH, max(console.width - beside - 2, 0)) / max(groups.values())
    mark = "\N{FULL BLOCK}" if console.encoding.startswith("utf") else "#"
    for row, (group, value) in zip(rows, groups.items(), strict=True):
        table.add_row(*row, Text(mark * round(unit * value), style=group.colour))
    return table


def _plain_breakdown(result: Result) -> list[str]:
    lines = ["  where the step goes"]
    for group, value in by_group(result.breakdown_s).items():
        lines.append(f"    {group.name:<36}{seconds(value):>12}{percent(value / result.step_time_s):>9}")
    return [*lines, *(f"  note: {note}" for note in result.notes)]


def print_comparison(results: Sequence[Result], console: Console) -> None:
    """A table of several results, the best first: within 120 columns, or what a narrower terminal has room for."""
    rows = comparison_rows(results)
    columns = columns_for(rows)
    if not console.is_terminal:
        _plain(console, plain_table(rows, columns))
        return
    columns, left_out = fitting(rows, columns, console.width)
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    for column in columns:
        head = "\n".join(column.head)
        if column.is_number:
            table.add_column(head, justify="right", no_wrap=True)
        else:
            table.add_column(head, overflow="fold", min_width=12, max_width=_most_of_a_name(console.width))
    for row in rows:
        cells = [Text(column.text(row), style=_style(column, row)) for column in columns]
        table.add_row(*cells, style="bold" if row is rows[0] and row["fits"] else "")
    console.print(table)
    if left_out:
        names = [" ".join(column.head).strip().replace("- ", "").replace(" /", "/") for column in left_out]
        console.print(
            Text(f"no room here for: {', '.join(names)} (a wider terminal or the report shows them)", style="dim")
        )


def fitting(rows: Sequence[Row], columns: Sequence[Column], width: int) -> tuple[list[Column], list[Column]]:
    """Columns for which a terminal of `width` characters has room, and those left out, from the right, for the rest."""
    shown = list(columns)
    left_out: list[Column] = []
    for column in reversed(columns):
        if sum(1 + min(_width(each, rows), _most_of_a_name(width)) for each in shown) <= width:
            break
        if column.key not in KEPT:
            shown.remove(column)
            left_out.insert(0, column)
    return shown, left_out


def _most_of_a_name(width: int) -> int:
    """Characters after which a name goes on in the next line."""
    return max(16, width // 3)


def _width(column: Column, rows: Sequence[Row]) -> int:
    return max(map(len, (*column.head, *(column.text(row) for row in rows))))


def _style(column: Column, row: Row) -> str:
    if column.key == "fits":
        return GOOD if row["fits"] else BAD
    return "" if row["fits"] else "dim"


def plain_table(rows: Sequence[Row], columns: Sequence[Column]) -> list[str]:
    """The table as lines of text with aligned columns."""
    cells = [[column.head[line] for column in columns] for line in range(2)]
    cells += [[column.text(row) for column in columns] for row in rows]
    widths = [max(len(line[index]) for line in cells) for index in range(len(columns))]
    gap = " " if sum(widths) + 2 * len(widths) > PLAIN_WIDTH else "  "
    lines = []
    for line in cells:
        padded = [
            text.rjust(width) if column.is_number else text.ljust(width)
            for text, width, column in zip(line, widths, columns, strict=True)
        ]
        lines.append(gap.join(padded).rstrip())
    return lines


def _plain(console: Console, lines: Sequence[str]) -> None:
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
