"""The kernels that a step is made of, by shape, and how long each takes alone."""

from __future__ import annotations

from typing import assert_never

from sim.cost.attention import Attention, attention_flop, attention_s
from sim.cost.gemm import Gemm, gemm_flop, gemm_s
from sim.cost.stream import Stream, stream_s
from sim.spec.gpu import Gpu

__all__ = ["Attention", "Gemm", "Kernel", "Stream", "duration_s", "flop"]

Kernel = Gemm | Attention | Stream


def duration_s(kernel: Kernel, gpu: Gpu) -> float:
    """Time of one kernel that has the GPU to itself, s.

    Raises SimError where the GPU has no peak rate in the kernel's number format.
    """
    match kernel:
        case Gemm():
            return gemm_s(kernel, gpu)
        case Attention():
            return attention_s(kernel, gpu)
        case Stream():
            return stream_s(kernel, gpu)
        case _:
            assert_never(kernel)


def flop(kernel: Kernel) -> float:
    """Floating-point operations that the kernel executes (tensor-core work; 0 for a Stream)."""
    match kernel:
        case Gemm():
            return gemm_flop(kernel)
        case Attention():
            return attention_flop(kernel)
        case Stream():
            return 0.0
        case _:
            assert_never(kernel)
