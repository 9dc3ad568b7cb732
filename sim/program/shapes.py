"""Numbers of one rank under a layout: tokens, heads and widths after every split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sim.errors import SimError
from sim.program.roles import EVEN, Place
from sim.program.routing import Routed, own_tokens, routed
from sim.spec.gpu import BYTES_PER_VALUE, NumberFormat
from sim.spec.layout import cp_head_ranks
from sim.spec.scenario import Scenario
from sim.spec.stack import AttentionChoice, FusedKernels
from sim.spec.training import Recipe, recipe, reduces_every_pass

BYTES = 2
"""Bytes of an activation or a weight in bf16 or fp16."""


SCALE_BYTES: dict[Recipe, float] = {
    "delayed": 0.0,
    "current": 0.0,
    "blockwise": 4 / 128,
    "mxfp8": 1 / 32,
    "nvfp4": 1 / 16,
}
"""Of a scale, for each value: one for a tensor; fp32 for 128 values (DeepSeek-V3, arXiv 2412.19437 section 3.3.2); one
byte for 32 (OCI Microscaling Formats) or for 16 (NVFP4)."""


DISPATCH_BYTES = 1 + 4 / 128
"""Of a value that is dispatched in fp8: with a scale in fp32 for 128 of them (deepseek-ai/DeepEP; DeepSeek-V3, arXiv
2412.19437 section 3.3.3)."""


@dataclass(frozen=True)
class Shapes:
    """Per rank and micro-batch.

    tokens: of the micro-batch after context parallelism.  tokens_sp: those of them that norms and residuals see (a
    1/tp share with sequence parallelism).  heads, kv_heads: on this rank (kv heads are replicated where tp exceeds
    them).  vocab: after padding to a multiple of tp times the stack's, and the split.  format: of the layers' products.
    accumulates: see `sim.program.pieces.Linear`.  routed: what reaches this rank's experts; None in a dense model.
    cp_across: how blocks of keys and values reach the ranks that are not in one Ulysses group.  cp_head_ranks: ranks of
    such a group, 1 without.  cp_chunk: which chunk of the sequence the ranks of a place have, where those are in order;
    None where each has a head and a tail one.
    tp_chunks: into how many chunks a reduce_scatter of sequence parallelism is cut; None where its communication is
    whole.
    """

    tokens: int
    tokens_sp: int
    sequences: int
    q_len: int
    kv_len: int
    heads: int
    kv_heads: int
    vocab: int
    tp: int
    cp: int
    ep: int
    etp: int
    is_sequence_parallel: bool
    format: NumberFormat
    recipe: Recipe | None
    keeps_weights_cast: bool
    attention: AttentionChoice
    kernels: FusedKernels
    norm: Literal["rmsnorm", "layernorm"]
    dropout: float
    grad_bytes: int
    accumulates: Literal["fused", "separate"] | None
    cp_across: Literal["all_gather", "ring"] = "all_gather"
    cp_head_ranks: int = 1
    cp_chunk: int | None = None
    tp_chunks: int | None = None
    routed: Routed | None = None

    @property
    def format_16(self) -> NumberFormat:
        """Of what stays in 16 bits: attention, router and head."""
        return "fp16" if self.format == "fp16" else "bf16"

    @property
    def gather_chunks(self) -> int:
        """Into how many chunks an all_gather of sequence parallelism is cut: those of its ranks."""
        return 1 if self.tp_chunks is None else self.tp

    @property
    def quantized_bytes(self) -> float:
        """Of a value in low precision with its share of a scale; those of a tensor share one."""
        assert self.recipe is not None, "16-bit values are not quantized"
        return BYTES_PER_VALUE[self.format] + SCALE_BYTES[self.recipe]


def padded_vocab(vocab: int, tp: int, multiple: int = 128) -> int:
    """Vocabulary padded to a multiple of `multiple` x tp (Megatron-LM's make-vocab-size-divisible-by).

    >>> padded_vocab(50257, 8), padded_vocab(50257, 1, 1)
    (51200, 50257)
    """
    return -(-vocab // (multiple * tp)) * multiple * tp


def attention_of(scenario: Scenario) -> AttentionChoice:
    """The first of the stack's attention kernels that the GPU has constants for; unfused, every GPU has.

    Raises SimError, with what the GPU has, where there is none.
    """
    known = scenario.gpu.attention
    for choice in scenario.stack.attention:
        if choice == "unfused" or choice in known:
            return choice
    raise SimError(
        f"{scenario.stack.name} calls no attention kernel that {scenario.gpu.name} has constants for "
        f"(got {', '.join(scenario.stack.attention)}, allowed {', '.join(known)})"
    )


def shapes(scenario: Scenario, place: Place = EVEN) -> Shapes:
    """Shapes of the scenario's ranks at a place."""
    model, layout, training, stack = scenario.model, scenario.layout, scenario.training, scenario.stack
    tokens = training.micro_batch * training.seq_len // layout.cp
    return Shapes(
        tokens=tokens,
        tokens_sp=own_tokens(scenario),
        sequences=training.micro_batch,
        q_len=training.seq_len // layout.cp,
        kv_len=training.seq_len,
        heads=model.num_heads // layout.tp,
        kv_heads=max(model.num_kv_heads // layout.tp, 1),
        vocab=padded_vocab(model.vocab, layout.tp, stack.vocab_multiple) // layout.tp,
        tp=layout.tp,
        cp=layout.cp,
        ep=layout.ep,
        etp=layout.etp,
        is_sequence_parallel=layout.sequence_parallel,
        format=training.precision,
        recipe=recipe(training),
        keeps_weights_cast=training.low_precision_weights,
        attention=attention_of(scenario),
        kernels=stack.kernels,
        norm=model.norm,
        dropout=training.dropout,
        grad_bytes=int(BYTES_PER_VALUE[training.grad_precision]),
        accumulates=None if layout.zero == 3 and reduces_every_pass(training) else stack.kernels.gradient_accumulation,
        cp_across="ring" if layout.cp_method in ("ring", "ulysses_ring") else "all_gather",
        cp_head_ranks=cp_head_ranks(layout),
        tp_chunks=training.overlap.tensor_chunks,
        cp_chunk=None if layout.cp_balance == "zigzag" else place.cp // cp_head_ranks(layout),
        routed=routed(scenario, place.ep),
    )
