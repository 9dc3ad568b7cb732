"""Time of kernels inside a step, where a stack's pace is known."""

from __future__ import annotations

import math

from sim.cost.attention import Attention
from sim.cost.copy import Copy, HostUpdate
from sim.cost.gemm import Gemm
from sim.cost.grouped_gemm import GroupedGemm
from sim.cost.kernels import Kernel, duration_s
from sim.cost.stream import Stream
from sim.spec.gpu import Gpu
from sim.spec.pace import Pace

NODE_GPUS = 8
"""Up to so many GPUs, pace knows no stragglers."""


def paced_s(kernel: Kernel, gpu: Gpu, pace: Pace) -> float:
    """Time of a kernel in a step, s, without stragglers.

    Raises SimError where the GPU has no peak rate in the kernel's number format.
    """
    return duration_s(kernel, gpu) * _factor(kernel, pace)


def _factor(kernel: Kernel, pace: Pace) -> float:
    match kernel:
        case Attention() | Gemm(cause="attention"):
            return pace.attention
        case Gemm():
            return pace.gemm
        case GroupedGemm():
            return pace.experts
        case Stream():
            return pace.memory_bound
        case Copy() | HostUpdate():
            return 1.0


def slowed(gpu: Gpu, pace: Pace) -> Gpu:
    """The GPU with the slowdown by communication that the stack's steps show."""
    factors = {name: 1.0 + pace.slowdown * (factor - 1.0) for name, factor in gpu.slowdown.model_dump().items()}
    return gpu.model_copy(update={"slowdown": gpu.slowdown.model_copy(update=factors)})


def straggling(pace: Pace, num_gpus: int) -> float:
    """Factor on the time of all kernels of a step on `num_gpus`.

    >>> straggling(Pace(straggler=0.01), 32)
    1.02
    """
    return 1.0 + pace.straggler * math.log2(max(num_gpus / NODE_GPUS, 1.0))
