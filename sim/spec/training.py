"""How the model is trained: batch, sequence, number formats, recomputation, and what may overlap."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sim.spec.quantity import Bytes, Count, Spec


class Overlap(Spec):
    """Which communication may run beside compute. Whether it is hidden emerges from the streams.

    grad_reduce: gradients are reduced bucket by bucket during the last backward pass, else after it.
    param_gather: ZeRO-1 and ZeRO-2 gather updated parameters beside the next step's first forward pass, else after the
        optimizer. (The simulated step is one of a steady run: it starts with the gathers that the step before left.)
    tensor: in the backward pass, tensor-parallel communication of the input gradient runs beside the weight gradient.
    compute_slowdown: kernels take longer while communication runs on their GPU (`gpu.slowdown`).
    """

    grad_reduce: bool = True
    param_gather: bool = True
    tensor: bool = True
    compute_slowdown: bool = True


class Training(Spec):
    """One optimizer step: `global_batch` sequences of `seq_len` tokens, `micro_batch` of them at a time on a rank."""

    seq_len: Count
    global_batch: Count
    micro_batch: Count
    precision: Literal["bf16", "fp16"]
    grad_precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    recompute: Literal["none", "selective", "full"]
    overlap: Overlap = Overlap()
    bucket_bytes: Bytes | None = Field(default=None, alias="bucket")
    prefetch_layers: Annotated[int, Field(ge=0, strict=True)] | None = None
