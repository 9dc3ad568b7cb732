"""Choices of the communication library."""

from __future__ import annotations

from typing import Literal

from sim.spec.quantity import Count, Spec


class Algorithms(Spec):
    """Algorithm of each collective: a name of the registry, or `auto` for NCCL's choice at the message's size."""

    all_reduce: str = "auto"
    all_gather: str = "auto"
    reduce_scatter: str = "auto"
    all_to_all: str = "auto"


class Network(Spec):
    """How collectives run on the topology's links.

    protocol: NCCL's of all collectives (NCCL_PROTO), or `auto` for its choice at the message's size.  channels: number
    of channels that NCCL expects to use when it chooses (NCCL_MAX_NCHANNELS), without it the generation's own.
    """

    algorithms: Algorithms = Algorithms()
    protocol: Literal["auto", "ll", "ll128", "simple"] = "auto"
    channels: Count | None = None
