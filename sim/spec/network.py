"""Choices of the communication library."""

from __future__ import annotations

from sim.spec.quantity import Spec


class Algorithms(Spec):
    """Algorithm of each collective: a name of the registry, or `auto` for the one of NCCL's (ring, tree, pairwise)
    that is fastest alone at the message's size."""

    all_reduce: str = "auto"
    all_gather: str = "auto"
    reduce_scatter: str = "auto"
    all_to_all: str = "auto"


class Network(Spec):
    """How collectives run on the topology's links."""

    algorithms: Algorithms = Algorithms()
