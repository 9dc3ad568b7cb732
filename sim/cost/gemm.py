"""How long a dense matrix product takes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import numpy as np

from sim.spec.gpu import BYTES_PER_VALUE, GemmConstants, Gpu, NumberFormat, gemm_constants, peak_in
from sim.spec.topology import Floats

TILES = ((128, 256), (256, 128), (128, 128), (64, 256), (256, 64), (64, 128), (128, 64), (64, 64))
"""Parts (m, n) of the output that one thread block works on, of which a library chooses."""

SPLITS = (1, 2, 4, 8, 16)
"""Into how many parts a library cuts a reduction so that few tiles fill the GPU (split-K, stream-K)."""

P_NORM = 4.0
"""How sharply compute or memory takes over: 1 would add them, infinity let the longer hide the shorter."""

LONG_LAUNCH_S = 1e-3
"""From about here on a lone launch runs into the power limit. In the sweeps of five GPUs the rate falls between 0.3 and
3 ms, whatever the shape."""


Number = TypeVar("Number", float, Floats)


@dataclass(frozen=True)
class Gemm:
    """`count` products (m, k) x (k, n) of equal size in one launch.

    extra_bytes: traffic beyond reading both operands in `format` and writing the output once, such as the gradient
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


@dataclass(frozen=True)
class Shapes:
    """Sides of many launches in one number format, all (rows,): `count` products (m, k) x (k, n) each, and the bytes
    that all of them read and write."""

    m: Floats
    n: Floats
    k: Floats
    count: Floats
    nbytes: Floats


