"""Collective algorithms, one file each: what they load on which links, and their latency."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from sim.registry import Registry
from sim.spec.topology import Fabric, Floats, Ints

OPS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "ring_shift")


@dataclass(frozen=True)
class Pattern:
    """What one collective costs on a fabric, for each of G groups of n ranks (all groups of one axis at once).

    Rows (group, link, bytes_per_byte): a message of S bytes puts S x bytes_per_byte bytes on the link; each
    (group, link) stands once. latency_s: (G,), time that passes even for an empty message.

    The message S is counted as nccl-tests counts it: all_reduce and broadcast the buffer of a rank, all_gather the
    gathered output, reduce_scatter the input, all_to_all what one rank sends in all (its own part included),
    ring_shift what one rank sends to the next.
    """

    group: Ints
    link: Ints
    bytes_per_byte: Floats
    latency_s: Floats


class Algorithm(Protocol):
    """A way to run some of the collectives."""

    ops: frozenset[str]

    def applies(self, members: Ints, fabric: Fabric) -> bool:
        """Whether these groups, (groups, members), can run it (hierarchical needs equal shares of several nodes)."""
        ...

    def latency_s(self, op: str, members: Ints, fabric: Fabric) -> Floats:
        """The latency of `pattern` alone, (groups,): all that a message costs which puts no load on links."""
        ...

    def pattern(self, op: str, members: Ints, fabric: Fabric) -> Pattern:
        """Loads and latency of `op` for groups of GPUs: (groups, members), two members or more."""
        ...


ALGORITHMS: Registry[Algorithm] = Registry("collective algorithm", "sim.cost.collectives")
