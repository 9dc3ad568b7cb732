"""How much longer kernels take while communication runs on their GPU.

Communication kernels take streaming multiprocessors, memory bandwidth and power from the kernels beside them. Little is
published, so the factors of `Gpu.slowdown` are priors, never fitted to the time of a step:

- Galvatron's profiler (PKU-DAIR/Hetu-Galvatron, profile_overlap.py) runs products of 1024 x 4096 x 4096 beside an
  all_reduce of 4096 x 4096 values and keeps the larger of the slowdowns of the two, so that it bounds that of the
  product. Its stored coefficient is 1.126, on a GPU that it does not name; copies of the repository hold 1.080, 1.091,
  1.123, 1.146 and 1.263 (Thinkin999, Time-has-wings, Fizzmy, AFDWang, moodom), its documentation says 1.1 to 1.3.
  Sailor (saha18uiuc/sailor, overlap_coe_dicts.json) stores 1.34 for four V100 and 1.59 for eight.
- Lee et al. (arXiv 2507.03114) measured GPT and LLaMA models on four A100, H100, MI210 or MI250: 1.189 on average, 1.40
  at most.
- DeepEP's kernels take 20 SMs by default (DeepSeek-V3, arXiv 2412.19437): num_sms / (num_sms - 20) for kernels that are
  limited by SMs. Its version 2 says that it takes several times fewer.
- On A100 SXM a GEMM took 1.76 times as long and attention 1.83 times beside an all_gather inside a node (NVIDIA/nccl
  issue 1428, one report): NCCL's authors name the memory, which it reads and writes two or three times a byte.

Error: one factor for all kernels is too high for a GEMM beside a transfer between nodes, which leaves it most of the
memory's rate, and too low for a memory-bound kernel beside NVLink at its full rate. Not known: how it depends on the
message and on the kernel, and by how much communication slows down in turn.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

from sim.spec.gpu import Gpu


def slowdown_factor(op: str, gpu: Gpu) -> float:
    """Factor on the time of a kernel of `gpu` while `op` runs on it: a collective, or at either end of a
    `send`, of which a ring_shift has one to each member."""
    factors = gpu.slowdown
    match op:
        case "all_to_all":
            return float(factors.all_to_all)
        case "send" | "ring_shift":
            return float(factors.send)
        case _:
            assert op in {"all_reduce", "all_gather", "reduce_scatter", "broadcast"}, (
                f"{op} slows nothing that is known"
            )
            return float(factors.collective)


def combined(factors: Iterable[float]) -> float:
    """Factor of several kinds of communication that run at once: each takes its share of what the others leave.

    Transfers of one kind count once: NCCL groups those that run together in one kernel.

    >>> round(combined([1.25, 1.2]), 12)
    1.5
    """
    return prod(factors)
