"""How long a kernel takes that only moves bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeVar, assert_never

from sim.spec.gpu import Gpu, StreamConstants
from sim.spec.topology import Floats

StreamKind = Literal["elementwise", "norm", "softmax", "gather"]
"""elementwise: every value once (activation, residual, rotary, cast, optimizer).  norm and softmax: a reduction inside
each row.  gather: rows in an order that indices give (embedding, permutation of tokens)."""

REREAD_FRAC: dict[StreamKind, float] = {"norm": 0.5, "softmax": 1.0}
"""Bytes of the later passes over those of a kernel that reads and writes once: a norm takes the moments and then
normalises (one more read), a softmax takes maximum, sum and result (two more)."""

CACHE_SHARPNESS = 6.0
"""How steeply rows fall out of the caches; fitted to the norms of A100 and V100, which read 4.5-6.2."""

F = TypeVar("F", float, Floats)


@dataclass(frozen=True)
class Stream:
    """A kernel bound by memory: norm, activation, residual, rotary, cross-entropy, optimizer.

    nbytes: read and written, every tensor once.  row_bytes: of a row that a norm or softmax passes over several times;
    0 where it stays in registers or shared memory, as in the fused kernels of Apex, Transformer Engine and Triton.
    launches: kernels that share these bytes.
    """

    name: str
    nbytes: float
    cause: str = "memory_bound"
    kind: StreamKind = "elementwise"
    launches: int = 1
    row_bytes: float = 0.0


def reread_bytes(nbytes: F, row_bytes: F, cached_row_bytes: float, reread_frac: float) -> F:
    """What the later passes over a row read from HBM, bytes.

    nbytes x reread_frac x share of the rows that the caches no longer hold, r^6 / (1 + r^6), r = row / cached_row.

    >>> reread_bytes(100.0, 1024.0, cached_row_bytes=1024.0, reread_frac=0.5)
    25.0
    """
    ratio: F = (row_bytes / cached_row_bytes) ** CACHE_SHARPNESS
    return nbytes * reread_frac * ratio / (1.0 + ratio)


def moving_s(kind: StreamKind, nbytes: F, row_bytes: F, constants: StreamConstants, hbm_bytes_per_s: float) -> F:
    """Time in which HBM moves what kernels of `kind` read and write, s: (bytes + reread) / (HBM x hbm_frac)."""
    match kind:
        case "norm" | "softmax":
            rate = constants.norm if kind == "norm" else constants.softmax
            moved = nbytes + reread_bytes(nbytes, row_bytes, rate.cached_row_bytes, REREAD_FRAC[kind])
            return moved / (hbm_bytes_per_s * rate.hbm_frac)
        case "elementwise":
            return nbytes / (hbm_bytes_per_s * constants.elementwise.hbm_frac)
        case "gather":
            return nbytes / (hbm_bytes_per_s * constants.gather.hbm_frac)
        case _:
            assert_never(kind)


def stream_s(stream: Stream, gpu: Gpu) -> float:
    """Time of one kernel that has the GPU to itself, s: launches x launch + (bytes + reread) / (HBM x hbm_frac).

    Source: bytes over bandwidth; the caches' share from the way in which PyTorch's layer norm and softmax pass over
    rows (aten/src/ATen/native/cuda: layer_norm_kernel.cu, SoftMax.cuh). Constants fitted to sitar-lab/NeuSight (arXiv
    2407.13853), fp32, A100 and V100, see the `sources` of each GPU.
    Error: mean absolute, on launches that move 256 MB or more, in sample: elementwise 2.0 % (A100 80 GB), 1.0 % (A100
    40 GB), 0.7 % (V100); layer norm 2.9, 2.0, 1.2 %; softmax 6.8, 6.7, 9.1 %. Fitted to every other row length and read
    on the rest: layer norm 3.9, 2.3, 1.6 %, softmax 7.4, 7.2, 13.9 %.
    Left out: rows that are no multiple of a kernel's block (softmax of 1,280 to 3,072 values: up to 25 % slower), and
    tensors that stay in the second-level cache, which move faster than HBM does: the data has none below 50 MB.
    """
    assert stream.launches >= 1, f"{stream.name}: {stream.launches} launches"
    assert stream.row_bytes == 0.0 or stream.kind in REREAD_FRAC, f"{stream.name}: {stream.kind} reduces no rows"
    constants = gpu.memory_bound
    moving = moving_s(stream.kind, stream.nbytes, stream.row_bytes, constants, gpu.hbm_bytes_per_s)
    return stream.launches * constants.launch_s + moving
