"""A topology's constants of NCCL fitted to measured collectives, and how far they are in and out of sample."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sim.calibrate.collective_validation import LARGE_BYTES, predicted_on
from sim.calibrate.collectives import Fitted, Measured, fit
from sim.calibrate.entry import Tree, below, leaves, planted, written
from sim.calibrate.errors import Errors, errors_in
from sim.calibrate.topology_file import TopologyFile, fabric_spec, with_values
from sim.errors import SimError
from sim.spec.fabrics.calibration import Generation
from sim.spec.topology import FABRICS, Calibrated

MIN_ROWS = 8
"""Fewer rows than that tell no constants."""

TRIAL = "a trial"


@dataclass(frozen=True)
class CollectiveCalibration:
    """A topology before and after it is fitted.

    before, after: its file.  constants: by dotted key, as the files have them, old (empty where it had none) and new.
    in_sample: errors of the fit over the rows that it saw, those of 1 MB and more; out_of_sample: over rows that a fit
    to the others did not see, by the name of the split.
    """

    before: TopologyFile
    after: TopologyFile
    constants: Mapping[str, tuple[str, str]]
    num_rows: int
    old: Errors | None
    in_sample: Errors | None
    out_of_sample: Mapping[str, Errors]


def calibrate_collectives(
    file: TopologyFile, rows: pd.DataFrame, generation: Generation | None = None
) -> CollectiveCalibration:
    """The file with constants fitted to rows: columns of `CollectiveRows`, and the source of each (`cited`).

    The rows ran on the topology's own NICs, whatever they say of them. generation: of the GPUs, where the file has no
    constants of NCCL yet.

    Raises SimError where there are too few rows, and where the family of the topology has no such constants.
    """
    rows = rows.assign(nic="")
    known = predicted_on(file, rows)
    if len(known) < MIN_ROWS:
        raise SimError(
            f"{file.name}: too few rows to fit to (got {len(known)} it can have, allowed {MIN_ROWS} or more)"
        )
    seen = rows.loc[known.index]
    after = fitted(file, seen, TRIAL, generation)
    held_out = {}
    for name, is_seen in halves(seen).items():
        trial = fitted(file, seen[is_seen], TRIAL, generation)
        errors = _large(predicted_on(trial, seen[~is_seen]))
        if errors is not None:
            held_out[name] = errors
    in_sample = _large(predicted_on(after, seen))
    final = fitted(file, seen, _cited(seen, in_sample, held_out), generation)
    old, new = dict(leaves(file.tree)), dict(leaves(final.tree))
    changed = {
        key: (str(old.get(key, "")), str(value))
        for key, value in new.items()
        if key.startswith("nccl.") or (key.endswith(".efficiency") and not key.startswith("sources."))
    }
    return CollectiveCalibration(file, final, changed, len(seen), _large(known), in_sample, held_out)


def fitted(file: TopologyFile, rows: pd.DataFrame, source: str, generation: Generation | None) -> TopologyFile:
    """The file with constants fitted to the rows, and their source."""
    spec = fabric_spec(file)
    if not isinstance(spec, Calibrated):
        raise SimError(
            f"{file.name}: a {file.tree['fabric']} has no constants of NCCL to fit (allowed a family with them)"
        )
    calls = [
        Measured(row["op"], float(row["nbytes"]), int(row["gpus"]), int(row["nodes"]), float(row["time_s"]))
        for row in rows.to_dict("records")
    ]
    values = _values(file.tree, fit(calls, spec, generation))
    new = with_values(file, values, {key: source for key in values if key != _SPINE})
    assert isinstance(fabric_spec(new), Calibrated)
    return new


_SPINE = "spine.efficiency"


def _values(tree: Tree, found: Fitted) -> dict[str, object]:
    """Values of a topology's file by key: NCCL's lines, and the shares of the wire that calls show.

    A spine whose share is that of a NIC's port follows it.
    """
    family = FABRICS[str(tree["fabric"])]
    lines: Tree = {}
    for key, value in leaves(found.nccl.model_dump(by_alias=True, exclude_defaults=True)):
        said = value if isinstance(value, str | bool) else written(f"nccl.{key}", value, family)
        lines = planted(lines, key, said)
    values: dict[str, object] = {"nccl": lines}
    if found.nvlink_efficiency is not None:
        values["nvlink.efficiency"] = written("nvlink.efficiency", found.nvlink_efficiency, family)
    if found.nic_efficiency is not None:
        values["nic.efficiency"] = written("nic.efficiency", found.nic_efficiency, family)
        if below(tree, _SPINE) == below(tree, "nic.efficiency"):
            values[_SPINE] = values["nic.efficiency"]
    return values


def halves(rows: pd.DataFrame) -> dict[str, NDArray[np.bool_]]:
    """Splits for errors out of sample: name -> rows to fit to.

    Every other size; and the calls of fewer GPUs, where there are several numbers of them.
    """
    order = {size: rank for rank, size in enumerate(sorted(set(rows["nbytes"])))}
    is_even = (rows["nbytes"].map(order) % 2 == 0).to_numpy()
    splits = {"every other size": is_even}
    if len(set(rows["gpus"])) > 1:
        splits["more GPUs"] = (rows["gpus"] < rows["gpus"].max()).to_numpy()
    return {name: seen for name, seen in splits.items() if min(seen.sum(), (~seen).sum()) >= MIN_ROWS}


def _large(table: pd.DataFrame) -> Errors | None:
    return errors_in(table[table["nbytes"] >= LARGE_BYTES])


def _cited(rows: pd.DataFrame, errors: Errors | None, held_out: Mapping[str, Errors]) -> str:
    """What the source of the constants says: data, rows and errors from 1 MB on."""
    text = f"fitted to {' and '.join(sorted(set(rows['cited'])))}: {len(rows):,} calls"
    if errors is not None:
        text += f"; mean absolute error / bias of the sum from 1 MB on {_figures(errors)} % (n = {errors.n:,})"
    splits = [f"{name} {_figures(each)}" for name, each in held_out.items()]
    return f"{text}; out of sample: {', '.join(splits)}" if splits else text


def _figures(errors: Errors) -> str:
    return f"{errors.mape:.1f} / {errors.bias:+.1f}"
