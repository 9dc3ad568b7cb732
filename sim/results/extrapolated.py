"""Kernels of a step whose shapes lie outside of those that the GPU's constants were fitted to."""

from __future__ import annotations

import numpy as np

from sim.cost.kernels import Kernel, outside
from sim.engine.timeline import Timeline
from sim.program.operations import Compute
from sim.spec.gpu import Gpu

MAX_EXAMPLES = 3


def extrapolated(timeline: Timeline, gpu: Gpu) -> tuple[str, ...]:
    """A note on them with their share of the kernels' time over the simulated ranks, longest first; none without."""
    program = timeline.program
    calls = np.bincount(program.payload, minlength=len(program.payloads)).tolist()
    time_s: dict[Kernel, float] = {}
    for payload, count, kernel_s in zip(program.payloads, calls, timeline.kernel_s, strict=True):
        if isinstance(payload, Compute):
            for kernel, each_s in zip(payload.kernels, kernel_s, strict=True):
                time_s[kernel] = time_s.get(kernel, 0.0) + count * each_s
    beyond = {kernel: text for kernel in time_s if (text := outside(kernel, gpu)) is not None}
    if not beyond:
        return ()
    share = sum(time_s[kernel] for kernel in beyond) / sum(time_s.values())
    texts = list(dict.fromkeys(beyond[kernel] for kernel in sorted(beyond, key=lambda kernel: -time_s[kernel])))
    more = [f"{len(texts) - MAX_EXAMPLES} more"] if len(texts) > MAX_EXAMPLES else []
    shown = "; ".join([*texts[:MAX_EXAMPLES], *more])
    return (f"{100 * share:.1f} % of the kernels' time is extrapolated beyond measured shapes: {shown}.",)
