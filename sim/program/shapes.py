"""Numbers of one rank under a layout: tokens, heads and widths after every split."""

from __future__ import annotations

from dataclasses import dataclass

from sim.spec.gpu import BYTES_PER_VALUE, NumberFormat
from sim.spec.scenario import Scenario

BYTES = 2
"""Bytes of an activation or a weight in bf16 or fp16."""


@dataclass(frozen=True)
class Shapes:
    """Per rank and micro-batch.

    tokens: of the micro-batch after context parallelism.  tokens_sp: those of them that norms and residuals see (a
    1/tp share with sequence parallelism).  heads, kv_heads: on this rank (kv heads are replicated where tp exceeds
    them).  vocab: after padding to a multiple of 128 tp, as Megatron-LM does, and the split.
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
    grad_bytes: int


def padded_vocab(vocab: int, tp: int) -> int:
    """Vocabulary padded to a multiple of 128 x tp (Megatron-LM's make-vocab-size-divisible-by).

    >>> padded_vocab(50257, 8)
    51200
    """
    multiple = 128 * tp
    return -(-vocab // multiple) * multiple


def shapes(scenario: Scenario) -> Shapes:
    """Shapes of the scenario's ranks."""
    model, layout, training = scenario.model, scenario.layout, scenario.training
    tokens = training.micro_batch * training.seq_len // layout.cp
    return Shapes(
        tokens=tokens,
        tokens_sp=tokens // layout.tp if layout.sequence_parallel else tokens,
        sequences=training.micro_batch,
        q_len=training.seq_len // layout.cp,
        kv_len=training.seq_len,
        heads=model.num_heads // layout.tp,
        kv_heads=max(model.num_kv_heads // layout.tp, 1),
        vocab=padded_vocab(model.vocab, layout.tp) // layout.tp,
        tp=layout.tp,
        cp=layout.cp,
        ep=layout.ep,
        etp=layout.etp,
        is_sequence_parallel=layout.sequence_parallel,
        format=training.precision,
        grad_bytes=int(BYTES_PER_VALUE[training.grad_precision]),
    )
