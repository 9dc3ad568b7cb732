"""Tables of a scoreboard, as text: what the terminal prints and the page shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sim import units
from sim.validation.causes import hint
from sim.validation.residuals import explained
from sim.validation.scoreboard import GROUPS, SETS, RunErrors, Scoreboard, errors_in

FIGURES = ("rows", "mean", "median", "bias", "p90", "max")
MAX_NAMES = 3


@dataclass(frozen=True)
class TextTable:
    """A titled table; `is_number` says which columns stand to the right."""

    title: str
    heads: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    is_number: tuple[bool, ...]


def sets_table(board: Scoreboard) -> TextTable:
    """The sets with a goal, or on which others publish figures; those of which no row was compared are left out."""
    rows = []
    for each in SETS:
        errors = errors_in(board.table[each.kept(board.table)], each.column) if len(board.table) else None
        if errors is not None:
            rows.append((each.title, *cells(errors), each.goal, each.peer))
    return _table("Sets", ("absolute %", *FIGURES, "goal", "others"), rows, words=("absolute %", "goal", "others"))


def group_table(board: Scoreboard, column: str) -> TextTable:
    """Errors of each value of a column, beside those of the constant MFU, and how many rows were left out."""
    rows = []
    for value, errors, table in board.groups(column):
        simple = errors_in(table, "constant_mfu_error")
        left_out = int((board.skipped[column] == value).sum())
        rows.append((value, *cells(errors), "" if simple is None else f"{simple.mape:.1f}", f"{left_out}"))
    head = "GPUs" if column == "size" else column
    return _table(f"By {head}", (head, *FIGURES, "constant MFU", "skipped"), rows, words=(head,))


def group_tables(board: Scoreboard) -> list[TextTable]:
    """One for each column of `GROUPS`."""
    return [group_table(board, column) for column in GROUPS]


def residuals_table(board: Scoreboard) -> TextTable:
    """Features by how much of the signed error goes with them."""
    rows = []
    for feature in explained(board.table):
        bins = ", ".join(f"{value}: {mean:+.0f} % ({count})" for value, count, mean in feature.bins)
        rank = "" if feature.rank_correlation is None else f"{feature.rank_correlation:+.2f}"
        rows.append((feature.name, f"{100 * feature.explained_frac:.0f} %", rank, bins))
    heads = ("feature", "explains", "rank", "mean signed error (rows)")
    return _table("What the error goes with", heads, rows, words=("feature", heads[-1]))


def rows_table(board: Scoreboard, num_rows: int | None = None) -> TextTable:
    """Rows, those that are furthest off first, with where to look for the cause."""
    rows = [
        (
            str(row["case_id"]),
            str(row["gpu"]),
            units.text(row["measured_s"], "s"),
            units.text(row["predicted_s"], "s"),
            f"{row['error']:+.0f} %",
            hint(board.table, row),
        )
        for row in _records(board, len(board.table) if num_rows is None else num_rows)
    ]
    heads = ("row", "GPU", "measured", "predicted", "off", "where to look")
    title = "All rows" if num_rows is None else "Furthest off"
    return _table(title, heads, rows, words=("row", "GPU", heads[-1]))


def skipped_table(board: Scoreboard) -> TextTable:
    """Rows that were not compared, by reason."""
    rows = []
    for reason, table in board.skipped.groupby("reason", sort=True):
        names = list(table["case_id"])
        more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
        rows.append((f"{len(table)}", str(reason), ", ".join(names[:MAX_NAMES]) + more))
    return _table("Skipped", ("rows", "reason", "which"), rows, words=("reason", "which"))


def cells(errors: RunErrors) -> tuple[str, ...]:
    """The columns `FIGURES`."""
    figures = (errors.mape, errors.median_ape)
    return (
        f"{errors.n:,}", *(f"{figure:.1f}" for figure in figures), f"{errors.bias:+.1f}", f"{errors.p90:.1f}",
        f"{errors.max_ape:.1f}",
    )  # fmt: skip


def _records(board: Scoreboard, num_rows: int) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in board.worst(num_rows).to_dict("records")]


def _table(title: str, heads: tuple[str, ...], rows: Sequence[tuple[str, ...]], words: tuple[str, ...]) -> TextTable:
    return TextTable(title, heads, rows, tuple(head not in words for head in heads))
