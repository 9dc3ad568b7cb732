"""The kernels that a step is made of, by shape, and how long each takes alone in a training run."""

from __future__ import annotations

from typing import assert_never

from sim.cost import attention, gemm, grouped_gemm
from sim.cost.attention import Attention, attention_bytes, attention_flop, attention_s
from sim.cost.copy import Copy, HostUpdate, copy_s, host_update_s
from sim.cost.gemm import Gemm, gemm_bytes, gemm_flop, gemm_s
from sim.cost.grouped_gemm import GroupedGemm, grouped_gemm_bytes, grouped_gemm_flop, grouped_gemm_s
from sim.cost.stream import Stream, stream_s
from sim.spec.gpu import Gpu

__all__ = [
    "Attention",
    "Copy",
    "Gemm",
    "GroupedGemm",
    "HostUpdate",
    "Kernel",
    "Stream",
    "duration_s",
    "flop",
    "hbm_bytes",
    "outside",
]

Kernel = Gemm | GroupedGemm | Attention | Stream | Copy | HostUpdate


def duration_s(kernel: Kernel, gpu: Gpu) -> float:
    """Time of one kernel that has the GPU to itself, s, at the rate that power leaves in a training run.

    Raises SimError where the GPU has no peak rate in the kernel's number format.
    """
    match kernel:
        case Gemm():
            return gemm_s(kernel, gpu)
        case GroupedGemm():
            return grouped_gemm_s(kernel, gpu)
        case Attention():
            return attention_s(kernel, gpu)
        case Stream():
            return stream_s(kernel, gpu)
        case Copy():
            return copy_s(kernel, gpu.copy_constants)
        case HostUpdate():
            return host_update_s(kernel, gpu.copy_constants)
        case _:
            assert_never(kernel)


def flop(kernel: Kernel) -> float:
    """Floating-point operations that the kernel executes on tensor cores; 0 for what only moves bytes."""
    match kernel:
        case Gemm():
            return gemm_flop(kernel)
        case GroupedGemm():
            return grouped_gemm_flop(kernel)
        case Attention():
            return attention_flop(kernel)
        case Stream() | Copy() | HostUpdate():
            return 0.0
        case _:
            assert_never(kernel)


def hbm_bytes(kernel: Kernel) -> float:
    """What the kernel reads from and writes to HBM, every operand once, bytes; host memory does not count."""
    match kernel:
        case Gemm():
            return gemm_bytes(kernel)
        case GroupedGemm():
            return grouped_gemm_bytes(kernel)
        case Attention():
            return attention_bytes(kernel)
        case Stream() | Copy():
            return kernel.nbytes
        case HostUpdate():
            return 0.0
        case _:
            assert_never(kernel)


def outside(kernel: Kernel, gpu: Gpu) -> str | None:
    """In what the kernel lies outside the shapes that its constants were fitted to, in words; None where inside.

    What only moves bytes has no shape.
    """
    match kernel:
        case Gemm():
            return gemm.outside(kernel, gpu)
        case GroupedGemm():
            return grouped_gemm.outside(kernel, gpu)
        case Attention():
            return attention.outside(kernel, gpu)
        case Stream() | Copy() | HostUpdate():
            return None
        case _:
            assert_never(kernel)
