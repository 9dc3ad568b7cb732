"""How long the products of all experts of a rank take in one launch, and a fused operator made of such products."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from sim.cost.gemm import output_bytes_per_value
from sim.errors import Problem, SimError
from sim.spec.gpu import BYTES_PER_VALUE, FusedMoeRate, Gpu, GroupedRate, NumberFormat, peak_in
from sim.spec.topology import Floats

Number: TypeAlias = float | Floats
"""One kernel's number, or those of a table of kernels: (kernels,)."""

OVERLAP_POWER = 2.5
"""p of (compute^p + memory^p)^(1/p): how well tensor cores and memory hide each other. Fitted once to all GPUs: 1.5 to
4 differ by half a point of error."""
MOVED_BYTES = 2
"""Of a value that permutation, activation and combination read or write: bf16 whatever the products' format."""


@dataclass(frozen=True)
class GroupedGemm:
    """Products of one launch, one for each expert on this rank: (rows, k) x (k, n).

    groups: (rows, how many experts have so many), 0 rows among them. is_weight_gradient: (n, rows) x (rows, k) instead,
    which reduces over the rows. extra_bytes: traffic beyond reading the operands and writing the output once, such as
    the gradient buffer in fp32.
    """

    name: str
    groups: tuple[tuple[int, int], ...]
    n: int
    k: int
    format: NumberFormat
    is_weight_gradient: bool = False
    extra_bytes: float = 0.0
    cause: str = "gemm"


@dataclass(frozen=True)
class Load:
    """What the experts of a rank work on.

    rows: of all experts. padded_rows: rounded up to whole tiles, expert by expert. experts: those with rows.
    source_rows: distinct rows of the input (a fused kernel gathers a token's row for each of its experts).
    """

    rows: Number
    padded_rows: Number
    experts: Number
    source_rows: Number


@dataclass(frozen=True)
class Machine:
    """Dense peak in the format of the products, FLOP/s; HBM, bytes/s."""

    peak_flop_per_s: Number
    hbm_bytes_per_s: float


def num_rows(kernel: GroupedGemm) -> int:
    """Rows of all experts."""
    return sum(rows * count for rows, count in kernel.groups)


