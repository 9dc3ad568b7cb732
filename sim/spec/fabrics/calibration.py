"""What NCCL's collectives achieve on a topology, fitted to measurements."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sim.spec.quantity import BytesPerSecond, Count, Fraction, Seconds, Spec

PROTOCOLS = ("ll", "ll128", "simple")

Generation = Literal["ampere", "hopper", "blackwell"]


class Line(Spec):
    """Time of a call against its bytes: launch + steps x the topology's latency of the steps + bytes / rate.

    launch_s: once a call.  steps: latency of a step over that of the topology's hops.  bytes_per_s: bytes of buffers
    that one GPU passes through its kernel in a second; without it, only links limit the rate.
    wire: share of the links' achieved rate that it reaches between nodes; without it, all.
    """

    launch_s: Seconds = Field(alias="launch")
    steps: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    bytes_per_s: BytesPerSecond | None = Field(default=None, alias="bandwidth")
    wire: Fraction | None = None


class Lines(Spec):
    """One line for each protocol of rings and trees, for reductions in the switches (nvls), and for sends.

    Sends are all_to_all, over few channels (`sends_ll`, small messages) or all of them (`sends`).
    """

    ll: Line
    ll128: Line
    simple: Line
    sends_ll: Line
    sends: Line
    nvls: Line | None = None


class DeepEpLevel(Spec):
    """Groups inside a node, or on several. launch_s: once a call. wire: share of the links' achieved rate."""

    launch_s: Seconds = Field(alias="launch")
    wire: Fraction


class DeepEp(Spec):
    """DeepEP's kernels, which run the `two_level` all_to_all of experts (deepseek-ai/DeepEP, normal kernels).

    sms: that they take.  sm_bytes_per_s: bytes that each of them handles in a second.
    """

    sms: Count
    sm_bytes_per_s: BytesPerSecond = Field(alias="sm_bandwidth")
    nvlink: DeepEpLevel
    network: DeepEpLevel


class Nccl(Spec):
    """NCCL on this topology: the generation of GPUs whose column of NCCL's tables decides what is chosen, and lines.

    nvlink: groups inside one node.  network: groups on several nodes.  sharp: whether the network's switches add and
    multicast, as InfiniBand's do with SHARP, so that an all_reduce between nodes may run in them (`collnet`).
    deepep: the all_to_all of experts with DeepEP instead.
    nvls_chunk_s: time of each round of chunks that an NVLS kernel makes inside a node, besides the time of its bytes
    (`sim.cost.nccl.nvls_rounds`); without it, the line of nvls is straight.
    """

    generation: Generation
    deepep: DeepEp | None = None
    nvlink: Lines
    network: Lines | None = None
    sharp: bool = False
    nvls_chunk_s: Seconds | None = Field(default=None, alias="nvls_chunk")

    @model_validator(mode="after")
    def _chunks_are_those_of_a_line(self) -> Self:
        if self.nvls_chunk_s is not None and self.nvlink.nvls is None:
            raise ValueError(
                f"nvls_chunk has no effect without nvlink.nvls (got {self.nvls_chunk_s:g} s, allowed none)"
            )
        return self
