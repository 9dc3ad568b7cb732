"""How long a collective takes that has the network to itself, and how NCCL runs it: algorithm and protocol."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sim.cost.collectives import ALGORITHMS, Pattern
from sim.cost.collectives.spread import Spread
from sim.cost.lines import Way, at_size, latency_of, lone_line, pattern_of, protocols_of, slowest_s_per_byte
from sim.cost.nccl import NETWORK_EXPECTED_FRAC, NVLINK_EXPECTED_FRAC, Call, expected, has_nvls
from sim.errors import SimError
from sim.spec.network import Network
from sim.spec.topology import Fabric, Floats, Ints

AUTOMATIC = ("collnet", "neighbour", "nvls", "nvls_tree", "pairwise", "ring", "tree")
"""Algorithms that `auto` chooses from: those that NCCL has. `hierarchical` is what some stacks build above it."""

TREE_TO_RING_FRAC = 0.92
"""NCCL expects at most this share of the ring's rate from a tree (src/graph/tuning.cc, 2.30.7), also on two nodes,
where the tree's own loads would promise twice the ring's; measured rates are the ring's (180 GB/s on 2 x 8 A100)."""

SAME = 1 + 1e-9


@dataclass(frozen=True)
class LoneCall:
    """A collective that has the network to itself.

    time_s: of each group, (groups,).  algorithm, protocol: how it runs.
    """

    time_s: Floats
    algorithm: str
    protocol: str


def lone_call(op: str, nbytes: float, members: Ints, fabric: Fabric, network: Network) -> LoneCall:
    """Time of a collective of `nbytes` (as nccl-tests counts it) in groups of GPUs, (groups, members), each alone.

    Raises SimError where `network` names an algorithm or a protocol that these groups do not have.
    """
    way = choose(op, nbytes, members, fabric, network)
    latency_s, s_per_byte = lone_line(way, op, members, fabric)
    return LoneCall(latency_s + nbytes * s_per_byte, way.algorithm, way.protocol)


def lone_time_s(pattern: Pattern, nbytes: float, fabric: Fabric) -> Floats:
    """Time of a message of `nbytes` in each group when the group is alone and only links limit it: (groups,), s.

    Latency, then the bytes of the slowest link at its achieved rate.
    """
    return pattern.latency_s + nbytes * slowest_s_per_byte(pattern, fabric.links.bytes_per_s)


def choose(
    op: str, nbytes: float, members: Ints, fabric: Fabric, network: Network, *, spread: Spread | None = None
) -> Way:
    """How `op` on `nbytes` runs in groups of GPUs, (groups, members), all the same way.

    Without measured lines: of `AUTOMATIC`, the one whose slowest group, alone, is done first; of equal ones, the first
    by name. With them, NCCL's own expectation rules out what costs more for each byte than its choice (so that a larger
    message never returns to a protocol for small ones), and of the rest the one that is fastest by the measured
    lines is taken: the time of a lone call never falls when its bytes grow. An empty message is all latency.

    Raises SimError where `network` names an algorithm or a protocol that these groups do not have, or channels
    on a topology without NCCL's lines.
    """
    if network.channels is not None and fabric.links.nccl is None:
        raise SimError(
            f"network.channels changes nothing on a topology without nccl (got {network.channels}, allowed none)"
        )
    named = [_spread(way, spread) for way in _ways(op, members, fabric, network)]
    ways = [at_size(way, nbytes, members, fabric) for way in named]
    if len(ways) == 1:
        return ways[0]
    kept = _kept_by_nccl(ways, op, nbytes, members, fabric, network.channels)
    return min(kept, key=lambda way: _slowest_group_s(way, op, nbytes, members, fabric))


def _spread(way: Way, spread: Spread | None) -> Way:
    """The way with what it sends to whom; an even one where every copy goes for itself is a plain all_to_all."""
    is_plain = spread is None or (way.algorithm == "pairwise" and spread.is_even)
    return way if is_plain else way._replace(spread=spread)