def load_of(kernel: GroupedGemm, tile_rows: int) -> Load:
    """Rows, padded rows and experts with rows; training permutes first, so that every row is its own.

    >>> load_of(GroupedGemm("up", ((100, 2), (0, 3), (129, 1)), 8, 8, "bf16"), 128)
    Load(rows=329, padded_rows=512, experts=3, source_rows=329)
    """
    padded = sum(-(-rows // tile_rows) * tile_rows * count for rows, count in kernel.groups)
    rows = num_rows(kernel)
    return Load(rows, padded, sum(count for each, count in kernel.groups if each), rows)


def grouped_gemm_flop(kernel: GroupedGemm) -> float:
    """Multiplications and additions without padding, FLOP.

    >>> grouped_gemm_flop(GroupedGemm("up", ((2, 5), (0, 3)), n=3, k=4, format="bf16"))
    240.0
    """
    return 2.0 * num_rows(kernel) * kernel.n * kernel.k


def grouped_gemm_bytes(kernel: GroupedGemm) -> float:
    """HBM traffic, bytes: weights of experts with rows read once, rows read and written once.

    A weight gradient reads both (rows, n) and (rows, k), and writes (n, k) for every expert, with rows or without.

    >>> grouped_gemm_bytes(GroupedGemm("up", ((2, 1), (0, 1)), n=3, k=4, format="bf16"))
    52.0
    >>> grouped_gemm_bytes(GroupedGemm("up", ((2, 1), (0, 1)), n=3, k=4, format="bf16", is_weight_gradient=True))
    76.0
    """
    rows, values = num_rows(kernel), float(kernel.n * kernel.k)
    operand_bytes, output_bytes = BYTES_PER_VALUE[kernel.format], output_bytes_per_value(kernel.format)
    if kernel.is_weight_gradient:
        num_experts = sum(count for _, count in kernel.groups)
        moved = rows * (kernel.n + kernel.k) * operand_bytes + num_experts * values * output_bytes
    else:
        active = sum(count for each, count in kernel.groups if each)
        moved = (rows * kernel.k + active * values) * operand_bytes + rows * kernel.n * output_bytes
    return moved + kernel.extra_bytes


def overlapped_s(compute_s: Number, memory_s: Number) -> Number:
    """Time in which tensor cores and memory work side by side, s.

    >>> float(overlapped_s(3.0, 0.0))
    3.0
    """
    total: Number = np.power(np.power(compute_s, OVERLAP_POWER) + np.power(memory_s, OVERLAP_POWER), 1 / OVERLAP_POWER)
    return total


def reread_bytes(load: Load, n: Number, k: Number, operand_bytes: Number, rate: GroupedRate) -> Number:
    """HBM traffic beyond reading each operand once, bytes.

    Tiles of the output that run at the same time share what they read through the L2 cache. An expert's weights (k, n)
    that do not fit in it (`cached_bytes`) are read again for each `rows_per_read` rows; an input (source_rows, k) that
    does not fit is gathered again for each `columns_per_read` columns. The part of an operand that fits is kept.
    """
    weight_bytes, input_bytes = n * k * operand_bytes, load.source_rows * k * operand_bytes
    weights = _lost_frac(weight_bytes, rate) * weight_bytes * load.padded_rows / rate.rows_per_read
    inputs = _lost_frac(input_bytes, rate) * load.rows * k * operand_bytes * n / rate.columns_per_read
    return weights + inputs


def _lost_frac(nbytes: Number, rate: GroupedRate) -> Number:
    kept: Number = np.minimum(1.0, rate.cached_bytes / np.maximum(nbytes, 1.0))
    return 1.0 - kept


def forward_s(load: Load, n: Number, k: Number, operand_bytes: Number, rate: GroupedRate, machine: Machine) -> Number:
    """Products (rows, k) x (k, n) over all experts without the launch, s: `rate` read at `machine`'s rates.

    compute = 2 x padded rows x n x k x (1 + k_half / k) / (flop_frac x peak): a tile that an expert fills in part costs
    a whole one. memory = (weights of experts with rows + rows in and out + what is read again) / (hbm_frac x HBM).
    """
    compute_s = 2.0 * load.padded_rows * n * (k + rate.k_half) / (rate.flop_frac * machine.peak_flop_per_s)
    nbytes = load.experts * n * k * operand_bytes + load.rows * (k * operand_bytes + n * MOVED_BYTES)
    nbytes = nbytes + reread_bytes(load, n, k, operand_bytes, rate)
    return overlapped_s(compute_s, nbytes / (rate.hbm_frac * machine.hbm_bytes_per_s))


def weight_gradient_s(kernel: GroupedGemm, rate: GroupedRate, machine: Machine) -> Number:
    """Products (n, rows) x (rows, k) over all experts without the launch, s.

    The reduction is over the rows of an expert, whatever their number: the prologue and the epilogue of k_half cost
    once for each expert, compute = 2 n k (rows + k_half x experts with rows) / (flop_frac x peak). Rows are blocks of
    the reduction, not of the output, so that they are not padded.
    """
    load = load_of(kernel, 1)
    reduced = load.rows + rate.k_half * load.experts
    compute_s = 2.0 * kernel.n * kernel.k * reduced / (rate.flop_frac * machine.peak_flop_per_s)
    return overlapped_s(compute_s, grouped_gemm_bytes(kernel) / (rate.hbm_frac * machine.hbm_bytes_per_s))


def grouped_gemm_s(kernel: GroupedGemm, gpu: Gpu, *, burst: bool = False) -> float:
    """Time of one launch that has the GPU to itself, s: in a training run, or in a short burst (`burst`).

    launch + `forward_s` or `weight_gradient_s`, at the rates in `grouped_gemm.training` of the GPU. An expert without
    rows costs nothing but the writing of its gradient.

    What carries over from the fused kernels of inference frameworks, on which the form was fitted (`fused_moe_s`): the
    padding to tiles, the weights read once for each expert, the L2's part. What does not is their rate: Triton's tiles
    are chosen by tables and reach half to three quarters of the dense product's rate (a quarter of peak on A100). In
    training, Transformer Engine runs grouped cuBLAS or CUTLASS kernels with the dense product's main loop: MegaBlocks
    (arXiv 2211.15841) reaches 98.6 % of batched cuBLAS on A100. So `training` has the dense rates.

    Error: no public measurement of training's grouped kernels by shape was found; see `fused_moe_s` for the form.
    Left out: launches of one kernel an expert (Transformer Engine's multi-stream fall-back), the host's sorting.

    Raises SimError where the GPU has no rate in the kernel's format.
    """
    assert all(rows >= 0 and count >= 1 for rows, count in kernel.groups), f"{kernel.name}: groups {kernel.groups}"
    rate = training_rate(gpu, kernel.format)
    sustained = 1.0 if burst else gpu.grouped_gemm.in_run_frac[kernel.format]
    machine = Machine(peak_in(gpu, kernel.format) * sustained, gpu.hbm_bytes_per_s)
    if kernel.is_weight_gradient:
        product_s = weight_gradient_s(kernel, rate, machine)
    else:
        load = load_of(kernel, rate.tile_rows)
        product_s = forward_s(load, kernel.n, kernel.k, BYTES_PER_VALUE[kernel.format], rate, machine)
        product_s = product_s + kernel.extra_bytes / (rate.hbm_frac * machine.hbm_bytes_per_s)
    return rate.launch_s + float(product_s)


def training_rate(gpu: Gpu, number_format: NumberFormat) -> GroupedRate:
    """Rates of training's grouped kernels. Raises SimError where the GPU has none in the format."""
    rates = gpu.grouped_gemm.training
    if number_format not in rates:
        message = f"no rate of grouped products in this format (got {number_format!r}, allowed {', '.join(rates)})"
        raise SimError(Problem(message, path=f"{gpu.name}.grouped_gemm.training"))
    return rates[number_format]


def outside(kernel: GroupedGemm, gpu: Gpu) -> str | None:
    """Which side of the kernel lies outside the shapes that its rates were measured on, in words; None where none does.

    The first side of an expert's products is the mean number of rows of experts that have some.
    """
    rate = training_rate(gpu, kernel.format)
    load = load_of(kernel, rate.tile_rows)
    mean_rows = float(load.rows) / max(float(load.experts), 1.0)
    sides = (
        ("rows an expert", mean_rows, rate.range_rows),
        ("n", kernel.n, rate.range_n),
        ("k", kernel.k, rate.range_k),
    )
    found = [
        f"{side} {value:,.0f} (measured {least:,.0f} to {largest:,.0f})"
        for side, value, (least, largest) in sides
        if not least <= value <= largest
    ]
    return f"{kernel.name}: {', '.join(found)}" if found else None


@dataclass(frozen=True)
class FusedMoe:
    """The operator of an inference framework: rows of tokens gathered, up (and gate), activation, down, combination.

    load: of the up-projection, whose input rows are tokens. slots: copies of tokens whose buffers are walked, those of
    experts elsewhere included where a kernel masks them instead of leaving them out. tokens: rows of the output.
    routed_tokens: those that the router sees, of all ranks that share the experts.
    gates: 2 where a gate stands beside the up-projection. operand_bytes: of a value of the products' operands.
    """

    load: Load
    slots: Number
    tokens: Number
    routed_tokens: Number
    hidden: Number
    width: Number
    gates: Number
    operand_bytes: float


def moved_bytes(moe: FusedMoe) -> Number:
    """HBM traffic of activation and combination, bytes.

    The activation reads `gates` values and writes one for each of (slots, width); the combination reads (slots, hidden)
    and writes (tokens, hidden). Products write zeros for masked slots: (slots - rows, gates x width + hidden).
    """
    masked = moe.slots - moe.load.rows
    values = moe.slots * (moe.width * (moe.gates + 1) + moe.hidden) + moe.tokens * moe.hidden
    return MOVED_BYTES * (values + masked * (moe.gates * moe.width + moe.hidden))


def fused_moe_s(moe: FusedMoe, rate: FusedMoeRate, machine: Machine) -> Number:
    """Time of the operator at the clock of a short burst, s.

    launch (of all its kernels) + token x tokens that are routed (top-k, sorting, in fp8 the cast of the input) + both
    grouped products + moved bytes / (move_hbm_frac x HBM). In fp8 `move_hbm_frac` also pays for casts, whose bytes are
    not counted.

    Source: constants fitted to ai-dynamo/aiconfigurator's MoE tables (Apache-2.0), see the `sources` of each GPU.
    Error: with 64 rows an expert or more, mean absolute error / bias of the summed time in %. bf16: A100 11.5 / -0.1
    (sglang, Triton), H100 9.6 / -1.9, H200 9.1 / -1.8 (vLLM, Triton), B200 9.6 / -0.7 (vLLM, TensorRT-LLM and CUTLASS);
    H100's constants on H200 9.7 / -3.2. Fitted to fewer and read at more rows an expert than the median: 14.7, 11.0,
    10.4, 13.4; the same for the experts' width: 14.4, 10.2, 9.4, 16.9 (no narrow expert of B200 shows that wide ones
    outgrow the L2: bias -21). By hidden x width: 6144 x 2048 4 to 10, 4096 x 1536 4 to 8, 7168 x 2048 10 (A100), 2048 x
    512 12 to 21 (bias +9 to +17). fp8 11 to 13, block-scaled fp8 9 to 10. Left out: tiles that change with the number
    of tokens, widths that are no multiple of 64 (2688 x 1856: 7 to 18).
    """
    load = moe.load
    down = Load(load.rows, load.padded_rows, load.experts, source_rows=load.rows)
    products_s = forward_s(load, moe.gates * moe.width, moe.hidden, moe.operand_bytes, rate, machine) + forward_s(
        down, moe.hidden, moe.width, moe.operand_bytes, rate, machine
    )
    routing_s = rate.launch_s + rate.token_s * moe.routed_tokens
    return routing_s + products_s + moved_bytes(moe) / (rate.move_hbm_frac * machine.hbm_bytes_per_s)
