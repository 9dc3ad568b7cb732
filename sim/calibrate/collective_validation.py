"""How far collectives on the topologies that ship are from measured ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from sim.calibrate.collective_rows import CollectiveRows
from sim.calibrate.errors import Errors, by_group, errors_in
from sim.calibrate.systems import Run, Site, run_of, site_of, site_on, why_mistuned
from sim.calibrate.topology_file import TopologyFile
from sim.cost.collectives import ALGORITHMS
from sim.cost.network_time import LoneCall, lone_call
from sim.errors import SimError
from sim.spec.network import Network

LARGE_BYTES = 1e6
"""From here on a call is bound by bandwidth and no longer by latency, which the host's timing has a part in."""

CLASSES = (
    (0.0, "below 64 kB"),
    (64e3, "64 kB to 1 MB"),
    (LARGE_BYTES, "1 MB to 16 MB"),
    (16e6, "16 MB to 256 MB"),
    (256e6, "256 MB and more"),
)
"""Classes of size: the least size and the name, in order."""

GROUPED_BY = ("collective", "size_class", "nodes")
SITES_BY = ("system", "nic", "topology", "constants")
OWN_CONSTANTS = "its own"
NOT_FITTED = "not fitted"
"""Constants of a topology that says nothing of NCCL: latencies and rates of its links alone."""
RUN_COLUMNS = tuple(field.name for field in dataclasses.fields(Run))


@dataclass(frozen=True)
class CollectiveValidation:
    """Predictions beside measurements.

    table: the rows of `CollectiveRows` and their file, line, topology, technology of the network, whose constants
    those of the topology are (`constants`), class of size, algorithm, protocol and prediction (`predicted_s`).
    skipped: rows that were left out: file, line and reason.
    """

    table: pd.DataFrame
    skipped: pd.DataFrame

    @property
    def errors(self) -> Errors | None:
        """Errors over all rows."""
        return errors_in(self.table)

    @property
    def large(self) -> Errors | None:
        """Errors over rows of 1 MB and more."""
        return errors_in(self.table[self.table["nbytes"] >= LARGE_BYTES])

    def groups(self, columns: Sequence[str] = GROUPED_BY) -> list[tuple[dict[str, Any], Errors]]:
        """Errors by collective, class of size and nodes, or by other columns; classes in the order of their size."""
        found = by_group(self.table.rename(columns={"op": "collective"}), columns)
        return sorted(found, key=lambda each: tuple(_rank(*item) for item in each[0].items()))

    def worst(self, num_rows: int) -> pd.DataFrame:
        """Rows of 1 MB and more that are furthest off, the worst first, with their error (`error`, signed, %)."""
        rows = self.table[self.table["nbytes"] >= LARGE_BYTES]
        error = 100 * (rows["predicted_s"] / rows["time_s"] - 1)
        order = np.argsort(-np.abs(error.to_numpy(dtype=float)), kind="stable")[:num_rows]
        return rows.assign(error=error).iloc[order]

    def to_dict(self) -> dict[str, Any]:
        """What `--json` writes: errors in %, null where no row counts."""
        errors, large = self.errors, self.large
        return {
            "mape": errors and errors.mape,
            "mape_ge_1mb": large and large.mape,
            "bias": errors and errors.bias,
            "bias_ge_1mb": large and large.bias,
            "median_ape": errors and errors.median_ape,
            "p90": errors and errors.p90,
            "n": len(self.table),
            "n_ge_1mb": large.n if large else 0,
            "n_skipped": len(self.skipped),
            "groups": [_numbered(group) | dataclasses.asdict(errors) for group, errors in self.groups()],
            "systems": [group | dataclasses.asdict(errors) for group, errors in self.groups(SITES_BY)],
            "skipped": self.reasons(),
        }

    def reasons(self) -> list[dict[str, Any]]:
        """Why rows were left out: reason, how many, and the first of their lines."""
        return [
            {"file": file, "reason": reason, "n": len(rows), "first_line": int(rows["line"].min())}
            for (file, reason), rows in self.skipped.groupby(["file", "reason"], sort=False)
        ]


def _rank(key: str, value: str) -> tuple[int, str]:
    """Such that classes of size and numbers stand in their order, and words by letter."""
    match key:
        case "size_class":
            return [name for _, name in CLASSES].index(value), ""
        case "nodes":
            return int(value), ""
        case _:
            return 0, value


def _numbered(group: dict[str, Any]) -> dict[str, Any]:
    return group | {"nodes": int(group["nodes"])}


