"""What a GPU can do: peak rates, memory, and the fitted constants of the kernel model."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from sim.errors import Problem, SimError
from sim.spec.quantity import Bytes, BytesPerSecond, Count, FlopPerSecond, Fraction, Seconds, Spec, Watts
from sim.spec.sourced import Sourced

NumberFormat = Literal["fp32", "tf32", "fp16", "bf16", "fp8", "fp4"]


BYTES_PER_VALUE: dict[NumberFormat, float] = {
    "fp32": 4.0,
    "tf32": 4.0,
    "fp16": 2.0,
    "bf16": 2.0,
    "fp8": 1.0,
    "fp4": 0.5,
}


Slower = Annotated[float, Field(ge=1, le=3)]
"""A factor on time."""


class GemmConstants(Spec):
    """Constants of the GEMM model in `sim.cost.gemm`.

    `flop_frac` is the share of the dense peak of a format that a large GEMM reaches in a short burst, `in_run_frac` the
    share of that which is left at the sustained clock of a training run, `hbm_frac` the share of the HBM rate of a
    memory-bound GEMM, and a reduction of length k runs at k / (k + k_half) of the rate.
    """

    flop_frac: dict[NumberFormat, Fraction]
    in_run_frac: Fraction
    hbm_frac: Fraction
    k_half: Annotated[float, Field(ge=0)]
    launch_s: Seconds = Field(alias="launch")


class AttentionPass(Spec):
    """One direction of fused attention.

    Queries that see s keys each, on average, run at s / (s + s_half) of `flop_frac` of the dense peak at head dim 128
    and above, and at `head_dim_64_frac` of that at head dim 64.
    """

    flop_frac: Fraction
    s_half: Annotated[float, Field(ge=0)]
    head_dim_64_frac: Fraction


class AttentionConstants(Spec):
    """Constants of the fused-attention model in `sim.cost.attention`."""

    forward: AttentionPass
    backward: AttentionPass
    launch_s: Seconds = Field(alias="launch")


class StreamConstants(Spec):
    """Constants of kernels that are bound by memory: bytes / (hbm_frac x HBM) + launch."""

    hbm_frac: Fraction
    launch_s: Seconds = Field(alias="launch")


class SlowdownFactors(Spec):
    """By how much longer a kernel takes while communication runs on its GPU, which takes SMs and memory bandwidth.

    collective: all_reduce, all_gather, reduce_scatter and broadcast.  all_to_all: of experts' tokens.  send: a
    pipeline's, on the sender and on the receiver.
    """

    collective: Slower
    all_to_all: Slower
    send: Slower


class Gpu(Sourced):
    """One accelerator."""

    peak_flop_per_s: dict[NumberFormat, FlopPerSecond] = Field(alias="peak")
    memory_bytes: Bytes = Field(alias="memory")
    hbm_bytes_per_s: BytesPerSecond = Field(alias="hbm")
    num_sms: Count
    tdp_w: Watts = Field(alias="tdp")
    gemm: GemmConstants
    attention: AttentionConstants
    memory_bound: StreamConstants
    slowdown: SlowdownFactors

    @model_validator(mode="after")
    def _every_format_has_a_share(self) -> Gpu:
        if set(self.gemm.flop_frac) != set(self.peak_flop_per_s):
            raise ValueError(
                f"gemm.flop_frac has {', '.join(self.gemm.flop_frac)} but peak has {', '.join(self.peak_flop_per_s)}"
            )
        return self


def peak_in(gpu: Gpu, number_format: NumberFormat) -> float:
    """Dense peak in `number_format`, FLOP/s.

    Raises SimError where the GPU does not compute in that format.
    """
    if number_format not in gpu.peak_flop_per_s:
        allowed = ", ".join(gpu.peak_flop_per_s)
        raise SimError(
            Problem(f"no peak rate in this format (got {number_format!r}, allowed {allowed})", path=gpu.name)
        )
    peak: float = gpu.peak_flop_per_s[number_format]
    return peak
