"""Time of a collective by algorithm and protocol: its loads on the links, with the topology's measured lines."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from sim.cost.collectives import ALGORITHMS, Pattern
from sim.cost.collectives.spread import Spread, handled_per_byte, spread_pattern
from sim.cost.nccl import WIRE_FACTOR, nvls_piece, nvls_rounds, prior_network
from sim.spec.fabrics.calibration import PROTOCOLS, DeepEp, Line, Lines
from sim.spec.topology import Derived, Fabric, Floats, Ints, Links, Routes

LAUNCH_S = 14.0e-6
"""What NCCL adds to the steps of a ring or a tree with LL128, once a call (base latency in its src/graph/tuning.cc);
for topologies without measured lines."""

IN_SWITCH = ("collnet", "nvls", "nvls_tree")
"""Algorithms that run in the switches: NCCL has them with Simple only."""

SENDS = ("neighbour", "pairwise", "two_level")
"""Algorithms of grouped sends and receives, which NCCL runs with LL or Simple."""

UNMEASURED = Line(launch_s=LAUNCH_S, steps=1.0)
"""Line of every protocol of a topology without measured ones."""


def share_in_node(op: str, size: int) -> float:
    """Share of the wire's achieved rate that `size` members of one node reach in `op`.

    m / (m + 1), m = 2 n for all_reduce and n for the others: about one chunk more than the algorithm counts passes
    before the last member has the last one, and fewer, larger chunks hide it worse. Source: the form was read off
    nccl-tests' sweeps of ai-dynamo/aiconfigurator (Apache-2.0), and has no constant. Error: see the topologies'
    `sources.nccl`.

    >>> share_in_node("all_gather", 4), share_in_node("all_reduce", 2)
    (0.8, 0.8)
    """
    chunks = 2 * size if op == "all_reduce" else size
    return chunks / (chunks + 1)


def passes(op: str, size: int) -> float:
    """Bytes that each of `size` members passes through its kernel for each byte of the message.

    A ring's kernel handles `size` shards for an all_gather or reduce_scatter (its own first, or last) and 2 n - 1 for
    an all_reduce. Source: NCCL's src/device/all_gather.h, reduce_scatter.h, all_reduce.h.

    >>> passes("all_reduce", 2), passes("all_gather", 8)
    (1.5, 1.0)
    """
    return (2 * size - 1) / size if op == "all_reduce" else 1.0


class Way(NamedTuple):
    """How a collective runs. piece: of the sizes of a message, where chunks grow with it (`at_size`).
    spread: to whom an all_to_all of experts sends; None for equal parts to everybody."""

    algorithm: str
    protocol: str
    piece: int = 0
    spread: Spread | None = None


@dataclass(frozen=True)
class Loaded:
    """A collective with its protocol.

    pattern: loads with what the protocol adds on the wire, and the latency with the launch.
    limit_bytes_per_s: bytes of the message a second that a group never exceeds, (groups,); inf where only links limit.
    """

    pattern: Pattern
    limit_bytes_per_s: Floats


def slowest_s_per_byte(pattern: Pattern, bytes_per_s: Floats) -> Floats:
    """Seconds for each byte of the message on the slowest link of each group. bytes_per_s: (links,)."""
    slowest = np.zeros(len(pattern.latency_s))
    np.maximum.at(slowest, pattern.group, pattern.bytes_per_byte / bytes_per_s[pattern.link])
    return slowest


def lone_line(way: Way, op: str, members: Ints, fabric: Fabric) -> tuple[Floats, Floats]:
    """Latency, s, and seconds for each byte of the message of each group, (groups,), alone."""
    return _line(way, op, _Groups(members), fabric)


def pattern_of(algorithm: str, op: str, members: Ints, fabric: Fabric) -> Pattern:
    """Pattern of an algorithm. Kept, because the choice of the algorithm and all messages of a step share it."""
    return _pattern(algorithm, op, _Groups(members), fabric, None)


def loaded(way: Way, op: str, members: Ints, fabric: Fabric) -> Loaded:
    """Loads, latency and limit of groups, (groups, members), that run `op` that way."""
    groups = _Groups(members)
    pattern = _pattern(way.algorithm, op, groups, fabric, way.spread)
    wire = replace(
        pattern,
        bytes_per_byte=pattern.bytes_per_byte * WIRE_FACTOR[way.protocol],
        latency_s=latency_of(way, op, members, fabric),
    )
    return Loaded(wire, _limit_bytes_per_s(way, op, groups, fabric))


def latency_of(way: Way, op: str, members: Ints, fabric: Fabric) -> Floats:
    """Time of an empty message in each group, (groups,), s: launch and steps. Far less work than the loads."""
    return _latency(way, op, _Groups(members), fabric)


def launch_of_sends_s(source: Ints, target: Ints, fabric: Fabric) -> Floats:
    """What each send from one GPU to another, (sends,), costs before its first hop, s."""
    is_inside = fabric.node_of(source) == fabric.node_of(target)
    inside, between = line_of(Way("pairwise", "simple"), fabric)
    return np.where(is_inside, inside.launch_s, between.launch_s)


def protocols_of(algorithm: str, fabric: Fabric) -> tuple[str, ...]:
    """Protocols that an algorithm has on a topology; only Simple where no line was measured."""
    nccl = fabric.links.nccl
    if nccl is None or algorithm in (*IN_SWITCH, "pat") or (algorithm == "two_level" and nccl.deepep is not None):
        return ("simple",)
    return ("ll", "simple") if algorithm in SENDS else PROTOCOLS


def line_of(way: Way, fabric: Fabric) -> tuple[Line, Line]:
    """Measured lines of groups inside a node and on several."""
    nccl = fabric.links.nccl
    if nccl is None:
        return UNMEASURED, UNMEASURED
    network = prior_network(nccl.nvlink) if nccl.network is None else nccl.network
    return _of(nccl.nvlink, way), _of(network, way)


def of_protocol(way: Way) -> str:
    """Which of `Lines` a way runs on."""
    match way.algorithm:
        case "collnet" | "nvls" | "nvls_tree":
            return "nvls"
        case "neighbour" | "pairwise" | "two_level":
            return "sends_ll" if way.protocol == "ll" else "sends"
        case _:
            return way.protocol


def _of(lines: Lines, way: Way) -> Line:
    line: Line | None = getattr(lines, of_protocol(way))
    return lines.simple if line is None else line


def at_size(way: Way, nbytes: float, members: Ints, fabric: Fabric) -> Way:
    """The way with the piece of its line that a message of `nbytes` is on."""
    nccl = fabric.links.nccl
    if way.algorithm != "nvls" or nccl is None:
        return way
    return way._replace(piece=nvls_piece(nbytes, members.shape[1], nccl.generation))


def _chunks_s(way: Way, size: int, fabric: Fabric) -> tuple[float, float]:
    """Time of the rounds of chunks of a way in groups of `size`: once a call, and for each byte of the message."""
    nccl = fabric.links.nccl
    if way.algorithm != "nvls" or nccl is None or nccl.nvls_chunk_s is None:
        return 0.0, 0.0
    constant, per_byte = nvls_rounds(way.piece, size, nccl.generation)
    return constant * nccl.nvls_chunk_s, per_byte * nccl.nvls_chunk_s


def steps_s(way: Way, op: str, members: Ints, fabric: Fabric, inside: float, between: float) -> Floats:
    """Latency of the steps of each group, (groups,), where those inside and between nodes take a share of their own."""
    return ALGORITHMS[way.algorithm].latency_s(op, members, _Stepped(fabric, inside, between))


class _Groups:
    """Groups of GPUs, (groups, members), that can be a key: equal where the numbers are."""

    def __init__(self, members: Ints) -> None:
        self.members = members.astype(np.int64)
        self._content = (self.members.tobytes(), members.shape)

    def __hash__(self) -> int:
        return hash(self._content)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Groups) and self._content == other._content


@dataclass(frozen=True, eq=False)
class _Stepped(Derived):
    """A fabric whose steps inside and between nodes take a protocol's share of their latency."""

    inside: float
    between: float

    @property
    def links(self) -> Links:
        return self.whole.links

    def routes(self, source: Ints, target: Ints) -> Routes:
        routes = self.whole.routes(source, target)
        is_inside = self.node_of(source) == self.node_of(target)
        return replace(routes, latency_s=routes.latency_s * np.where(is_inside, self.inside, self.between))


