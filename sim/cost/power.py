"""What a GPU draws: a floor for what it is busy with, and energy for every FLOP and every byte of HBM."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Annotated, assert_never

from pydantic import Field, model_validator

import sim
from sim.cost.kernels import Attention, Copy, Gemm, GroupedGemm, HostUpdate, Kernel, Stream, flop, hbm_bytes
from sim.spec.gpu import Gpu, NumberFormat, gemm_constants, peak_in
from sim.spec.mistakes import validated
from sim.spec.quantity import Fraction
from sim.spec.source import read
from sim.spec.sourced import Sourced

POWER = Path(sim.__file__).resolve().parent / "catalog" / "power.yaml"


class PowerModel(Sourced):
    """What a GPU and its node draw in training, as shares of the GPU's TDP, the same for every GPU.

    idle_frac: a GPU that waits.  communication_frac: one that only communicates.  compute_frac: one on which a kernel
    runs, before its FLOPs and bytes.  hbm_j_per_byte: of what a kernel reads and writes.  node_frac: the rest of the
    node (CPUs, NICs, switches inside, fans, losses of the supply) for each of its GPUs, whatever they do.
    """

    idle_frac: Fraction
    communication_frac: Fraction
    compute_frac: Fraction
    hbm_j_per_byte: Annotated[float, Field(gt=0)]
    node_frac: Fraction

    @model_validator(mode="after")
    def _more_work_draws_more(self) -> PowerModel:
        if not self.idle_frac <= self.communication_frac <= self.compute_frac < 1:
            raise ValueError("not idle_frac <= communication_frac <= compute_frac < 1")
        return self


@lru_cache(maxsize=1)
def power_model() -> PowerModel:
    """The constants that ship with the simulator."""
    return validated(PowerModel, read(POWER), "")


def idle_w(gpu: Gpu) -> float:
    """Power of a GPU that waits, W: idle_frac x TDP."""
    return power_model().idle_frac * gpu.tdp_w


def communication_w(gpu: Gpu) -> float:
    """Power of a GPU that communicates and computes nothing, W: communication_frac x TDP."""
    return power_model().communication_frac * gpu.tdp_w


def compute_w(gpu: Gpu) -> float:
    """Power of a GPU while a kernel runs, before its FLOPs and bytes, W: compute_frac x TDP."""
    return power_model().compute_frac * gpu.tdp_w


def node_w(gpu: Gpu) -> float:
    """Power of the rest of the node for one of its GPUs, W: node_frac x TDP."""
    return power_model().node_frac * gpu.tdp_w


def flop_j(gpu: Gpu, number_format: NumberFormat) -> float:
    """Energy of one FLOP on tensor cores, J: (1 - compute_frac) x TDP / rate of the largest product in a training run.

    That product is what the power limit throttles (`in_run_frac` of the GPU), so it draws the TDP. Source: the FLOP
    takes the place of utilisation as in arXiv 2506.14551, whose model of an H100 node calibrated to FLOPs errs 11.4 %
    where TDP errs 27 to 37 %. Error: see docs/results.md. Left out: voltage and clock that fall with the limit, and
    operands that toggle less.
    """
    constants = gemm_constants(gpu, number_format)
    rate = peak_in(gpu, number_format) * constants.flop_frac * constants.in_run_frac
    return (1.0 - power_model().compute_frac) * gpu.tdp_w / rate


def kernel_j(kernel: Kernel, gpu: Gpu, time_s: float) -> float:
    """Energy of a GPU during one kernel that takes `time_s`, J.

    compute_w x time + flop_j x FLOPs + hbm_j_per_byte x bytes, at most TDP x time. A copy to or from host memory draws
    what communication does, and a GPU whose optimizer runs on the host waits.
    """
    match kernel:
        case HostUpdate():
            return idle_w(gpu) * time_s
        case Copy():
            return communication_w(gpu) * time_s
        case Gemm() | GroupedGemm() | Attention():
            work_j = flop(kernel) * flop_j(gpu, kernel.format)
        case Stream():
            work_j = 0.0
        case _:
            assert_never(kernel)
    moved_j = hbm_bytes(kernel) * power_model().hbm_j_per_byte
    return min(compute_w(gpu) * time_s + work_j + moved_j, gpu.tdp_w * time_s)
