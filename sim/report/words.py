"""What the report calls things: causes of time, kinds of communication, categories of memory, and their colours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

EXPOSED = "exposed_"


@dataclass(frozen=True)
class Group:
    """Causes that the pictures show as one: a name, what they are in a sentence, and a colour.

    Colours are those of Okabe and Ito (https://jfly.uni-koeln.de/color/), which colour-blind readers can tell apart,
    and lighter tints of them: blue and green compute, red to yellow communication, grey waits.
    """

    name: str
    short: str
    meaning: str
    colour: str


MATRIX = Group("matrix products", "GEMM", "GEMMs of layers and head, forward and backward", "#0072B2")
ATTENTION = Group("attention", "attn", "fused attention, forward and backward", "#56B4E9")
MEMORY_BOUND = Group("memory-bound kernels", "mem-bound", "norms, activations, residuals, embedding, loss", "#B5DDF5")
RECOMPUTE = Group("recomputation", "recomp", "forward kernels that run again in the backward pass", "#009E73")
SLOWDOWN = Group(
    "slowdown by communication", "slowdown", "kernels take longer while communication runs beside them", "#7FA6C9"
)
OPTIMIZER = Group("optimizer", "optim", "gradient norm and update of parameters", "#80CEB9")
TENSOR = Group("tensor-parallel communication", "TP", "exposed: the next kernel waited while it ran", "#D55E00")
CONTEXT = Group("context and expert communication", "CP/EP", "exposed exchanges of tokens, keys and values", "#CC79A7")
DATA = Group(
    "data-parallel communication", "DP", "exposed reduction of gradients and gathering of parameters", "#E69F00"
)
PIPELINE = Group("pipeline communication", "PP", "exposed sends between stages", "#F0E442")
HOST = Group("host launch", "host", "the GPU waits for its host to issue the next kernel", "#4D4D4D")
BUBBLE = Group("pipeline bubble", "bubble", "no upstream or downstream work to do", "#C4C7CB")
WAITING = Group("waiting for peers", "wait", "others arrive later in a collective, or end the step later", "#7B8087")

GROUPS = (
    MATRIX,
    ATTENTION,
    MEMORY_BOUND,
    RECOMPUTE,
    OPTIMIZER,
    SLOWDOWN,
    TENSOR,
    CONTEXT,
    DATA,
    PIPELINE,
    HOST,
    BUBBLE,
    WAITING,
)
"""In the order in which bars and tables show them."""

COMMUNICATION = (TENSOR, CONTEXT, DATA, PIPELINE)


@dataclass(frozen=True)
class Cause:
    """One cause of time: its group, its name, and its definition."""

    group: Group
    name: str
    meaning: str


KINDS: dict[str, tuple[Group, str]] = {
    "tp": (TENSOR, "tensor-parallel"),
    "cp": (CONTEXT, "context-parallel"),
    "ep": (CONTEXT, "expert-parallel"),
    "etp": (CONTEXT, "expert tensor-parallel"),
    "dp_reduce": (DATA, "gradient reduction"),
    "dp_replica": (DATA, "gradient reduction between shard groups"),
    "dp_gather": (DATA, "parameter gathering"),
    "embedding": (DATA, "tied embedding's gradient"),
    "grad_norm": (DATA, "gradient norm"),
    "pp": (PIPELINE, "pipeline"),
}
"""Kinds of communication: group and name."""

CAUSES: dict[str, Cause] = {
    "gemm": Cause(MATRIX, "matrix products of layers", "time of the kernels"),
    "head": Cause(MATRIX, "head and loss", "logits and cross-entropy on the last stage"),
    "attention": Cause(ATTENTION, "attention", "time of the fused kernels"),
    "cast": Cause(MEMORY_BOUND, "casts to fp8 or fp4", "inputs, gradients and weights of products below 16 bits"),
    "memory_bound": Cause(MEMORY_BOUND, "memory-bound kernels", "norms, activations, residuals, rotary, routing"),
    "embedding": Cause(MEMORY_BOUND, "embedding", "look-up and its gradient on the first stage"),
    "recompute": Cause(RECOMPUTE, "recomputation", "forward kernels that run again in the backward pass"),
    "optimizer": Cause(OPTIMIZER, "optimizer", "gradient norm and update of parameters"),
    "compute_slowdown": Cause(SLOWDOWN, "slowdown of kernels", "longer while communication runs beside them (a prior)"),
    **{
        EXPOSED + kind: Cause(group, f"exposed: {name}", "idle while it ran and the next kernel waited for it")
        for kind, (group, name) in KINDS.items()
    },
    "host_launch": Cause(HOST, "waiting for the host", "idle until the host had issued what could have started"),
    "bubble": Cause(BUBBLE, "pipeline bubble", "idle for lack of upstream or downstream work"),
    "wait_peer": Cause(WAITING, "waiting for a peer", "idle until the last member of a collective arrived"),
    "step_end": Cause(WAITING, "end of the step", "idle until the last rank is done"),
}
"""Every cause that a result may hold, in the order in which tables show them."""

MEMORY: dict[str, tuple[str, str]] = {
    "parameters": ("parameters", "#0072B2"),
    "gradients": ("gradients", "#56B4E9"),
    "optimizer": ("optimizer state", "#009E73"),
    "activations": ("activations", "#E69F00"),
    "logits": ("logits and loss", "#F0E442"),
    "communication": ("communication buffers", "#CC79A7"),
    "fragmentation": ("reserved by the allocator", "#D9DCE0"),
    "overhead": ("CUDA and NCCL", "#A5A9AE"),
}
"""Categories of memory: name and colour."""


def cause(name: str) -> Cause:
    """The words of a cause."""
    assert name in CAUSES, f"the report has no words for the cause {name!r}"
    return CAUSES[name]


def in_order(causes: Iterable[str]) -> list[str]:
    """Causes in the order of the tables."""
    present = set(causes)
    assert present <= set(CAUSES), f"the report has no words for {sorted(present - set(CAUSES))}"
    return [name for name in CAUSES if name in present]


def by_group(causes: Mapping[str, float]) -> dict[Group, float]:
    """Seconds of each group, in the order of `GROUPS`; groups without time are left out.

    >>> {group.name: seconds for group, seconds in by_group({"head": 1.0, "gemm": 2.0, "bubble": 0.5}).items()}
    {'matrix products': 3.0, 'pipeline bubble': 0.5}
    """
    total: dict[Group, float] = {}
    for name, seconds in causes.items():
        group = cause(name).group
        total[group] = total.get(group, 0.0) + seconds
    return {group: total[group] for group in GROUPS if total.get(group, 0.0) > 0}
