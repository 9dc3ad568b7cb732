"""How kernels of a stack run inside a training step, against the same kernels alone in a microbenchmark."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from sim.spec.quantity import Spec

Factor = Annotated[float, Field(gt=0)]


class Pace(Spec):
    """What a step of a stack on a generation of GPUs takes longer than its kernels alone, fitted to published steps.

    gemm, experts, attention, memory_bound: factors on the time of matrix products, of those of experts, of attention,
    and of kernels that are bound by memory: kernels that are older or other than those measured, and what a framework
    launches beside them.
    slowdown: factor on what `gpu.slowdown` adds while communication runs.
    straggler: by what share each doubling of the GPUs beyond 8 lengthens kernels: all wait for the slowest.
    """

    gemm: Factor = 1.0
    experts: Factor = 1.0
    attention: Factor = 1.0
    memory_bound: Factor = 1.0
    slowdown: Annotated[float, Field(ge=0)] = 1.0
    straggler: Annotated[float, Field(ge=0)] = 0.0


ALONE = Pace()
"""Kernels as they were measured: nothing is fitted to a step."""