@dataclass(frozen=True)
class Rates:
    """What a GPU offers to a product at best: dense peak in its format, HBM, and SMs."""

    peak_flop_per_s: float
    hbm_bytes_per_s: float
    num_sms: int


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
    >>> gemm_bytes(Gemm("up", m=2, n=3, k=4, format="fp8"))
    32.0
    """
    return gemm.count * product_bytes(gemm.m, gemm.n, gemm.k, gemm.format) + gemm.extra_bytes


def product_bytes(m: Number, n: Number, k: Number, number_format: NumberFormat) -> Number:
    """Bytes of one product (m, k) x (k, n): both operands read in `number_format`, the output written."""
    return (m * k + k * n) * BYTES_PER_VALUE[number_format] + m * n * output_bytes_per_value(number_format)


def output_bytes_per_value(number_format: NumberFormat) -> float:
    """Bytes of a value of the output: as the operands, but 16 bits where those are narrower."""
    return max(BYTES_PER_VALUE[number_format], BYTES_PER_VALUE["bf16"])


def gemm_s(gemm: Gemm, gpu: Gpu, *, burst: bool = False) -> float:
    """Time of one launch that has the GPU to itself, s. The formula and its error are those of `product_s`.

    A training step reads it as it is: at the rate that power leaves over a run, `in_run_frac` of that of a short
    launch. With `burst` it is what a sweep of single launches measures, which is how constants are fitted and
    validated.

    Raises SimError where the GPU has no peak rate in the format.
    """
    assert min(gemm.m, gemm.n, gemm.k, gemm.count) >= 1, f"{gemm.name}: an empty product"
    sides = (gemm.m, gemm.n, gemm.k, gemm.count, gemm_bytes(gemm))
    return _one_s(sides, gemm_constants(gpu, gemm.format), rates(gpu, gemm.format), burst)


@lru_cache(maxsize=4096)
def _one_s(sides: tuple[float, ...], constants: GemmConstants, peak: Rates, burst: bool) -> float:
    """`product_s` of one launch; a step repeats a few shapes for every layer and layout."""
    shapes = Shapes(*(np.array([float(side)]) for side in sides))
    return float(product_s(shapes, constants, peak, burst=burst)[0])


def rates(gpu: Gpu, number_format: NumberFormat) -> Rates:
    """What the GPU offers to products in a format. Raises SimError where it does not compute in it."""
    return Rates(peak_in(gpu, number_format), gpu.hbm_bytes_per_s, gpu.num_sms)


def product_s(shapes: Shapes, constants: GemmConstants, peak: Rates, *, burst: bool) -> Floats:
    """Time of lone launches, (rows,), s: launch + (compute^p + memory^p)^(1/p), p = 4.

    memory = bytes / (hbm_frac x HBM). compute is that of the best tile and split, as a library's heuristic chooses:

        waves x SMs x 2 tile_m tile_n (k / split + k_half [+ split_k if split > 1]) x tile_loss / (flop_frac x peak)

    - waves = (1 - wave_frac) w + wave_frac ceil(w) with w = count x tiles x split / SMs: thread blocks run in waves,
      the last of which is not full; persistent kernels and stream-K hide a part of it. Rows and columns that fill no
      whole tile are computed all the same.
    - k_half: the prologue that fills the pipeline and the epilogue that writes a tile cost the same for any k.
    - split_k: adding up the parts of a split reduction, as a longer k.
    - tile_loss = (1 + tile_half (1 / tile_m + 1 / tile_n)) relative to that of the largest tile: a smaller tile loads
      more operands for each FLOP.

    flop_frac is the share of the peak that the largest tile reaches. In a burst a launch of compute time c takes
    1 + (1 / long_frac - 1) / (1 + (1 ms / c)^2) times as long: power limits the clock. In a run the rate is in_run_frac
    of that of a short launch whatever the length.

    Source: roofline (Williams et al. 2009, doi 10.1145/1498765.1498785); waves, tiles and splits as in NVIDIA's "Matrix
    Multiplication Background User's Guide" and Stream-K (Osama et al. 2023, arXiv 2301.03598).
    Error: against bursts of ai-dynamo/aiconfigurator (Apache-2.0; bf16, m, n, k >= 512, 11,305 shapes for each GPU),
    mean absolute error / bias of the summed time in %: A100 4.3 / -1.6, H100 5.8 / +0.3, H200 5.2 / -0.5, B200 6.4 /
    +1.5, GB200 8.4 / +2.3 (6.1 / +0.3 below 0.3 ms; it loses 39 % in long launches). Fitted up to and read above the
    median of k: 5.1 / -1.4, 6.8 / +1.5, 5.8 / -0.5, 7.3 / +1.3, 12.2 / -24; of m: 3.5 / -1.8, 5.2 / -2.4, 5.0 / -3.3,
    5.9 / -1.2, 10.9 / -25. With the constants of H100 on H200 5.4 / -2.6. The same shape differs by 5.2 % between H100
    and H200, so that is about what a formula can reach. m <= 64 and m < 512: 6-11 % each; n or k below 512: 8-14 %. fp8
    with the cast of its activations 9.2 / -12.6, 9.7 / -4.9, 9.1 / -6.2, 6.1 / -12.0 (H100 to GB200), out of sample
    6-11 / -15 to 0: CUTLASS reaches as little as half of the rate in some launches beyond 30 ms, which make up the sum.
    fp4 7.5 / -7.6 on B200, 8.2 / -18 on GB200. Left out: transposed layouts, the clock's drift, where operands stay in
    L2 (a term for operands that are read more than once gained nothing).
    """
    share = 1.0 if burst else constants.in_run_frac
    rate = peak.peak_flop_per_s * constants.flop_frac * share
    compute_s = _compute_flop(shapes, constants, peak.num_sms) / rate
    if burst:
        compute_s = compute_s * (1.0 + (1.0 / constants.long_frac - 1.0) / (1.0 + (LONG_LAUNCH_S / compute_s) ** 2))
    memory_s = shapes.nbytes / (peak.hbm_bytes_per_s * constants.hbm_frac)
    longer_s = np.maximum(compute_s, memory_s)
    both_s: Floats = longer_s * ((compute_s / longer_s) ** P_NORM + (memory_s / longer_s) ** P_NORM) ** (1.0 / P_NORM)
    return constants.launch_s + both_s


def _compute_flop(shapes: Shapes, constants: GemmConstants, num_sms: int) -> Floats:
    """FLOP that the GPU could do in the time of the best tile and split at the rate of the largest tile, (rows,)."""
    tile_m, tile_n, split = (side[:, None] for side in _CHOICES)
    blocks = shapes.count * np.ceil(shapes.m / tile_m) * np.ceil(shapes.n / tile_n) * split
    waves = blocks / num_sms
    waves = (1.0 - constants.wave_frac) * waves + constants.wave_frac * np.ceil(waves)
    length = shapes.k / split + constants.k_half + constants.split_k * (split > 1)
    loss = (1.0 + constants.tile_half * (1.0 / tile_m + 1.0 / tile_n)) / (1.0 + constants.tile_half * _LARGEST)
    flop: Floats = (waves * (2.0 * num_sms * tile_m * tile_n * loss) * length).min(axis=0)
    return flop


_CHOICES = np.array([(tile_m, tile_n, split) for tile_m, tile_n in TILES for split in SPLITS], dtype=float).T
_LARGEST = min(1.0 / tile_m + 1.0 / tile_n for tile_m, tile_n in TILES)


def outside(gemm: Gemm, gpu: Gpu) -> str | None:
    """Which sides of the product are outside the shapes that the constants were fitted to, in words; None if none is.

    Raises SimError where the GPU has no peak rate in the format.
    """
    constants = gemm_constants(gpu, gemm.format)
    sides = (("m", gemm.m, constants.range_m), ("n", gemm.n, constants.range_n), ("k", gemm.k, constants.range_k))
    said = [
        f"{side} = {value:,} ({least:,.0f} to {most:,.0f})"
        for side, value, (least, most) in sides
        if not least <= value <= most
    ]
    return f"{gemm.name}: {', '.join(said)} outside the measured products" if said else None