def validate_collectives(
    rows: CollectiveRows,
    topology: str | None = None,
    *,
    keep_mistuned: bool = False,
    advance: Callable[[str], None] = lambda _: None,
) -> CollectiveValidation:
    """Predictions beside the rows of one file; `topology` names that of all rows, else their words say it.

    keep_mistuned: predict also rows that were measured with settings known to be slow.  advance: hears of every run
    (equal collective, GPUs and network) when its sizes are predicted.
    """
    skipped = list(rows.skipped)
    parts = []
    table = rows.table
    if not keep_mistuned:
        reasons = [why_mistuned(*words) for words in zip(table["system"], table["note"], strict=True)]
        skipped += [(int(line), reason) for line, reason in zip(table.index, reasons, strict=True) if reason]
        table = table[[not reason for reason in reasons]]
    for _, part in table.groupby([*RUN_COLUMNS, "op", "algo_proto"], sort=False):
        run, op, named = run_of(part.iloc[0].to_dict()), str(part["op"].iloc[0]), str(part["algo_proto"].iloc[0])
        site = site_of(run, topology)
        network = site if isinstance(site, str) else _network(op, named)
        if isinstance(site, str) or isinstance(network, str):
            skipped += [(int(line), str(network)) for line in part.index]
            continue
        predicted = _predicted(site, op, part, network)
        if isinstance(predicted, str):
            skipped += [(int(line), predicted) for line in part.index]
        else:
            parts.append(predicted)
            advance(f"{op} on {run.gpus} GPUs of {site.topology}")
    found = pd.concat(parts).sort_index() if parts else _nothing(rows.table)
    found = found.assign(file=rows.file, line=found.index.to_numpy(), size_class=_classes(found["nbytes"]))
    left_out = pd.DataFrame(sorted(skipped), columns=["line", "reason"]).assign(file=rows.file)
    return CollectiveValidation(found, left_out)


def together(validations: Sequence[CollectiveValidation]) -> CollectiveValidation:
    """Those of several files as one."""
    tables = [each.table for each in validations if len(each.table)] or [validations[0].table]
    skipped = [each.skipped for each in validations if len(each.skipped)] or [validations[0].skipped]
    return CollectiveValidation(pd.concat(tables, ignore_index=True), pd.concat(skipped, ignore_index=True))


def _nothing(table: pd.DataFrame) -> pd.DataFrame:
    empty = table.iloc[:0]
    return empty.assign(predicted_s=0.0, algorithm="", protocol="", topology="", technology="", constants="")


def _classes(nbytes: pd.Series[Any]) -> list[str]:
    return [next(name for least, name in reversed(CLASSES) if each >= least) for each in nbytes]


def predicted_on(file: TopologyFile, table: pd.DataFrame) -> pd.DataFrame:
    """Rows (those of `CollectiveRows`) with what a topology's file predicts; those that it cannot have are left out."""
    parts = [_nothing(table)]
    for _, part in table.groupby([*RUN_COLUMNS, "op", "algo_proto"], sort=False):
        op = str(part["op"].iloc[0])
        site, network = site_on(file, run_of(part.iloc[0].to_dict())), _network(op, str(part["algo_proto"].iloc[0]))
        if not isinstance(site, str) and not isinstance(network, str):
            predicted = _predicted(site, op, part, network)
            parts += [] if isinstance(predicted, str) else [predicted]
    return pd.concat([part for part in parts if len(part)] or parts).sort_index()


PROTOCOLS = {"ll": "ll", "ll128": "ll128", "simple": "simple"}


def _network(op: str, named: str) -> Network | str:
    """The network with the algorithm and the protocol that a row names (`Ring/LL128`); why there is none of it."""
    algorithms, protocol = {}, {}
    for word in named.lower().replace("/", " ").replace("+", " ").split():
        if word in PROTOCOLS and "protocol" in Network.model_fields:
            protocol = {"protocol": word}
        elif word in list(ALGORITHMS):
            algorithms = {op: word}
        elif word not in PROTOCOLS:
            return f"an algorithm that is not simulated: {named!r}"
    return Network.model_validate({"algorithms": algorithms, **protocol})


def _predicted(site: Site, op: str, part: pd.DataFrame, network: Network) -> pd.DataFrame | str:
    calls: dict[int, LoneCall] = {}
    try:
        for nbytes in sorted(set(part["nbytes"].tolist())):
            calls[nbytes] = lone_call(op, nbytes, site.members, site.fabric, network)
    except SimError as error:
        return f"cannot be simulated: {error}"
    return part.assign(
        predicted_s=[float(calls[nbytes].time_s[0]) for nbytes in part["nbytes"]],
        algorithm=[calls[nbytes].algorithm for nbytes in part["nbytes"]],
        protocol=[calls[nbytes].protocol for nbytes in part["nbytes"]],
        topology=site.topology,
        technology=site.technology,
        constants=site.constants or (OWN_CONSTANTS if site.is_fitted else NOT_FITTED),
    )
