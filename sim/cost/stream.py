"""How long a kernel takes that only moves bytes."""

from __future__ import annotations

from dataclasses import dataclass

from sim.spec.gpu import Gpu


@dataclass(frozen=True)
class Stream:
    """A kernel bound by memory: norm, activation, residual, rotary, cross-entropy, optimizer.

    nbytes: read and written.
    """

    name: str
    nbytes: float
    cause: str = "memory_bound"


def stream_s(stream: Stream, gpu: Gpu) -> float:
    """Time of one kernel that has the GPU to itself, s: launch + bytes / (HBM x hbm_frac).

    Source: constants fitted to the elementwise kernels of sitar-lab/NeuSight (arXiv 2407.13853), fp32, A100 and V100.
    Error: mean absolute 0.7-1.8 % on those 2,027 kernels with their own launch cost (15-20 us, host included, which a
    training run hides). Left out: reductions inside a row: unfused layer norm and softmax of the same data set reach
    0.60-0.82 of HBM where elementwise kernels reach 0.87-0.91.
    """
    duration_s: float = gpu.memory_bound.launch_s + stream.nbytes / (gpu.hbm_bytes_per_s * gpu.memory_bound.hbm_frac)
    return duration_s
