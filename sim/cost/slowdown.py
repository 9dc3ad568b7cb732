"""How much longer kernels take while communication runs on their GPU.

Communication kernels take streaming multiprocessors, memory bandwidth and power from the kernels beside them. Little is
published, so the factors of `Gpu.slowdown` are priors, never fitted to the time of a step:

- Galvatron (PKU-DAIR/Hetu-Galvatron) measured a factor of 1.126; on which GPU is not known here.
- Lee et al. (arXiv 2507.03114) measured GPT and LLaMA models on four A100, H100, MI210 or MI250: 1.189 on average, 1.40
  at most.
- DeepEP's kernels take 20 SMs by default (DeepSeek-V3, arXiv 2412.19437): num_sms / (num_sms - 20) for kernels that are
  limited by SMs.

Not known: how the factor depends on the message and on the kernel, and by how much communication slows down in turn.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

from sim.spec.gpu import Gpu


def slowdown_factor(op: str, gpu: Gpu) -> float:
    """Factor on the time of a kernel of `gpu` while `op` runs on it: a collective, or `send` at either end."""
    factors = gpu.slowdown
    match op:
        case "all_to_all":
            return float(factors.all_to_all)
        case "send":
            return float(factors.send)
        case _:
            return float(factors.collective)


def combined(factors: Iterable[float]) -> float:
    """Factor of several kinds of communication that run at once: each takes its share of what the others leave.

    Transfers of one kind count once: NCCL groups those that run together in one kernel.

    >>> round(combined([1.25, 1.2]), 12)
    1.5
    """
    return prod(factors)