def is_inside(members: Ints, fabric: Fabric) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Whether each group, (groups, members), is on one node."""
    node = fabric.node_of(members)
    inside: np.ndarray[tuple[int], np.dtype[np.bool_]] = (node == node[:, :1]).all(axis=1)
    return inside


@lru_cache(maxsize=32)
def _pattern(algorithm: str, op: str, groups: _Groups, fabric: Fabric, spread: Spread | None) -> Pattern:
    if spread is not None:
        return spread_pattern(algorithm, spread, groups.members, fabric)
    return ALGORITHMS[algorithm].pattern(op, groups.members, fabric)


@lru_cache(maxsize=64)
def _latency(way: Way, op: str, groups: _Groups, fabric: Fabric) -> Floats:
    inside, between = _deepep_lines(way, fabric) or line_of(way, fabric)
    launch_s = np.where(is_inside(groups.members, fabric), inside.launch_s, between.launch_s)
    chunks_s, _ = _chunks_s(way, groups.members.shape[1], fabric)
    return launch_s + chunks_s + steps_s(way, op, groups.members, fabric, inside.steps, between.steps)


@lru_cache(maxsize=64)
def _line(way: Way, op: str, groups: _Groups, fabric: Fabric) -> tuple[Floats, Floats]:
    """Latency and seconds for each byte of each group."""
    pattern = _pattern(way.algorithm, op, groups, fabric, way.spread)
    on_links = slowest_s_per_byte(pattern, fabric.links.bytes_per_s) * WIRE_FACTOR[way.protocol]
    limited = 1 / _limit_bytes_per_s(way, op, groups, fabric)
    return _latency(way, op, groups, fabric), np.maximum(on_links, limited)


@lru_cache(maxsize=64)
def _limit_bytes_per_s(way: Way, op: str, groups: _Groups, fabric: Fabric) -> Floats:
    """(groups,): by the kernel's rate, and with Simple by the share of the wire."""
    deepep = _deepep(way, fabric)
    if deepep is not None:
        return _deepep_bytes_per_s(deepep, way, op, groups, fabric)
    inside_line, between_line = line_of(way, fabric)
    size = groups.members.shape[1]
    is_in = is_inside(groups.members, fabric)
    through = 1.0 if way.algorithm in IN_SWITCH else passes(op, size)
    rates = [np.inf if line.bytes_per_s is None else line.bytes_per_s / through for line in (inside_line, between_line)]
    _, chunks_s_per_byte = _chunks_s(way, size, fabric)
    limit = np.where(is_in, rates[0], rates[1])
    if chunks_s_per_byte > 0:
        limit = 1 / (1 / limit + chunks_s_per_byte)
    if way.protocol == "simple" and way.algorithm not in (*IN_SWITCH, "neighbour"):
        pattern = _pattern(way.algorithm, op, groups, fabric, way.spread)
        between = np.inf if between_line.wire is None else between_line.wire
        share = np.where(is_in, share_in_node(op, size), between)
        limit = np.minimum(limit, share / slowest_s_per_byte(pattern, fabric.links.bytes_per_s))
    return limit


