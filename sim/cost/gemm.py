"""How long a matrix product takes."""

from __future__ import annotations

from dataclasses import dataclass

from sim.spec.gpu import BYTES_PER_VALUE, Gpu, NumberFormat, peak_in


@dataclass(frozen=True)
class Gemm:
    """`count` products (m, k) x (k, n) of one launch (grouped where count > 1: one for each expert).

    extra_bytes: traffic beyond reading both operands and writing the output once in `format`, such as the gradient
    buffer in fp32 that a weight-gradient product reads and writes.
    """

    name: str
    m: int
    n: int
    k: int
    format: NumberFormat
    count: int = 1
    extra_bytes: float = 0.0
    cause: str = "gemm"


def gemm_flop(gemm: Gemm) -> float:
    """Multiplications and additions of all products, FLOP.

    >>> gemm_flop(Gemm("up", m=2, n=3, k=4, format="bf16", count=5))
    240.0
    """
    return 2.0 * gemm.count * gemm.m * gemm.n * gemm.k


def gemm_bytes(gemm: Gemm) -> float:
    """HBM traffic of all products, bytes: operands (m, k) and (k, n) read once, output (m, n) written once.

    >>> gemm_bytes(Gemm("up", m=2, n=3, k=4, format="bf16", extra_bytes=8.0))
    60.0
    """
    values = gemm.count * (gemm.m * gemm.k + gemm.k * gemm.n + gemm.m * gemm.n)
    return values * BYTES_PER_VALUE[gemm.format] + gemm.extra_bytes


def gemm_s(gemm: Gemm, gpu: Gpu) -> float:
    """Time of one launch that has the GPU to itself in a training run, s.

    launch + max(FLOP / (peak x flop_frac x in_run_frac x k / (k + k_half)), bytes / (HBM x hbm_frac)): the tensor
    cores and the memory work side by side and the slower one decides. The prologue that fills the pipeline and the
    epilogue that writes a tile cost the same for any k, as if the reduction were k_half longer. flop_frac is fitted to
    short bursts; in_run_frac is what power leaves of it (sustained over burst maximum of a GEMM).

    Source: roofline (Williams et al. 2009, doi 10.1145/1498765.1498785); constants fitted to the GEMM sweeps of
    ai-dynamo/aiconfigurator (Apache-2.0), see the `sources` of each GPU.
    Error: against those bursts (in_run_frac = 1) for m, n, k >= 512 in bf16, 11,305 shapes each, mean absolute error /
    bias of the summed time in %: A100 7.6 / +0.6, H100 5.9 / -2.2, H200 5.3 / -4.0, B200 7.0 / +0.6, GB200 10.5 / -26
    (that machine throttles in launches beyond 1 ms). Fitted below and read above the median of k: 6.1, 6.7, 6.1, 8.4,
    14.5; of m: 6.7, 4.9, 5.1, 5.9, 11.7. Left out: wave and tile quantisation (up to 10 % of one shape; a p-norm in
    place of the maximum gains 0.6 points at most), transposed layouts, unequal products of a group. Shapes with a side
    below 512 were only used for hbm_frac.
    """
    assert min(gemm.m, gemm.n, gemm.k, gemm.count) >= 1, f"{gemm.name}: an empty product"
    constants = gpu.gemm
    rate = peak_in(gpu, gemm.format) * constants.flop_frac[gemm.format] * constants.in_run_frac
    compute_s = gemm_flop(gemm) * (1.0 + constants.k_half / gemm.k) / rate
    memory_s = gemm_bytes(gemm) / (gpu.hbm_bytes_per_s * constants.hbm_frac)
    duration_s: float = constants.launch_s + max(compute_s, memory_s)
    return duration_s
