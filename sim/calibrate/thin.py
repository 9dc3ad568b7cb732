"""Fewer rows of a measured file that tell a fit as much: evenly spaced in time in every format, kernel and region."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pandas as pd

from sim.calibrate.kind import Kind
from sim.calibrate.measured import Measured

MAX_ROWS = 8000
"""Of a file that ships."""

TRAINING_SHARE = 0.75
"""Part of the rows that are of training sizes, where the file has as many."""


def thinned(kind: Kind, measured: Measured, max_rows: int) -> pd.DataFrame:
    """At most `max_rows` of the rows that the model predicts, in the order of the file.

    Rows of training sizes share `TRAINING_SHARE` of them in equal parts by format and kernel, the others the rest, by
    format, kernel and region. In each part rows are sorted by time and cut into as many equal runs as rows are kept,
    of which the middle one stays, so that the sum of the times keeps its makeup.
    """
    table = kind.rows(measured.rows).table
    is_training = table["is_training"].astype(bool)
    parts = (
        (table[is_training], ["format", "kernel"], TRAINING_SHARE),
        (table[~is_training], ["format", "kernel", "region"], 1 - TRAINING_SHARE),
    )
    kept: list[int] = []
    for rows, columns, share in parts:
        strata = [stratum for _, stratum in rows.groupby(columns, sort=True)]
        sizes = _shares([len(stratum) for stratum in strata], int(share * max_rows))
        for stratum, size in zip(strata, sizes, strict=True):
            order = stratum.sort_values("time_s", kind="stable").index.to_numpy()
            kept += order[(np.arange(size) * 2 + 1) * len(order) // (2 * max(size, 1))].tolist()
    return measured.rows.loc[sorted(kept)]


def file_name(kind: str, gpu: str, path: Path) -> str:
    """The name under which the rows of a GPU in `path` ship: KIND__GPU__WHO.csv.gz.

    >>> file_name("gemm", "h100-sxm", Path("gemm__h100_sxm__vllm-0.24.0.csv.gz"))
    'gemm__h100-sxm__vllm-0.24.0.csv.gz'
    """
    who = path.name.removesuffix(".gz").removesuffix(".csv").split("__")[-1].replace("_", "-")
    return f"{kind}__{gpu}__{who}.csv.gz"


def _shares(sizes: list[int], total: int) -> list[int]:
    """How many of each stratum make `total` or fewer: equal parts, and what small strata leave goes to the others.

    >>> _shares([10, 100, 100], 90)
    [10, 40, 40]
    """
    shares = [0] * len(sizes)
    for done, index in enumerate(np.argsort(sizes, kind="stable").tolist()):
        shares[index] = min(sizes[index], (total - sum(shares)) // (len(sizes) - done))
    return shares


def write(table: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV in gzip: the same bytes for the same rows."""
    content = table.to_csv(index=False, lineterminator="\n").encode("utf-8")
    path.write_bytes(gzip.compress(content, compresslevel=9, mtime=0))