def _deepep(way: Way, fabric: Fabric) -> DeepEp | None:
    """DeepEP, where it runs this way on the topology."""
    nccl = fabric.links.nccl
    is_of_experts = way.algorithm == "two_level" and way.spread is not None
    return nccl.deepep if nccl is not None and is_of_experts else None


def _deepep_lines(way: Way, fabric: Fabric) -> tuple[Line, Line] | None:
    """Launches inside a node and between nodes; steps take the latency of their hops."""
    deepep = _deepep(way, fabric)
    if deepep is None:
        return None
    return Line(launch_s=deepep.nvlink.launch_s, steps=1.0), Line(launch_s=deepep.network.launch_s, steps=1.0)


def _deepep_bytes_per_s(deepep: DeepEp, way: Way, op: str, groups: _Groups, fabric: Fabric) -> Floats:
    """(groups,): the lesser of what the SMs handle and of the share of the wire.

    Error: of `sim validate deepep` on H100 and H200, 14 % on average from 1 MB on, 11 % with 20 SMs or more; on eight
    nodes a third (combine) to a half (dispatch) too fast, which no link of that cluster explains.
    """
    assert way.spread is not None
    pattern = _pattern(way.algorithm, op, groups, fabric, way.spread)
    share = np.where(is_inside(groups.members, fabric), deepep.nvlink.wire, deepep.network.wire)
    on_links = share / slowest_s_per_byte(pattern, fabric.links.bytes_per_s)
    num_nodes = np.array([len(set(nodes)) for nodes in fabric.node_of(groups.members).tolist()])
    handled = np.array([handled_per_byte(way.spread, int(count)) for count in num_nodes])
    rates: Floats = np.minimum(on_links, deepep.sms * deepep.sm_bytes_per_s / handled)
    return rates