def _ways(op: str, members: Ints, fabric: Fabric, network: Network) -> list[Way]:
    """What may be chosen from."""
    wanted = getattr(network.algorithms, op, "auto")
    able = [name for name, algorithm in ALGORITHMS.items() if op in algorithm.ops]
    able = [name for name in able if ALGORITHMS[name].applies(members, fabric)]
    assert able, f"no algorithm for {op}"
    if wanted == "auto":
        named = [name for name in able if name in AUTOMATIC and not _is_too_small(name, op, members, fabric)]
    else:
        _check_named(op, wanted, able)
        named = [wanted]
    ways = [Way(name, protocol) for name in named for protocol in protocols_of(name, fabric)]
    if network.protocol == "auto":
        return ways
    found = [way for way in ways if way.protocol == network.protocol]
    if not found:
        allowed = ", ".join(sorted({way.protocol for way in ways}))
        raise SimError(f"{op}: no such protocol in these groups (got {network.protocol!r}, allowed auto, {allowed})")
    return found


def _check_named(op: str, name: str, able: list[str]) -> None:
    """Raise SimError where the named algorithm cannot run `op` in the groups that `able` ones can."""
    algorithm = ALGORITHMS[name]
    if name not in able:
        reason = "does not run in these groups" if op in algorithm.ops else "is not an algorithm for it"
        raise SimError(f"{op}: {name} {reason} (got {name!r}, allowed auto, {', '.join(able)})")


def _is_too_small(name: str, op: str, members: Ints, fabric: Fabric) -> bool:
    """Whether NCCL leaves the switches' reduction aside: few members in a node."""
    return name in ("nvls", "nvls_tree") and not has_nvls(_call(op, members, fabric, None))


def _kept_by_nccl(
    ways: list[Way], op: str, nbytes: float, members: Ints, fabric: Fabric, channels: int | None
) -> list[Way]:
    """Ways that cost no more for each byte than the one with NCCL's least expected time."""
    if fabric.links.nccl is None or op in ("all_to_all", "ring_shift"):
        return ways
    call = _call(op, members, fabric, channels)
    lines = {way: expected(call, way.algorithm, way.protocol) for way in ways}
    latency_s, s_per_byte = min(lines.values(), key=lambda line: (line[0] + nbytes * line[1], line[1]))
    assert latency_s >= 0
    return [way for way, line in lines.items() if line[1] <= s_per_byte * SAME]


def _call(op: str, members: Ints, fabric: Fabric, channels: int | None) -> Call:
    """The groups as NCCL sees them; of unlike groups, the one on most nodes."""
    nccl = fabric.links.nccl
    assert nccl is not None
    node = np.sort(fabric.node_of(members), axis=1)
    num_nodes = 1 + int((node[:, 1:] != node[:, :-1]).sum(axis=1).max())
    is_nvlink = fabric.links.tier == 0
    rate = fabric.links.wire_bytes_per_s * np.where(is_nvlink, NVLINK_EXPECTED_FRAC, NETWORK_EXPECTED_FRAC)
    ring = "all_gather" if op == "broadcast" else op
    slowest = float(slowest_s_per_byte(pattern_of("ring", ring, members, fabric), rate).max())
    nvlink_bytes_per_s = float(rate[is_nvlink].max())
    return Call(op, members.shape[1], num_nodes, nccl.generation, slowest, nvlink_bytes_per_s, channels)


def _slowest_group_s(way: Way, op: str, nbytes: float, members: Ints, fabric: Fabric) -> float:
    if nbytes == 0:
        return float(latency_of(way, op, members, fabric).max())
    latency_s, s_per_byte = lone_line(way, op, members, fabric)
    if way.algorithm == "tree":
        ring = pattern_of("ring", op, members, fabric)
        ring_s_per_byte = slowest_s_per_byte(ring, fabric.links.bytes_per_s)
        s_per_byte = np.maximum(s_per_byte, ring_s_per_byte / TREE_TO_RING_FRAC)
    return float((latency_s + nbytes * s_per_byte).max())
