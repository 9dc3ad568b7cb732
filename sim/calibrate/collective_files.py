"""The measured collectives that ship, and which of them tell of a topology."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

import sim
from sim.calibrate.collective_rows import CollectiveRows, read_rows
from sim.calibrate.systems import MANY_NODES, ONE_NODE, STAND_INS, run_of, site_of
from sim.spec import source

FOLDER = Path(sim.__file__).resolve().parent / "catalog" / "measurements" / "collectives"


def shipped_collectives() -> dict[Path, str]:
    """Files that ship, sorted by name, each with its source."""
    cited = source.plain(source.read(FOLDER / "sources.yaml"))
    return {path: cited[path.name.removesuffix(".csv.gz")]["source"] for path in sorted(FOLDER.glob("*.csv.gz"))}


def shipped_on(topology: str) -> pd.DataFrame:
    """Rows that ship and whose words mean the topology; a cluster's also those of one of its nodes.

    Columns of `CollectiveRows` and the source of each row (`cited`).
    """
    chips = [chip for chip, name in MANY_NODES.items() if name == topology and chip not in STAND_INS]
    meant = {topology, *(ONE_NODE[chip] for chip in chips)}
    return joined([(_of(read_rows(path), meant), cited) for path, cited in shipped_collectives().items()])


def _of(rows: CollectiveRows, topologies: set[str]) -> pd.DataFrame:
    """Rows that run on one of the topologies with constants of their own."""
    kept = []
    for index, row in zip(rows.table.index, rows.table.to_dict("records"), strict=True):
        site = site_of(run_of(row))
        if not isinstance(site, str) and site.topology in topologies and not site.constants:
            kept.append(index)
    return rows.table.loc[kept]


def joined(tables: Sequence[tuple[pd.DataFrame, str]]) -> pd.DataFrame:
    """Rows of several files as one table, with how each is cited."""
    return pd.concat([table.assign(cited=cited) for table, cited in tables], ignore_index=True)
