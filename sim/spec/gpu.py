"""What a GPU can do: peak rates, memory, and the fitted constants of the kernel model."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from sim.errors import Problem, SimError
from sim.spec.quantity import Bytes, BytesPerSecond, Count, FlopPerSecond, Fraction, Seconds, Spec, Watts
from sim.spec.sourced import Sourced

NumberFormat = Literal["fp32", "tf32", "fp16", "bf16", "fp8", "fp4"]

AttentionKernel = Literal["fa2", "fa3", "cudnn", "trtllm", "triton"]
"""Who wrote a fused-attention kernel: FlashAttention-2 and -3, cuDNN, TensorRT-LLM, or a Triton program."""

BYTES_PER_VALUE: dict[NumberFormat, float] = {
    "fp32": 4.0,
    "tf32": 4.0,
    "fp16": 2.0,
    "bf16": 2.0,
    "fp8": 1.0,
    "fp4": 0.5,
}


NotNegative = Annotated[float, Field(ge=0)]

Slower = Annotated[float, Field(ge=1, le=3)]
"""A factor on time."""

Range = Annotated[tuple[float, float], Field(strict=False)]
"""The least and the largest value that was measured."""


class GemmConstants(Spec):
    """Constants of the GEMM model in `sim.cost.gemm` for one number format.

    flop_frac: share of the dense peak that the largest tile reaches in a short launch.  in_run_frac: share of that
    which power leaves in a training run.  long_frac: share of it which is left in a lone launch well beyond 1 ms.
    hbm_frac: share of the HBM rate of a product bound by memory.  k_half: length of a reduction at which start and end
    of a tile take as long as the reduction.  wave_frac: part of the last wave's idle SMs that is lost.  tile_half:
    half the side of a square tile that runs at half the rate of an infinite one.  split_k: length of a reduction that
    takes as long as adding up the parts of one that is split.  range_m, range_n, range_k: the least and the largest
    side of the products that they were fitted to.
    """

    flop_frac: Fraction
    in_run_frac: Fraction
    long_frac: Fraction
    hbm_frac: Fraction
    k_half: NotNegative
    wave_frac: Annotated[float, Field(ge=0, le=1)]
    tile_half: NotNegative
    split_k: NotNegative
    launch_s: Seconds = Field(alias="launch")
    range_m: Range
    range_n: Range
    range_k: Range


GroupedKernel = Literal["triton", "cutlass", "trtllm"]
"""Who wrote the grouped products of a fused mixture-of-experts operator: a Triton program, CUTLASS, TensorRT-LLM."""

GroupedFormat = Literal["bf16", "fp8", "fp8_block"]
"""Of the operands; fp8_block has a scale for each block of values."""


class GroupedRate(Spec):
    """Constants of the grouped-product model in `sim.cost.grouped_gemm`, of one kernel and number format.

    flop_frac: share of the dense peak.  k_half: length of a reduction at which start and end of a tile take as long as
    the reduction.  hbm_frac: share of the HBM rate.  tile_rows: rows of an output tile, to which an expert's rows are
    rounded up.  cached: what the L2 cache keeps of an operand while tiles share it; an expert's weights beyond it are
    read again for each `rows_per_read` rows, input beyond it for each `columns_per_read` columns.  The ranges are those
    of the products that were measured, rows those of an expert.
    """

    flop_frac: Fraction
    k_half: NotNegative
    hbm_frac: Fraction
    tile_rows: Literal[64, 128]
    cached_bytes: Bytes = Field(alias="cached")
    rows_per_read: Annotated[float, Field(gt=0)]
    columns_per_read: Annotated[float, Field(gt=0)]
    launch_s: Seconds = Field(alias="launch")
    range_rows: Range
    range_n: Range
    range_k: Range


class FusedMoeRate(GroupedRate):
    """Constants of a fused mixture-of-experts operator; its launch is that of all its kernels.

    move_hbm_frac: share of the HBM rate at which activation and combination move their bytes, casts included.  token:
    what a token costs before the products, whose top experts are found and sorted.
    """

    move_hbm_frac: Fraction
    token_s: Seconds = Field(alias="token")


class GroupedGemmConstants(Spec):
    """Constants of grouped products: of training's kernels (`training`), and of those that inference frameworks fuse
    into one operator (`fused`), which is what is measured.

    in_run_frac: share of the rate that power leaves in a training run.
    """

    training: dict[NumberFormat, GroupedRate]
    in_run_frac: dict[NumberFormat, Fraction]
    fused: dict[GroupedKernel, dict[GroupedFormat, FusedMoeRate]]

    @model_validator(mode="after")
    def _every_rate_has_a_share(self) -> GroupedGemmConstants:
        if set(self.training) != set(self.in_run_frac):
            raise ValueError(
                f"in_run_frac has {', '.join(self.in_run_frac)} but training has {', '.join(self.training)}"
            )
        return self


class AttentionPass(Spec):
    """One direction of fused attention.

    Queries that see s keys each, on average, run at s / (s + s_half) of `flop_frac` of the dense peak at head dim 128;
    the exponential of a score costs as much as `softmax_dim` more columns of a head.
    """

    flop_frac: Fraction
    s_half: NotNegative
    softmax_dim: NotNegative


class AttentionConstants(Spec):
    """Constants of the fused-attention model in `sim.cost.attention`, of one implementation.

    full_head_dim: the widest head whose tile fits on an SM.  edge_keys: keys that a query computes in vain at each edge
    of the mask.  tail_rows: queries of the last tile at head dim 128.  long_frac: share of the rate that is left in a
    lone launch beyond its first milliseconds.  in_run_frac: the same in a training run.  range_seq_len, range_head_dim:
    the least and the largest that were measured.
    """

    forward: AttentionPass
    backward: AttentionPass
    full_head_dim: Annotated[float, Field(gt=0)]
    edge_keys: NotNegative
    tail_rows: NotNegative
    launch_s: Seconds = Field(alias="launch")
    long_frac: Fraction
    in_run_frac: Fraction
    range_seq_len: Annotated[tuple[float, float], Field(strict=False)]
    range_head_dim: Annotated[tuple[float, float], Field(strict=False)]


class StreamRate(Spec):
    """Share of the HBM rate that a class of kernels bound by memory reaches."""

    hbm_frac: Fraction


class ReductionRate(StreamRate):
    """The same of a reduction inside each row, whose later passes read again the rows that the caches no longer hold.

    `cached_row` is the length of the rows half of which they hold.
    """

    cached_row_bytes: Bytes = Field(alias="cached_row")


class StreamConstants(Spec):
    """Constants of kernels that are bound by memory, in `sim.cost.stream`, by class of kernel.

    `launch` is the start and drain of one kernel on the GPU, without the host's time.
    """

    elementwise: StreamRate
    norm: ReductionRate
    softmax: ReductionRate
    gather: StreamRate
    launch_s: Seconds = Field(alias="launch")


class CopyConstants(Spec):
    """Between GPU and host memory, in `sim.cost.copy`: rates of pinned copies, the latency of each.

    `host_update` is the host-memory traffic that one GPU's share of the node's CPU cores reaches in an optimizer step.
    """

    host_to_device_bytes_per_s: BytesPerSecond = Field(alias="host_to_device")
    device_to_host_bytes_per_s: BytesPerSecond = Field(alias="device_to_host")
    host_update_bytes_per_s: BytesPerSecond = Field(alias="host_update")
    latency_s: Seconds = Field(alias="latency")


class SlowdownFactors(Spec):
    """By how much longer a kernel takes while communication runs on its GPU, which takes SMs and memory bandwidth.

    collective: all_reduce, all_gather, reduce_scatter and broadcast.  all_to_all: of experts' tokens.  send: a
    pipeline's, on the sender and on the receiver.
    """

    collective: Slower
    all_to_all: Slower
    send: Slower


class Gpu(Sourced):
    """One accelerator. architecture: generation, whose GPUs run the same kernels (see `sim.spec.stack.pace_of`)."""

    architecture: str = "other"
    peak_flop_per_s: dict[NumberFormat, FlopPerSecond] = Field(alias="peak")
    memory_bytes: Bytes = Field(alias="memory")
    hbm_bytes_per_s: BytesPerSecond = Field(alias="hbm")
    num_sms: Count
    tdp_w: Watts = Field(alias="tdp")
    gemm: dict[NumberFormat, GemmConstants]
    grouped_gemm: GroupedGemmConstants
    attention: Annotated[dict[AttentionKernel, AttentionConstants], Field(min_length=1)]
    memory_bound: StreamConstants
    copy_constants: CopyConstants = Field(alias="copy")
    slowdown: SlowdownFactors

    @model_validator(mode="after")
    def _every_format_has_constants(self) -> Gpu:
        if set(self.gemm) != set(self.peak_flop_per_s):
            raise ValueError(f"gemm has {', '.join(self.gemm)} but peak has {', '.join(self.peak_flop_per_s)}")
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


def gemm_constants(gpu: Gpu, number_format: NumberFormat) -> GemmConstants:
    """Constants of products in `number_format`.

    Raises SimError where the GPU does not compute in that format.
    """
    peak_in(gpu, number_format)
    return gpu.gemm[number_format]
