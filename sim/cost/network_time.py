"""How long a collective takes that has the network to itself, and which algorithm is the fastest then."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from sim.cost.collectives import ALGORITHMS, Pattern
from sim.errors import SimError
from sim.spec.topology import Fabric, Floats, Ints


def lone_time_s(pattern: Pattern, nbytes: float, fabric: Fabric) -> Floats:
    """Time of a message of `nbytes` in each group when the group is alone: (groups,), s.

    Latency, then the bytes of the slowest link at its achieved rate.
    """
    return pattern.latency_s + nbytes * _slope(pattern, fabric)


def _slope(pattern: Pattern, fabric: Fabric) -> Floats:
    """Seconds for each byte of the message on the slowest link of each group."""
    slowest = np.zeros(len(pattern.latency_s))
    np.maximum.at(slowest, pattern.group, pattern.bytes_per_byte / fabric.links.bytes_per_s[pattern.link])
    return slowest


LAUNCH_S = 14.0e-6
"""What NCCL adds to the steps of a ring or a tree with LL128, once a call (base latency in its src/graph/tuning.cc).

The topologies' latencies of a step are LL128's too. Error: see `share_in_node`."""


def share_in_node(op: str, size: int) -> float:
    """Share of the wire's achieved rate that `size` members of one node reach in `op`.

    m / (m + 1), m = 2 n for all_reduce and n for the others: about one chunk more than the algorithm counts passes
    before the last member has the last one, and fewer, larger chunks hide it worse. Source: the form was read off
    nccl-tests' sweeps of ai-dynamo/aiconfigurator (Apache-2.0), and has no constant. Error: with `LAUNCH_S` and the
    topologies' steps and efficiencies, mean absolute 6.1 % (bias -1.2) over all_gather, reduce_scatter and all_to_all
    on 2, 4 and 8 GPUs, and all_reduce where NVLS is not chosen, of A100, H100, H200 and B200, 64 MB to 512 MB; 24 %
    without either. From 1 MB to 64 MB 21 %, where NCCL's protocols change.

    >>> share_in_node("all_gather", 4), share_in_node("all_reduce", 2)
    (0.8, 0.8)
    """
    chunks = 2 * size if op == "all_reduce" else size
    return chunks / (chunks + 1)


AUTOMATIC = ("pairwise", "ring", "tree")
"""Algorithms that `auto` chooses from: those that NCCL has. `hierarchical` is what some stacks build above it."""

TREE_TO_RING_FRAC = 0.92
"""NCCL expects at most this share of the ring's rate from a tree (src/graph/tuning.cc, 2.30.7), also on two nodes,
where the tree's own loads would promise twice the ring's; measured rates are the ring's (180 GB/s on 2 x 8 A100)."""


def choose(op: str, nbytes: float, members: Ints, fabric: Fabric, name: str) -> str:
    """The algorithm called `name`, or for `auto` the one of `AUTOMATIC` whose slowest group, alone, is done first.

    members: (groups, members). Of equal ones, the first by name. As NCCL does, a tree is chosen for its latency only.
    An empty message is all latency.

    Raises SimError where the named algorithm cannot run `op` in these groups.
    """
    able = [other for other, algorithm in ALGORITHMS.items() if op in algorithm.ops]
    able = [other for other in able if ALGORITHMS[other].applies(members, fabric)]
    assert able, f"no algorithm for {op}"
    if name != "auto":
        algorithm = ALGORITHMS[name]
        if name not in able:
            reason = "does not run in these groups" if op in algorithm.ops else "is not an algorithm for it"
            raise SimError(f"{op}: {name} {reason} (got {name!r}, allowed auto, {', '.join(able)})")
        return name
    able = [other for other in able if other in AUTOMATIC]
    if len(able) == 1:
        return able[0]
    return min(able, key=lambda other: _slowest_group_s(other, op, nbytes, members, fabric))


def _slowest_group_s(name: str, op: str, nbytes: float, members: Ints, fabric: Fabric) -> float:
    if nbytes == 0:
        return float(latency_of(name, op, members, fabric).max())
    latency_s, slope = _line(name, op, _Groups(members), fabric)
    if name == "tree":
        slope = np.maximum(slope, _line("ring", op, _Groups(members), fabric)[1] / TREE_TO_RING_FRAC)
    return float((latency_s + nbytes * slope).max())


def pattern_of(name: str, op: str, members: Ints, fabric: Fabric) -> Pattern:
    """Pattern of an algorithm. Kept, because the choice of the algorithm and all messages of a step share it."""
    return _pattern(name, op, _Groups(members), fabric)


def latency_of(name: str, op: str, members: Ints, fabric: Fabric) -> Floats:
    """Latency of an algorithm in each group, (groups,), s. Far less work than its pattern."""
    return _latency(name, op, _Groups(members), fabric)


class _Groups:
    """Groups of GPUs, (groups, members), that can be a key: equal where the numbers are."""

    def __init__(self, members: Ints) -> None:
        self.members = members.astype(np.int64)
        self._content = (self.members.tobytes(), members.shape)

    def __hash__(self) -> int:
        return hash(self._content)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Groups) and self._content == other._content


@lru_cache(maxsize=32)
def _pattern(name: str, op: str, groups: _Groups, fabric: Fabric) -> Pattern:
    return ALGORITHMS[name].pattern(op, groups.members, fabric)


@lru_cache(maxsize=32)
def _latency(name: str, op: str, groups: _Groups, fabric: Fabric) -> Floats:
    return ALGORITHMS[name].latency_s(op, groups.members, fabric)


@lru_cache(maxsize=64)
def _line(name: str, op: str, groups: _Groups, fabric: Fabric) -> tuple[Floats, Floats]:
    """Latency and seconds for each byte of each group."""
    pattern = _pattern(name, op, groups, fabric)
    return pattern.latency_s, _slope(pattern, fabric)
