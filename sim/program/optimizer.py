"""The optimizer: bytes of its state for each parameter, and what its step moves."""

from __future__ import annotations

from collections.abc import Iterator

from sim.cost.copy import Copy, HostUpdate
from sim.cost.kernels import Kernel, Stream
from sim.program.shapes import BYTES
from sim.spec.gpu import BYTES_PER_VALUE
from sim.spec.training import Optimizer, Training

GRAD_PASSES = 4
"""Times that the optimizer reads or writes a gradient: scaled and clipped (2), used (1), zeroed (1)."""

SCALE_PASSES = 2
"""Of them, those that scale and clip."""

HOST_ADAM_BYTES = 30
"""Of host memory for each parameter: gradient, master copy and moments read (16), the latter three written (12), and a
copy in 16 bits for the GPU (2)."""

EAGER_LAUNCHES = 8
"""Operations of torch's foreach AdamW: decay, two moments in three, square root, correction, epsilon, update."""


def master_bytes(optimizer: Optimizer) -> int:
    """Of the master copy, for each parameter."""
    return 4 if optimizer.master == "fp32" else 0


def state_bytes(optimizer: Optimizer) -> float:
    """Master copy and both moments, for each parameter: 12 with all in fp32 (ZeRO, arXiv 1910.02054 section 3.1), 8
    with moments in bf16 as DeepSeek-V3 keeps them (arXiv 2412.19437 section 3.3.3)."""
    return master_bytes(optimizer) + 2 * BYTES_PER_VALUE[optimizer.moments]


def scales_gradients(training: Training) -> bool:
    """Whether gradients are read for their norm, or for an overflow in fp16, and scaled by what all ranks agree on."""
    return training.clip_grad or training.precision == "fp16"


def update_bytes(optimizer: Optimizer, grad_bytes: int, *, is_fused: bool, scales: bool = True) -> float:
    """Bytes that Adam reads and writes for each parameter.

    Fused, state is read and written once, and the master copy read and cast to 16 bits: 30 with all in fp32. Of
    separate operations (p, m and g bytes of parameter, moment and gradient) decay moves 2 p, the moments 6 m + 2 g, the
    denominator 6 m, the update 2 p + 2 m. Both scale and clip the gradient, unless not `scales`, and zero it.

    >>> update_bytes(Optimizer(), 4, is_fused=True), update_bytes(Optimizer(), 4, is_fused=False)
    (46.0, 98.0)
    """
    grad_passes = GRAD_PASSES - (0 if scales else SCALE_PASSES)
    master, moment = master_bytes(optimizer), BYTES_PER_VALUE[optimizer.moments]
    written = master + BYTES if master else 0
    if is_fused:
        own = 2 * (master or BYTES) + 4 * moment
        return own + written + grad_passes * grad_bytes
    own = 4 * (master or BYTES) + 14 * moment + 2 * grad_bytes
    return own + written + (grad_passes - 1) * grad_bytes


def optimizer_kernels(
    optimizer: Optimizer, parameters: float, grad_bytes: int, *, is_fused: bool, scales: bool = True
) -> Iterator[Kernel]:
    """The update of `parameters` on one rank. Offloaded, gradients go to the host, whose CPU updates them, and the
    parameters come back in 16 bits, one after the other (ZeRO-Offload, arXiv 2101.06840, without its overlap)."""
    if optimizer.offload:
        if scales:
            yield Stream("clip", SCALE_PASSES * grad_bytes * parameters, "optimizer")
        yield Copy("gradients to host", grad_bytes * parameters, "device_to_host")
        yield HostUpdate("update on the host", HOST_ADAM_BYTES * parameters)
        yield Copy("parameters to device", BYTES * parameters, "host_to_device")
    else:
        nbytes = update_bytes(optimizer, grad_bytes, is_fused=is_fused, scales=scales) * parameters
        yield Stream("optimizer", nbytes, "optimizer", launches=1 if is_fused else EAGER_LAUNCHES)
