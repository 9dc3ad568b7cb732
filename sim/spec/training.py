"""How the model is trained: batch, sequence, number formats, recomputation, optimizer, and what may overlap."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from sim.spec.moe import Moe
from sim.spec.quantity import Bytes, Count, Spec

Precision = Literal["bf16", "fp16", "fp8", "fp4"]
Recipe = Literal["delayed", "current", "blockwise", "mxfp8", "nvfp4"]
RECIPES: dict[Precision, tuple[Recipe, ...]] = {"fp8": ("delayed", "current", "blockwise", "mxfp8"), "fp4": ("nvfp4",)}
"""How values find the scale with which they are cast; the first of each format is what is meant where none is given."""

Module = Literal["core_attention", "norm", "activation", "mla_up_projection", "mlp", "moe"]


class Overlap(Spec):
    """Which communication may run beside compute. Whether it is hidden emerges from the streams.

    grad_reduce: gradients are reduced bucket by bucket during the last backward pass, else after it.
    param_gather: ZeRO-1 and ZeRO-2 gather updated parameters beside the next step's first forward pass, else after the
        optimizer. (The simulated step is one of a steady run: it starts with the gathers that the step before left.)
    pipeline: a rank goes on to its next pass beside what it sends, else when that has been received; by default as the
        stack's schedule has it (`Stack.blocking_sends`).
    expert: the exchanges over ep of one micro-batch run beside the kernels of another: in the steady phase of 1F1B the
        next forward and this backward pass share the GPU (Megatron-Core's overlap_moe_expert_parallel_comm).
    tensor: in the backward pass, tensor-parallel communication of the input gradient runs beside the weight gradient.
    tensor_chunks: products and the communication of sequence parallelism before and after them are cut, so that one
        chunk is sent beside the product of another: a reduce_scatter into so many chunks (Transformer Engine's
        num_splits, 4 there), an all_gather into those of its ranks. Forward, and backward for the input gradients of
        products whose output is scattered (`sim.program.chunks`). Left out, they are whole.
    shared_expert: an MoE layer's shared expert runs while its tokens travel: the first product beside dispatch, the
        second beside combine (Megatron-Core's moe-shared-expert-overlap).
    compute_slowdown: kernels take longer while communication runs on their GPU (`gpu.slowdown`).
    """

    grad_reduce: bool = True
    param_gather: bool = True
    pipeline: bool | None = None
    expert: bool = False
    tensor: bool = True
    tensor_chunks: Count | None = None
    shared_expert: bool = False
    compute_slowdown: bool = True


class Optimizer(Spec):
    """Adam's state for each parameter: a master copy (none where the weights themselves are updated), two moments.

    offload: state lives in the host's memory and the CPU updates it; gradients and parameters cross PCIe.
    """

    master: Literal["fp32", "none"] = "fp32"
    moments: Literal["fp32", "bf16", "fp8"] = "fp32"
    offload: bool = False


class Training(Spec):
    """One optimizer step: `global_batch` sequences of `seq_len` tokens, `micro_batch` of them at a time on a rank.

    precision: of the layers' matrix products; the head, the router and attention stay in 16 bits below that.
    recipe: scaling of fp8 and fp4, the first of `RECIPES` by default.  low_precision_weights: weights are kept, and
    gathered, in fp8 or fp4 instead of 16 bits.
    dropout: probability, after attention and MLP and of attention's scores; 0 is none.
    recompute: nothing, modules (selective) or whole layers (full) run again in the backward pass.
    recompute_modules: with selective, which; core_attention alone by default (arXiv 2205.05198).
    recompute_layers: with full, how many layers of each virtual stage; all by default.
    grad_precision: of the buffer in which gradients are summed.
    reduce_precision: of gradients on the wire, the same by default; int4 is ZeRO++'s qgZ (arXiv 2306.10209).
    gather_precision: of the parameters that ZeRO-3 gathers, where it is not that of the weights; int8 is ZeRO++'s qwZ.
    grad_sync: when gradients are reduced. ZeRO-2 and 3: in `every` backward pass (the default); `two_hop`: within shard
        groups in every one, between them in the last (MiCS, arXiv 2205.00119); `last`: in the last one of the step, and
        whole gradients are kept until then. ZeRO-1: `all_reduce`, over all replicas, instead of reduce_scatter.
    clip_grad: gradients are scaled by their global norm, for which all ranks exchange a number.
    cuda_graphs: the kernels between two communications are issued as one graph.
    grad_norm: what clipping waits for. global: no optimizer starts before the norm of all gradients is known.
        post_validation: each pipeline stage updates at once and takes it back if the global norm, which follows, says
        so (Zero Bubble, arXiv 2401.10241 section 4), so that stages may be in different steps.
    """

    seq_len: Count
    global_batch: Count
    micro_batch: Count
    precision: Precision
    recipe: Recipe | None = None
    low_precision_weights: bool = False
    grad_precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    reduce_precision: Literal["fp32", "bf16", "fp16", "int4"] | None = None
    gather_precision: Literal["fp32", "int8"] | None = None
    grad_sync: Literal["every", "two_hop", "last", "all_reduce"] | None = None
    clip_grad: bool = True
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    recompute: Literal["none", "selective", "full"]
    recompute_modules: Annotated[tuple[Module, ...], Field(strict=False, min_length=1)] | None = None
    recompute_layers: Count | None = None
    optimizer: Optimizer = Optimizer()
    cuda_graphs: bool = False
    grad_norm: Literal["global", "post_validation"] = "global"
    overlap: Overlap = Overlap()
    moe: Moe = Moe()
    bucket_bytes: Bytes | None = Field(default=None, alias="bucket")
    prefetch_layers: Annotated[int, Field(ge=0, strict=True)] | None = None

    @model_validator(mode="after")
    def _fields_belong_together(self) -> Training:
        allowed = RECIPES.get(self.precision, ())
        if self.recipe is not None and self.recipe not in allowed:
            only = ", ".join(allowed) if allowed else "none: 16-bit values need no scale"
            raise ValueError(f"recipe = {self.recipe} with precision = {self.precision} (allowed {only})")
        if self.low_precision_weights and not allowed:
            raise ValueError(
                f"low_precision_weights with precision = {self.precision} (allowed with {', '.join(RECIPES)})"
            )
        if self.moe.pad_to_capacity and self.moe.capacity_factor is None:
            raise ValueError("moe.pad_to_capacity without a moe.capacity_factor (allowed with one)")
        if self.gather_precision is not None and self.low_precision_weights:
            raise ValueError(f"gather_precision = {self.gather_precision} with low_precision_weights (allowed without)")
        if self.gather_precision == "fp32" and self.optimizer.master != "fp32":
            raise ValueError(
                "gather_precision = fp32 without a master copy in fp32 (allowed with optimizer.master fp32)"
            )
        if self.recompute_modules is not None and self.recompute != "selective":
            raise ValueError(f"recompute_modules with recompute = {self.recompute} (allowed with selective)")
        if self.recompute_layers is not None and self.recompute != "full":
            raise ValueError(f"recompute_layers with recompute = {self.recompute} (allowed with full)")
        return self


def recipe(training: Training) -> Recipe | None:
    """Scaling recipe in force; None for 16-bit products."""
    return training.recipe or next(iter(RECIPES.get(training.precision, ())), None)


def reduces_every_pass(training: Training) -> bool:
    """Whether ZeRO-2 and ZeRO-3 reduce gradients within shard groups in every backward pass."""
    return training.grad_sync != "last"


def recomputed_modules(training: Training) -> frozenset[Module]:
    """What selective recomputation runs again; nothing without it."""
    if training.recompute != "selective":
        return frozenset()
    return frozenset(training.recompute_modules or ("core_attention",))
