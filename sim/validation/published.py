"""Tables of measured training steps: rows as they were published, each with its place in the file."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sim.errors import Problem, SimError

REQUIRED = ("case_id", "source", "gpu", "num_gpus", "step_time_derived_s")
"""Columns without which a file is no table of runs. All others of `COLUMNS` may be missing or blank."""

COLUMNS = (
    *("case_id", "source", "source_loc", "year", "gpu", "gpus_per_node", "num_gpus", "network", "model", "kind"),
    *("layers", "hidden", "heads", "head_dim", "kv_heads", "ffn_hidden", "gated_mlp", "vocab", "tied_embeddings"),
    *("seq_len", "num_experts", "top_k", "moe_ffn_hidden", "shared_expert_ffn", "first_dense_layers", "attention"),
    *("TP", "PP", "VPP", "CP", "EP", "ETP", "shard", "sequence_parallel", "micro_batch", "global_batch", "precision"),
    *("recompute", "recompute_detail", "flash_attn", "schedule", "framework", "tflops_per_gpu", "peak_mem_gb"),
    *("mem_definition", "step_time_derived_s", "scale_proxy", "tier", "repeat_group", "notes", "gold"),
)
"""What is read of a row; further columns are kept out."""


@dataclass(frozen=True)
class PublishedRun:
    """One row. `cells` holds the columns of `COLUMNS`, stripped; one that the file lacks is blank."""

    file: str
    line: int
    cells: Mapping[str, str]

    @property
    def case_id(self) -> str:
        """Name of the row."""
        return self.cells["case_id"]

    def text(self, column: str) -> str:
        """What the source says, in lower case; empty where it is silent."""
        return self.cells.get(column, "").lower()

    def number(self, column: str) -> float | None:
        """A finite number, None where the cell is blank. Raises SimError, with the place, for anything else."""
        cell = self.cells.get(column, "")
        if not cell:
            return None
        try:
            value = float(cell)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise self.mistake(column, "no number", "a finite number, or blank")
        return value

    def count(self, column: str) -> int | None:
        """A whole number of 0 or more, None where the cell is blank. Raises SimError, with the place, else."""
        value = self.number(column)
        if value is None:
            return None
        if value < 0 or value != int(value):
            raise self.mistake(column, "no count", "a whole number, or blank")
        return int(value)

    def positive(self, column: str) -> float | None:
        """A number above 0, None where the cell is blank. Raises SimError, with the place, else."""
        value = self.number(column)
        if value is not None and value <= 0:
            raise self.mistake(column, "out of range", "a number above 0, or blank")
        return value

    def flag(self, column: str) -> bool | None:
        """Whether the source says 1; None where the cell is blank."""
        value = self.count(column)
        return None if value is None else bool(value)

    def mistake(self, column: str, what: str, allowed: str) -> SimError:
        """An error that stands at a cell of this row."""
        message = f"{what} (got {self.cells.get(column, '')!r}, allowed {allowed})"
        return SimError(Problem(message, path=column, file=self.file, line=self.line))


def read_published(path: Path) -> list[PublishedRun]:
    """All rows of a CSV file with the columns of `COLUMNS`.

    Raises SimError where the file cannot be read, lacks a column of `REQUIRED`, has no rows, or two of one `case_id`.
    """
    rows = read_cells(path, REQUIRED)
    runs = [PublishedRun(str(path), line, {name: cells.get(name, "") for name in COLUMNS}) for line, cells in rows]
    seen: dict[str, int] = {}
    for run in runs:
        if not run.case_id:
            raise run.mistake("case_id", "missing", "a name of its own for each row")
        if run.case_id in seen:
            raise run.mistake("case_id", f"also on line {seen[run.case_id]}", "a name of its own for each row")
        seen[run.case_id] = run.line
    return runs


def read_cells(path: Path, required: tuple[str, ...]) -> list[tuple[int, dict[str, str]]]:
    """Rows of a CSV file as (line, cells by column, stripped). Raises SimError as `read_published` does."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns = [name.strip() for name in reader.fieldnames or ()]
            reader.fieldnames = columns
            rows = [(reader.line_num, _stripped(cells)) for cells in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SimError(Problem(f"cannot be read ({reason})", file=str(path))) from error
    missing = [name for name in required if name not in columns]
    if missing:
        message = f"missing column {', '.join(map(repr, missing))} (allowed a table with {', '.join(required)})"
        raise SimError(Problem(message, file=str(path), line=1))
    if not rows:
        raise SimError(Problem("no rows (allowed one or more below the head)", file=str(path), line=1))
    return rows


def _stripped(cells: Mapping[str | None, str | list[str] | None]) -> dict[str, str]:
    """Cells that have a column; one that the row lacks is blank."""
    return {name: value.strip() if isinstance(value, str) else "" for name, value in cells.items() if name is not None}
