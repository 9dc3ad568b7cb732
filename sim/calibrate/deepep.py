"""Measured dispatch and combine of DeepEP beside what the `two_level` all_to_all of experts takes on a topology."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sim.calibrate.errors import Errors, by_group, errors_in
from sim.calibrate.measured import read
from sim.calibrate.topology_file import fabric_spec, read_topology
from sim.cost.collectives.spread import Spread
from sim.cost.lines import Way, lone_line
from sim.errors import Problem, SimError
from sim.program.shapes import BYTES, DISPATCH_BYTES
from sim.spec.topology import Calibrated, Derived, Fabric, Ints, Links, Routes

TOPOLOGIES = {"h100_sxm": "dgx-h100", "h200_sxm": "dgx-h200"}
"""Topology of a measured system; others are skipped."""

NUMBERS = ("node_num", "hidden_size", "num_token", "num_topk", "num_experts", "dispatch_sms", "combine_sms")
TIMES = {"dispatch": "dispatch_transmit_us", "combine": "combine_transmit_us"}
VALUE_BYTES = {"dispatch": DISPATCH_BYTES, "combine": float(BYTES)}
MICRO = 1e-6
NODE_LIMIT = 4
"""Nodes of a token's experts: DeepEP's tests/test_internode.py takes min(nodes, 4)."""

LARGE_BYTES = 1e6
"""From here on (tokens x hidden, as they are sent) a call is bound by bandwidth."""


@dataclass(frozen=True)
class DeepEpValidation:
    """Predictions beside measurements.

    table: op, nodes, sms, hidden, tokens, top_k, experts, nbytes (of the tokens as they are sent), time_s, predicted_s;
    the index is the line of the file.  num_skipped: rows of systems that no topology stands for.
    """

    table: pd.DataFrame
    num_skipped: int

    @property
    def large(self) -> Errors | None:
        """Errors of calls of `LARGE_BYTES` and more."""
        return errors_in(self._large())

    def groups(self) -> list[tuple[dict[str, str], Errors]]:
        """Of those, errors by operation and number of nodes."""
        return by_group(self._large(), ("op", "nodes"))

    def _large(self) -> pd.DataFrame:
        return self.table[self.table["nbytes"] >= LARGE_BYTES]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        groups = [{**group, **vars(errors)} for group, errors in self.groups()]
        return {
            "large": None if self.large is None else vars(self.large),
            "groups": groups,
            "skipped": self.num_skipped,
        }


def validate_deepep(path: Path, topology: str | None = None) -> DeepEpValidation:
    """Errors of a file in the columns of ai-dynamo/aiconfigurator's wideep_deepep_normal_perf.

    topology: of all rows; else their system says it.

    Raises SimError with the column that is missing or the cell that is no number, and where the topology has no
    constants of DeepEP.
    """
    cells = read(path)
    missing = [name for name in ("system", *NUMBERS, *TIMES.values()) if name not in cells.columns]
    if missing:
        raise SimError(Problem(f"columns are missing (got none named {', '.join(missing)})", file=str(path)))
    known = np.full(len(cells), True) if topology else cells["system"].isin(list(TOPOLOGIES)).to_numpy()
    rows = cells[known]
    table = pd.concat([_of_op(rows, op, str(path)) for op in TIMES])
    table["topology"] = topology or table["system"].map(TOPOLOGIES)
    table["predicted_s"] = [_predicted_s(row) for row in table.itertuples()]
    return DeepEpValidation(table.drop(columns="system"), int((~known).sum()))


def _of_op(rows: pd.DataFrame, op: str, file: str) -> pd.DataFrame:
    """Rows of one operation, as numbers."""
    names = {
        "node_num": "nodes",
        f"{op}_sms": "sms",
        "hidden_size": "hidden",
        "num_token": "tokens",
        "num_topk": "top_k",
        "num_experts": "experts",
    }
    table = pd.DataFrame({new: _positive(rows[old], file).astype(np.int64) for old, new in names.items()})
    table["time_s"] = _positive(rows[TIMES[op]], file) * MICRO
    table["nbytes"] = table["tokens"] * table["hidden"] * VALUE_BYTES[op]
    table["op"] = op
    table["system"] = rows["system"]
    return table


def _positive(cells: pd.Series[str], file: str) -> pd.Series[float]:
    numbers = pd.to_numeric(cells, errors="coerce")
    wrong = cells[~(numbers > 0)]
    if len(wrong):
        line = int(wrong.index[0])
        message = f"{cells.name} (got {wrong.iloc[0]!r}, allowed a number above 0)"
        raise SimError(Problem(message, file=file, line=line))
    return numbers


def _predicted_s(row: Any) -> float:
    """A rank's tokens x top_k copies, evenly spread over the experts of 8 GPUs a node."""
    latency_s, s_per_byte = _line(row.op, row.topology, row.nodes, row.sms, row.top_k, row.experts)
    return float(latency_s + row.nbytes * row.top_k * s_per_byte)


@lru_cache(maxsize=4096)
def _line(op: str, topology: str, nodes: int, sms: int, top_k: int, experts: int) -> tuple[float, float]:
    fabric = _fabric(topology, nodes)
    size = nodes * fabric.gpus_per_node
    spread = Spread((1 / size,) * size, top_k, experts, node_limit=NODE_LIMIT, is_combine=op == "combine")
    latency_s, s_per_byte = lone_line(
        Way("two_level", "simple", spread=spread), "all_to_all", np.arange(size)[None], _WithSms(fabric, sms)
    )
    return float(latency_s[0]), float(s_per_byte[0])


@lru_cache(maxsize=32)
def _fabric(topology: str, nodes: int) -> Fabric:
    file = read_topology(topology)
    spec = fabric_spec(file)
    if not isinstance(spec, Calibrated) or spec.nccl is None or spec.nccl.deepep is None:
        raise SimError(f"{topology} has no constants of DeepEP (allowed a topology with nccl.deepep)")
    sized = fabric_spec(file, {"nodes": nodes}) if "nodes" in type(spec).model_fields else spec
    fabric = sized.build()
    if fabric.num_gpus < nodes * fabric.gpus_per_node:
        raise SimError(f"{topology} has one node (got rows of {nodes}, allowed 1)")
    return fabric


@dataclass(frozen=True)
class _WithSms(Derived):
    """A fabric whose DeepEP kernels take another number of SMs."""

    whole: Fabric
    sms: int

    @property
    def links(self) -> Links:
        """With that number."""
        links = self.whole.links
        assert links.nccl is not None
        assert links.nccl.deepep is not None
        deepep = links.nccl.deepep.model_copy(update={"sms": self.sms})
        return replace(links, nccl=links.nccl.model_copy(update={"deepep": deepep}))

    def routes(self, source: Ints, target: Ints) -> Routes:
        """As in the whole fabric."""
        return self.whole.routes(source, target)
