"""Measured launches: what the host of a rank needs to issue work, which is a stack's number and not a GPU's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import pandas as pd

from sim import units
from sim.calibrate.kind import Form
from sim.calibrate.measured import form_of, measured_on, read


@final
class LaunchTable:
    """Files of the section `launch` of `sim profile`: host time of a call by operation, us."""

    name = "launch"
    forms = (Form(numbers=("calls", "kernels_per_call"), measured="host_us_per_call", words=("operation",)),)


LAUNCHES = LaunchTable()

EAGER = "eager"
AUTOGRAD = "eager_linear_forward_backward"
GRAPH = "graph_of_one_kernel"
LONG_GRAPH = "graph_of_kernels"

WHAT = {
    EAGER: "one eager operation of PyTorch",
    AUTOGRAD: "a product of a linear layer, forward and backward through autograd",
    GRAPH: "one launch of a CUDA graph",
    LONG_GRAPH: "a kernel inside a CUDA graph, which the GPU starts by itself",
}
"""Operations that `sim profile` measures, and what the host's time for each of their kernels is."""


@dataclass(frozen=True)
class HostTimes:
    """Median time for each kernel of an operation as the host sees it, s, by operation; those that were measured."""

    by_operation: dict[str, float]

    @property
    def of_stack(self) -> dict[str, float]:
        """Values of `stack.host`, s: a kernel is issued through autograd, as the kernels of a framework's layers are,
        or else as one eager operation. One GPU cannot tell a collective."""
        found = {}
        kernel_s = self.by_operation.get(AUTOGRAD, self.by_operation.get(EAGER))
        if kernel_s is not None:
            found["kernel"] = kernel_s
        if GRAPH in self.by_operation:
            found["graph"] = self.by_operation[GRAPH]
        return found


def is_launches(path: Path) -> bool:
    """Whether a file has the columns of measured launches. Raises SimError where it is no table."""
    return form_of(LAUNCHES, list(read(path).columns)) is not None


def host_times(paths: Sequence[Path], gpu: str) -> HostTimes:
    """What files of launches say of the host of a GPU; operations that nobody knows here are left out.

    Raises SimError on a cell that is wrong, and where all rows of a file are of other GPUs.
    """
    table = pd.concat([measured_on(path, LAUNCHES, gpu).rows for path in paths])
    each_s = table["host_us_per_call"] * 1e-6 / table["kernels_per_call"].clip(lower=1)
    medians = each_s.groupby(table["operation"]).median()
    return HostTimes({name: float(medians[name]) for name in WHAT if name in medians})


def text(host: HostTimes) -> str:
    """The times in words, and the lines of a scenario that use them; empty where none is known."""
    if not host.by_operation:
        return ""
    lines = [f"  {units.text(time_s, 's'):>9}  {WHAT[name]}" for name, time_s in host.by_operation.items()]
    of_stack = [f"{name}: {units.text(time_s, 's')}" for name, time_s in host.of_stack.items()]
    lines = ["time of the host", *lines]
    if of_stack:
        lines += ["lines for a scenario:", "stack:", f"  host: {{{', '.join(of_stack)}}}"]
    return "\n".join(lines)
