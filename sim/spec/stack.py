"""What a training framework does: which kernels are fused, which attention it calls, what its host costs."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from sim.spec.gpu import AttentionKernel, Gpu
from sim.spec.pace import ALONE, Pace
from sim.spec.quantity import Bytes, Count, Seconds, Spec
from sim.spec.sourced import Sourced, values
from sim.spec.training import Precision

AttentionChoice = AttentionKernel | Literal["unfused"]


class FusedKernels(Spec):
    """How each memory-bound step of a layer is implemented. `sim.program.pointwise` says what each choice moves.

    norm: `fused` in one kernel each way; `two_pass` reads the input and the gradient once more for the weight's
        gradient (Apex, torch); `eager` RMSNorm of separate torch operations (a LayerNorm is `two_pass` there).
    activation: with the gate in one kernel, or one kernel for each operation.
    rotary: in one kernel, or as torch operations.
    dropout: added to the residual in the same kernel, or in its own.
    softmax: of unfused attention: scale, mask and softmax in one kernel, or one for each.
    cross_entropy: `fused` keeps logits in 16 bits; `vocab_parallel` is Megatron-LM's, in fp32; `eager` casts to fp32
        and calls torch.
    gradient_accumulation: the weight-gradient product adds to the gradient buffer itself, or a kernel after it does.
    permutation: of MoE tokens: in one kernel, or gather and scale apart.
    optimizer: one kernel over all tensors, or one for each operation of Adam.
    """

    norm: Literal["fused", "two_pass", "eager"]
    activation: Literal["fused", "eager"]
    rotary: Literal["fused", "eager"]
    dropout: Literal["fused", "eager"]
    softmax: Literal["fused", "eager"]
    cross_entropy: Literal["fused", "vocab_parallel", "eager"]
    gradient_accumulation: Literal["fused", "separate"]
    permutation: Literal["fused", "eager"]
    optimizer: Literal["fused", "eager"]


class Host(Spec):
    """What the CPU of a rank needs to issue work, s: a kernel, a collective or a send, and a captured CUDA graph."""

    kernel_s: Seconds = Field(alias="kernel")
    collective_s: Seconds = Field(alias="collective")
    graph_s: Seconds = Field(alias="graph")


class Bucket(Spec):
    """When gradients that are ready are worth a call: at `size` bytes, or at the greater of `parameters` and
    `parameters_by_rank` for each replica. Without any of them, those of a virtual stage go in one call."""

    size_bytes: Bytes | None = Field(default=None, alias="size")
    parameters: Count | None = None
    parameters_by_rank: Count | None = None

    @model_validator(mode="after")
    def _one_unit(self) -> Self:
        if self.size_bytes is not None and (self.parameters is not None or self.parameters_by_rank is not None):
            raise ValueError("size with parameters or parameters_by_rank (allowed one of them)")
        return self


def bucket_bytes(bucket: Bucket, grad_bytes: float, replicas: int) -> float:
    """Bytes of a full bucket of gradients of `grad_bytes` each; infinite where there is one for all.

    >>> bucket_bytes(Bucket(parameters=40_000_000, parameters_by_rank=1_000_000), 4, 64)
    256000000
    """
    if bucket.size_bytes is not None:
        return bucket.size_bytes
    parameters = max(bucket.parameters or 0, (bucket.parameters_by_rank or 0) * replicas)
    return grad_bytes * parameters or math.inf


class Stack(Sourced):
    """A framework at some release. Every choice has a line in `sources`, as every number has.

    attention: kernels in the order of preference; the first that the GPU has constants for is used.
    precisions: number formats of matrix products that it trains in.
    training: values of the scenario's `training:` that hold where a scenario does not say otherwise.
    vocab_multiple: the vocabulary is padded to a multiple of this times tp.
    sends: what a rank hands to the next pipeline stage without sequence parallelism: `whole` activations, or 1 / tp of
        them, gathered by the receivers over the tensor-parallel group (`scattered`, arXiv 2104.04473 section 4.1).
    bucket: of gradients, where `training.bucket` says nothing.
    blocking_sends: pipeline schedules in which a rank waits for its send before its next pass.
    shard_copies: whether ZeRO-3 copies parameters out of what it gathers, and gradients into what it reduces.
    pace: by name or architecture of the GPU, how kernels of a step run against microbenchmarks; as there where neither
        is in it.
    """

    title: str
    attention: Annotated[tuple[AttentionChoice, ...], Field(strict=False, min_length=1)]
    precisions: Annotated[tuple[Precision, ...], Field(strict=False, min_length=1)]
    kernels: FusedKernels
    host: Host
    training: dict[str, Any] = Field(default_factory=dict)
    vocab_multiple: Count
    sends: Literal["whole", "scattered"]
    bucket: Bucket
    blocking_sends: Annotated[tuple[str, ...], Field(strict=False)]
    shard_copies: bool
    pace: dict[str, Pace] = Field(default_factory=dict)

    def facts(self) -> Collection[str]:
        """Every choice, and every number; pace even where it says nothing."""
        return (values(self).keys() | {"pace"}) - {"name", "title"}


def pace_of(stack: Stack, gpu: Gpu) -> Pace:
    """How kernels of the stack run on this GPU."""
    return stack.pace.get(gpu.name, stack.pace.get(gpu.architecture, ALONE))
