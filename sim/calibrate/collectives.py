"""Constants of NCCL on a topology, fitted to measured calls: a line for each protocol, inside a node and between."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from sim.cost.lines import Way, lone_line, of_protocol, passes, pattern_of, share_in_node, slowest_s_per_byte, steps_s
from sim.cost.nccl import WIRE_FACTOR, nvls_rounds, prior_lines, prior_network
from sim.cost.network_time import choose
from sim.errors import SimError
from sim.spec.fabrics.calibration import Generation, Line, Lines, Nccl
from sim.spec.network import Network
from sim.spec.topology import Calibrated, Fabric, Floats, Ints

ROUNDS = 8
"""Choice of the protocol and fit of its line, one after the other; they settle within four."""

FEWEST = 4
"""Calls of a line below which it keeps the constants that it has."""

KERNELS = ("ll", "ll128", "simple", "sends_ll", "sends", "nvls")
"""Fields of `Lines`, LL first."""

STARTS_AFTER_LL = ("ll128", "simple", "nvls")

_LEAST_ERROR = 0.02
"""Errors below this count alike, so that the fit is to the median call (iteratively reweighted least squares)."""


@dataclass(frozen=True)
class Measured:
    """One measured call on `gpus` GPUs, the first ones of each of `nodes` nodes; nbytes as nccl-tests counts it."""

    op: str
    nbytes: float
    gpus: int
    nodes: int
    time_s: float


@dataclass(frozen=True)
class Fitted:
    """What the calls say of a topology.

    nccl: its lines.  nvlink_efficiency, nic_efficiency: achieved shares of the wire, None where no call shows them.
    error_frac: mean absolute relative error over the calls.  num_calls: how many there were.
    """

    nccl: Nccl
    nvlink_efficiency: float | None
    nic_efficiency: float | None
    error_frac: float
    num_calls: int


@dataclass(frozen=True)
class _Cell:
    """Calls of one collective on the same GPUs, by size."""

    op: str
    nodes: int
    members: Ints
    nbytes: Floats
    time_s: Floats


def fit(rows: Iterable[Measured], spec: Calibrated, generation: Generation | None = None) -> Fitted:
    """Lines of the topology, by turns: NCCL's choice for each call, and the line of each protocol through its calls.

    generation: needed where the topology has no `nccl` yet. A line that fewer than four calls show stays as it was (by
    NCCL's tables, where there was none).

    Raises SimError where neither says the generation, and where the topology has fewer GPUs than a call.
    """
    nccl = spec.nccl
    if nccl is None:
        if generation is None:
            raise SimError(f"{spec.name}: which generation of GPUs? (got none, allowed ampere, hopper, blackwell)")
        nccl = Nccl(generation=generation, nvlink=prior_lines(generation))
    measured = list(rows)
    wire = {"nvlink": 1.0, "network": 1.0}
    for _ in range(ROUNDS):
        cells = list(_cells(measured, spec.model_copy(update={"nccl": nccl})))
        nccl, wire = _refitted(nccl, cells)
    cells = list(_cells(measured, spec.model_copy(update={"nccl": nccl})))
    errors = np.concatenate([_errors(cell, fabric) for cell, fabric in cells])
    ports = spec.model_dump()
    return Fitted(
        nccl,
        _efficiency(ports["nvlink"], wire["nvlink"]),
        _efficiency(ports["nic"], wire["network"]) if nccl.network is not None else None,
        float(np.abs(errors).mean()),
        len(measured),
    )


def _efficiency(port: dict[str, float], factor: float) -> float:
    """Share of the wire at which the bytes of large calls take `factor` times as long as now, less than all of it."""
    return min(port["efficiency"] / factor, 1.0)


def _cells(rows: Sequence[Measured], spec: Calibrated) -> Iterator[tuple[_Cell, Fabric]]:
    """The calls by collective and GPUs, each with the fabric of its number of nodes."""
    fabrics: dict[int, Fabric] = {}
    keys = sorted({(row.nodes, row.op, row.gpus) for row in rows})
    for nodes, op, gpus in keys:
        if nodes not in fabrics:
            has_nodes = "nodes" in type(spec).model_fields
            fabrics[nodes] = (spec.model_copy(update={"nodes": nodes}) if has_nodes else spec).build()
        fabric = fabrics[nodes]
        each = gpus // nodes
        if nodes * fabric.gpus_per_node > fabric.num_gpus or each > fabric.gpus_per_node:
            raise SimError(f"{spec.name}: too few GPUs (got {gpus} on {nodes} nodes, allowed {fabric.num_gpus})")
        members = (np.arange(nodes)[:, None] * fabric.gpus_per_node + np.arange(each)).reshape(1, -1)
        found = [row for row in rows if (row.nodes, row.op, row.gpus) == (nodes, op, gpus)]
        sizes = np.array([row.nbytes for row in found])
        yield _Cell(op, nodes, members, sizes, np.array([row.time_s for row in found])), fabric


def _errors(cell: _Cell, fabric: Fabric) -> Floats:
    """Relative errors of the calls of a cell."""
    predicted = np.zeros(len(cell.nbytes))
    for way, rows in _chosen(cell, fabric).items():
        latency_s, s_per_byte = lone_line(way, cell.op, cell.members, fabric)
        predicted[rows] = latency_s[0] + cell.nbytes[rows] * s_per_byte[0]
    error: Floats = predicted / cell.time_s - 1
    return error


def _chosen(cell: _Cell, fabric: Fabric) -> dict[Way, Ints]:
    """Which calls of the cell run which way."""
    sizes, place = np.unique(cell.nbytes, return_inverse=True)
    ways = [choose(cell.op, float(nbytes), cell.members, fabric, Network()) for nbytes in sizes]
    return {
        way: np.flatnonzero(np.isin(place, [at for at, other in enumerate(ways) if other == way])) for way in set(ways)
    }


_Calls = dict[tuple[str, str], list[Floats]]
"""Calls of each line, by where it is and its name: (calls, 6), two columns sought, time left, time, bytes, rounds of
chunks in the switches."""


def _refitted(nccl: Nccl, cells: Sequence[tuple[_Cell, Fabric]]) -> tuple[Nccl, dict[str, float]]:
    """One round: every line through the calls that run its way now; and the time on the wire over that of now."""
    calls: _Calls = {}
    for cell, fabric in cells:
        where = "nvlink" if cell.nodes == 1 else "network"
        for way, rows in _chosen(cell, fabric).items():
            known = _known(way, cell, fabric, nccl)
            nbytes, time_s = cell.nbytes[rows], cell.time_s[rows]
            left_s = time_s - known.latency_s - nbytes * known.s_per_byte
            latency_s = np.full(len(rows), known.steps_s)
            rounds = known.rounds + nbytes * known.rounds_per_byte
            columns = np.column_stack([latency_s, nbytes * known.per_byte, left_s, time_s, nbytes, rounds])
            calls.setdefault((where, of_protocol(way)), []).append(columns)
    nvlink, wire = _relined("nvlink", nccl.nvlink, None, calls)
    network, network_wire = _relined("network", nccl.network or prior_network(nvlink), nvlink, calls)
    is_between = any(cell.nodes > 1 for cell, _ in cells) or nccl.network is not None
    nvlink, chunk_s = _with_chunks(nvlink, nccl.nvls_chunk_s, calls.get(("nvlink", "nvls"), []))
    update = {"nvlink": nvlink, "network": network if is_between else None, "nvls_chunk_s": chunk_s}
    after = nccl.model_copy(update=update)
    return after, {"nvlink": wire, "network": network_wire}


def _relined(where: str, lines: Lines, launches: Lines | None, calls: _Calls) -> tuple[Lines, float]:
    """Lines through their calls, and the factor of Simple's bytes (1 where no call shows it).

    launches: lines whose launches these have, too.
    """
    wire = 1.0
    for kernel in KERNELS:
        line: Line | None = getattr(lines, kernel)
        parts = calls.get((where, kernel), [])
        if line is None or sum(map(len, parts)) < FEWEST:
            continue
        rows = np.concatenate(parts)
        launch_s = None if launches is None else getattr(launches, kernel).launch_s
        solved = _solved(rows, launch_s, lines.ll.launch_s if kernel in STARTS_AFTER_LL else 0.0)
        if kernel == "simple" and solved[2] > 0:
            wire = solved[2]
        fitted = _line(kernel, solved, line)
        if kernel == "sends":
            share = min(1 / solved[2], 1.0) if solved[2] > 0 else 1.0
            fitted = _sends(rows, fitted, solved) if launches is None else fitted.model_copy(update={"wire": share})
        lines = lines.model_copy(update={kernel: fitted})
    return lines, wire


def _solved(rows: Floats, launch_s: float | None, least_s: float) -> tuple[float, float, float]:
    """Launch, s, steps and factor of the bytes through calls: (calls, 5), two columns sought, time left, time, bytes.

    launch_s: known, between nodes, where it is the host's and the GPU's as inside a node. least_s: a protocol for large
    messages starts no earlier than LL; where it would, that is its launch.
    """
    features, left_s, time_s = rows[:, :2], rows[:, 2], rows[:, 3]
    if launch_s is None:
        free = _weighted(np.column_stack([np.ones(len(rows)), features]), left_s, time_s)
        if free[0] >= least_s:
            return float(free[0]), float(free[1]), float(free[2])
        launch_s = least_s
    steps, per_byte = _weighted(features, left_s - launch_s, time_s)
    return launch_s, float(steps), float(per_byte)


def _with_chunks(lines: Lines, before_s: float | None, parts: list[Floats]) -> tuple[Lines, float | None]:
    """Lines inside a node, and the time of a round of chunks: those of NVLS fitted together, where there are calls.

    Its steps are one up and down the switch, whatever the number of GPUs: they are part of the launch.
    """
    if lines.nvls is None or sum(map(len, parts)) < FEWEST:
        return lines, before_s
    rows = np.concatenate(parts)
    time_s = rows[:, 3]
    least_s = lines.ll.launch_s
    launch_s, per_byte, chunk_s = _weighted(np.column_stack([np.ones(len(rows)), rows[:, 4:]]), time_s, time_s)
    if launch_s < least_s:
        launch_s = least_s
        per_byte, chunk_s = _weighted(rows[:, 4:], time_s - launch_s, time_s)
    if per_byte <= 0:
        return lines, before_s
    nvls = Line(launch_s=float(launch_s), steps=0.0, bytes_per_s=float(1 / per_byte))
    return lines.model_copy(update={"nvls": nvls}), float(chunk_s)


def _sends(rows: Floats, on_wire: Line, solved: tuple[float, float, float]) -> Line:
    """Sends inside a node limited by their kernel where that is nearer to the calls than by the wire."""
    time_s, nbytes = rows[:, 3], rows[:, 4]
    in_kernel = np.column_stack([np.ones(len(rows)), nbytes])
    launch_s, per_byte = _weighted(in_kernel, time_s, time_s)
    by_kernel = np.abs(launch_s + nbytes * per_byte - time_s) / time_s
    by_wire = np.abs(solved[0] + rows[:, 0] * solved[1] + rows[:, 1] - time_s) / time_s
    if by_kernel.mean() >= by_wire.mean() or per_byte <= 0:
        return on_wire
    return Line(launch_s=float(launch_s), steps=0.0, bytes_per_s=float(1 / per_byte))


@dataclass(frozen=True)
class _Known:
    """Of a way on the GPUs of a cell: what a line's factors multiply, and what does not depend on them.

    steps_s: latency of the steps sought, as the topology has it.  per_byte: time of a byte for a factor of one (the
    factor of Simple is the time on the wire over that of now; of the others, seconds for each byte in the kernel).
    latency_s: of the steps inside nodes, where those between them are sought.  s_per_byte: of the links, where they and
    not the kernel limit it.  rounds, rounds_per_byte: of chunks in the switches (`nvls_rounds`).
    """

    steps_s: float
    per_byte: float
    latency_s: float
    s_per_byte: float
    rounds: float
    rounds_per_byte: float


def _known(way: Way, cell: _Cell, fabric: Fabric, nccl: Nccl) -> _Known:
    inside = float(steps_s(way, cell.op, cell.members, fabric, 1.0, 0.0)[0])
    between = float(steps_s(way, cell.op, cell.members, fabric, 0.0, 1.0)[0])
    size = cell.members.shape[1]
    kernel = of_protocol(way)
    pattern = pattern_of(way.algorithm, cell.op, cell.members, fabric)
    on_links = float(slowest_s_per_byte(pattern, fabric.links.bytes_per_s)[0]) * WIRE_FACTOR[way.protocol]
    if kernel in ("simple", "sends"):
        per_byte, s_per_byte = on_links / (share_in_node(cell.op, size) if cell.nodes == 1 else 1.0), 0.0
    else:
        per_byte = 1.0 if kernel == "nvls" else passes(cell.op, size)
        s_per_byte = 0.0
        if on_links >= lone_line(way, cell.op, cell.members, fabric)[1][0] * (1 - 1e-9):
            per_byte, s_per_byte = 0.0, on_links
    if cell.nodes == 1:
        rounds = nvls_rounds(way.piece, size, nccl.generation) if way.algorithm == "nvls" else (0.0, 0.0)
        return _Known(inside, per_byte, 0.0, s_per_byte, *rounds)
    line: Line | None = getattr(nccl.nvlink, kernel)
    return _Known(between, per_byte, inside * (1.0 if line is None else line.steps), s_per_byte, 0.0, 0.0)


def _line(kernel: str, solved: tuple[float, float, float], before: Line) -> Line:
    launch_s, steps, per_byte = solved
    if kernel in ("simple", "sends"):
        return Line(launch_s=launch_s, steps=steps)
    return Line(launch_s=launch_s, steps=steps, bytes_per_s=1 / per_byte if per_byte > 0 else before.bytes_per_s)


def _weighted(features: Floats, left_s: Floats, time_s: Floats) -> Floats:
    """Factors, none below zero, of the least mean error relative to the time of a call."""
    weight = 1 / time_s
    scale = np.maximum(features.max(axis=0), 1e-30)
    factors = np.zeros(features.shape[1])
    for _ in range(30):
        factors = nnls(features / scale * weight[:, None], left_s * weight)[0] / scale
        error = np.abs(features @ factors - left_s) / time_s
        weight = 1 / time_s / np.sqrt(np.maximum(error, _LEAST_ERROR))
    return factors
