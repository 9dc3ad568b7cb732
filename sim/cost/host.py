"""What the host of a rank pays to issue work, and when a kernel could start at the earliest for that.

The host issues operations asynchronously, one after the other in the order of the program, and a kernel cannot start
before it was issued. A step of large kernels never notices: the host runs ahead. A step of small ones takes as long as
its host needs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sim.cost.kernels import Kernel, Stream
from sim.spec.topology import Floats


@dataclass(frozen=True)
class HostCosts:
    """Time of the host for each thing that it issues, s.

    kernel_s: one launch of a kernel.  collective_s: a collective or a send.  graph_s: one launch of a CUDA graph that
    holds all kernels between two calls of communication; None where kernels are launched one by one.
    """

    kernel_s: float
    collective_s: float
    graph_s: float | None


def launches(kernel: Kernel) -> int:
    """Launches that the kernel stands for: a Stream may be several kernels of a framework that does not fuse them."""
    match kernel:
        case Stream():
            return kernel.launches
        case _:
            return 1


def issue_s(kernels: tuple[Kernel, ...], host: HostCosts) -> float:
    """Time of the host to issue kernels that run one after the other, s."""
    if host.graph_s is not None:
        return host.graph_s
    return host.kernel_s * sum(map(launches, kernels))


def lead_s(kernels: tuple[Kernel, ...], times_s: tuple[float, ...], pace: Floats, host: HostCosts) -> Floats:
    """By how much the first kernel starts after the host began to issue them, if none is to wait for its launch, s.

    Launch j = 1..n is issued h j after the host began and would start D_j after the first one, D_j being the time of
    those before it. All run back to back from max_j (h j - D_j) on: none starts before it was issued, and the last one
    ends when it would if each started as soon as it could. A CUDA graph holds all of them, so that its launch is
    the only one.

    times_s: of each kernel at pace 1.  pace: factors on them; one result for each.
    Left out: kernels that slow down on the way need less of a lead; the launches of one Stream share its time evenly.

    >>> lead_s((Stream("a", 1.0), Stream("b", 1.0)), (2.0, 9.0), np.array([1.0, 3.0]), HostCosts(5.0, 0.0, None))
    array([8., 5.])
    """
    if host.graph_s is not None:
        return np.full(len(pace), host.graph_s)
    counts = np.array([launches(kernel) for kernel in kernels])
    each_s = np.repeat(np.array(times_s) / counts, counts)
    issued_s = host.kernel_s * np.arange(1, len(each_s) + 1)
    before_s = np.cumsum(each_s) - each_s
    lead: Floats = (issued_s[:, None] - before_s[:, None] * pace).max(axis=0)
    return lead
