"""Measured collectives: CSV in the columns of a public data set, or what nccl-tests prints, as rows of one table."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sim.calibrate.measured import read
from sim.calibrate.nccl_tests import GIGA, MICRO, bus_factor, is_log, op_of, read_log
from sim.errors import Problem, SimError

MEASURED = ("time_us", "algbw_GBps", "busbw_GBps")
"""Columns of which a row has one or more; a time goes before a bandwidth, which says it with fewer digits."""

NEEDED = ("nodes", "gpus", "gpus_per_node", "collective", "size_bytes")
WORDS = ("system", "nic", "source", "algo_proto", "note")
"""Columns of text that a file may have."""

COLUMNS = ("op", "nbytes", "gpus", "nodes", "gpus_per_node", "time_s", *WORDS)
MAX_PROBLEMS = 10
_GZIP = b"\x1f\x8b"
_LARGEST = 2**53


@dataclass(frozen=True)
class CollectiveRows:
    """Measured collectives of one file.

    table: columns `COLUMNS`, one row a call: the collective, its size as nccl-tests counts it (bytes), GPUs in all,
    nodes, GPUs of each node (those of its server, where the file says that), the measured time (s) and the words of the
    file (empty where it says nothing); the index is the line of the file.  skipped: (line, reason) of rows that say too
    little, or measure something else.
    """

    file: str
    table: pd.DataFrame
    skipped: tuple[tuple[int, str], ...]


def read_rows(path: Path, *, op: str | None = None, gpus: int | None = None) -> CollectiveRows:
    """The rows of a CSV file (or CSV.gz), or of a log of nccl-tests.

    op, gpus: of a log that does not say them; a CSV has them in its columns.

    Raises SimError with every cell that is wrong, and where the file is neither.
    """
    text = _text(path)
    if text is not None and is_log(text):
        return _of_log(text, path, op, gpus)
    return _of_csv(read(path), str(path))


def _text(path: Path) -> str | None:
    """The text of a file, None where it has none: `read` says why."""
    try:
        content = path.read_bytes()
        return (gzip.decompress(content) if content.startswith(_GZIP) else content).decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, ValueError):
        return None


def _of_log(text: str, path: Path, op: str | None, gpus: int | None) -> CollectiveRows:
    log = read_log(text, str(path))
    op = log.op or op or _op_in_name(path)
    num_gpus = log.num_gpus or gpus
    allowed = "a line '# Collective test starting: all_reduce_perf', or the file's name, or --op"
    if op is None:
        raise SimError(Problem(f"which collective was it? (allowed {allowed})", file=str(path)))
    if num_gpus is None:
        raise SimError(Problem("how many GPUs were it? (allowed lines '#  Rank  0 ...', or --gpus)", file=str(path)))
    nodes = log.num_nodes or 1
    if num_gpus % nodes:
        message = f"uneven nodes (got {num_gpus} ranks on {nodes} hosts, allowed equal numbers)"
        raise SimError(Problem(message, file=str(path)))
    if op_of(op) is None:
        return CollectiveRows(str(path), _table([], []), tuple((each.line, _no_model(op)) for each in log.lines))
    kept = [each for each in log.lines if each.nbytes > 0 and each.time_s > 0]
    head = {"op": op_of(op), "gpus": num_gpus, "nodes": nodes, "gpus_per_node": num_gpus // nodes}
    words = dict.fromkeys(WORDS, "") | {"system": ", ".join(log.devices)}
    rows = [{**head, **words, "nbytes": each.nbytes, "time_s": each.time_s} for each in kept]
    skipped = tuple((each.line, "an empty message") for each in log.lines if each not in kept)
    return CollectiveRows(str(path), _table(rows, [each.line for each in kept]), skipped)


def _op_in_name(path: Path) -> str | None:
    words = re.findall(r"all_?reduce|all_?gather|reduce_?scatter|all_?to_?all|broadcast", path.name.lower())
    return words[0] if len(words) == 1 else None


def _no_model(word: str) -> str:
    return f"no collective that is simulated: {word!r}"


def _of_csv(table: pd.DataFrame, file: str) -> CollectiveRows:
    columns = list(table.columns)
    missing = [name for name in NEEDED if name not in columns]
    if missing or not set(MEASURED) & set(columns):
        lacks = ", ".join(missing) or f"one of {', '.join(MEASURED)}"
        allowed = f"{', '.join(NEEDED)}, one of {', '.join(MEASURED)}; or a log of nccl-tests"
        message = f"no table of collectives: column {lacks} is missing (got {', '.join(columns)}, allowed {allowed})"
        raise SimError(Problem(message, file=file, line=1, column=1))
    text = table.apply(lambda cells: cells.str.strip())
    problems = list(_wrong_cells(text, file))
    if problems:
        left = len(problems) - MAX_PROBLEMS
        more = [Problem(f"{left} more cells are wrong", file=file)] if left > 0 else []
        raise SimError([*problems[:MAX_PROBLEMS], *more])
    kept: list[dict[str, Any]] = []
    lines: list[int] = []
    skipped: list[tuple[int, str]] = []
    for line, cells in zip(text.index.tolist(), text.to_dict("records"), strict=True):
        row = _row({str(name): str(cell) for name, cell in cells.items()})
        if isinstance(row, str):
            skipped.append((line, row))
        else:
            kept.append(row)
            lines.append(line)
    return CollectiveRows(file, _table(kept, lines), tuple(skipped))


def _table(rows: list[dict[str, Any]], lines: list[int]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(COLUMNS), index=pd.Index(lines, dtype="int64"))


def _wrong_cells(table: pd.DataFrame, file: str) -> Iterator[Problem]:
    """Cells that say something, but no number where one must stand."""
    for column in (*NEEDED, *(name for name in MEASURED if name in table.columns)):
        if column == "collective":
            continue
        cells = table[column]
        values = pd.to_numeric(cells, errors="coerce").to_numpy(dtype=float)
        is_count = column not in MEASURED
        fits = np.isfinite(values) & ((values >= 0) if not is_count else (values >= 1) & (values <= _LARGEST))
        whole = np.where(fits, values, 0) % 1 == 0
        wrong = (cells != "").to_numpy() & ~(fits & (whole | (not is_count)))
        allowed = "a whole number, 1 or more, or nothing" if is_count else "a number, 0 or more, or nothing"
        for line in table.index[wrong]:
            message = f"wrong value (got {table.loc[line, column]!r}, allowed {allowed})"
            place = list(table.columns).index(column) + 1
            yield Problem(message, path=column, file=file, line=int(line), column=place)


def _row(cells: dict[str, str]) -> dict[str, Any] | str:
    """A row of the table, or why it has none."""
    op = op_of(cells["collective"])
    if op is None:
        return _no_model(cells["collective"])
    gpus, per_node, nbytes = (_count(cells[name]) for name in ("gpus", "gpus_per_node", "size_bytes"))
    if not gpus or not nbytes:
        return "gpus or size_bytes is empty"
    nodes = _count(cells["nodes"]) or (-(-gpus // per_node) if per_node else 0)
    if reason := _why_no_group(gpus, nodes):
        return reason
    time_s = _time_s(cells, op, nbytes, gpus)
    if time_s is None:
        return f"{', '.join(MEASURED)} are empty or 0"
    words = {name: cells.get(name, "") for name in WORDS}
    numbers = {"nbytes": nbytes, "gpus": gpus, "nodes": nodes, "time_s": time_s}
    return {"op": op, **numbers, "gpus_per_node": per_node or gpus // nodes, **words}


def _why_no_group(gpus: int, nodes: int) -> str:
    """Why these numbers are no group of GPUs, empty where they are one."""
    if gpus < 2:
        return "one GPU has nothing to send"
    if not nodes:
        return "nodes and gpus_per_node are empty"
    return f"unequal numbers of GPUs on the nodes ({gpus} on {nodes})" if gpus % nodes else ""


def _count(cell: str) -> int:
    """A count, 0 where the cell is empty."""
    return int(float(cell)) if cell else 0


def _time_s(cells: dict[str, str], op: str, nbytes: int, gpus: int) -> float | None:
    """The measured time, from the first column that says it: algbw = S / t, busbw = algbw x factor."""
    time_us, algbw, busbw = (float(cells.get(name) or 0) for name in MEASURED)
    if time_us:
        return time_us * MICRO
    rate = algbw or busbw / bus_factor(op, gpus)
    return nbytes / (rate * GIGA) if rate else None
