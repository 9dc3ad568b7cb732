"""What a forward pass keeps for its backward pass: every tensor of a layer by name, in bytes.

Tensors are counted as Korthikanti et al. (arXiv 2205.05198, section 4) count them, with two differences. Attention is
fused: it keeps its output and 4 bytes for each head and token (the log of the softmax's sum, arXiv 2307.08691 section
3.1) instead of the scores, 5 a s^2 b bytes. And there is no dropout, whose masks are 2 s b h bytes for each layer. So a
GELU layer of width 4 h keeps 32 s b h + 4 a s b bytes, where the paper has 34 s b h + 5 a s^2 b. Left out, as there:
norm statistics, the router's indices, and the gradients of activations while they are used.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from sim.program.shapes import BYTES, Shapes
from sim.spec.model import Experts, LatentAttention, Model

Recompute = Literal["none", "selective", "full"]

SOFTMAX_STATISTICS_BYTES = 4
"""For each head and token: one fp32 number."""

SCORE_BYTES = 4
"""For each token and expert: the router works in fp32."""

TOKEN_ID_BYTES = 8
"""Embedding's backward pass needs only the ids, 64-bit integers (Megatron-LM, theoretical_memory_usage.py)."""

LAYER_INPUT = "layer input"
"""The first tensor of a layer, and all that full recomputation keeps of it."""

SOFTMAX_STATISTICS = "softmax statistics"
"""All that selective recomputation saves: q, k and v are its input, and the next product's input is the output."""


@dataclass(frozen=True)
class Kept:
    """A tensor that stays on one rank from the forward pass of a micro-batch to its backward pass."""

    name: str
    nbytes: float


def layer_kept(model: Model, s: Shapes, index: int) -> tuple[Kept, ...]:
    """Tensors of layer `index` without recomputation.

    Tokens are those of the micro-batch on this rank: context parallelism divides all of them by cp, sequence
    parallelism those between blocks by tp (products gather them again in the backward pass), tensor parallelism divides
    heads and widths.
    """
    experts = model.experts
    mlp = _moe(model, experts, s) if experts is not None and model.is_moe_layer(index) else _dense_mlp(model, s)
    return (*_attention(model, s), *mlp)


def layer_bytes(kept: tuple[Kept, ...], recompute: Recompute) -> float:
    """Bytes of a layer that stay from forward to backward.

    `selective` runs attention itself again (Megatron-LM's core_attn); `full` the whole layer.
    """
    match recompute:
        case "none":
            return sum(tensor.nbytes for tensor in kept)
        case "selective":
            return sum(tensor.nbytes for tensor in kept if tensor.name != SOFTMAX_STATISTICS)
        case "full":
            return sum(tensor.nbytes for tensor in kept if tensor.name == LAYER_INPUT)


def working_bytes(kept: tuple[Kept, ...], recompute: Recompute) -> float:
    """Bytes that live only while the layer's backward pass runs: what was not kept and is computed again."""
    return layer_bytes(kept, "none") - layer_bytes(kept, recompute)


def embedding_bytes(s: Shapes) -> float:
    """The ids; the embedding's output is the first layer's input."""
    return TOKEN_ID_BYTES * s.tokens


def head_bytes(model: Model, s: Shapes) -> float:
    """Input of the final norm and of the head: (tokens, hidden) each, by tp with sequence parallelism."""
    return 2 * BYTES * s.tokens_sp * model.hidden


def _attention(model: Model, s: Shapes) -> Iterator[Kept]:
    yield Kept(LAYER_INPUT, BYTES * s.tokens_sp * model.hidden)
    yield Kept("attention norm output", BYTES * s.tokens_sp * model.hidden)
    if model.latent_attention is None:
        q, kv, out = s.heads * model.head_dim, s.kv_heads * model.head_dim, s.heads * model.head_dim
        if model.qk_norm:
            yield Kept("qk norm input", BYTES * s.tokens * (q + kv))
        yield Kept("q, k, v", BYTES * s.tokens * (q + 2 * kv))
    else:
        mla = model.latent_attention
        yield from _latents(mla, s)
        qk_dim, out = mla.qk_nope_head_dim + mla.qk_rope_head_dim, s.heads * mla.v_head_dim
        yield Kept("q, k, v", BYTES * s.tokens * s.heads * (2 * qk_dim + mla.v_head_dim))
    yield Kept("attention output", BYTES * s.tokens * out)
    yield Kept(SOFTMAX_STATISTICS, SOFTMAX_STATISTICS_BYTES * s.tokens * s.heads)


def _latents(mla: LatentAttention, s: Shapes) -> Iterator[Kept]:
    """Each latent before its norm and after it, for this rank's own tokens.

    They are gathered again for the backward pass. The rotary part of the keys is copied into the keys.
    """
    if mla.q_lora_rank is not None:
        yield Kept("q latent and its norm", 2 * BYTES * s.tokens_sp * mla.q_lora_rank)
    yield Kept("kv latent and its norm", 2 * BYTES * s.tokens_sp * mla.kv_lora_rank)


def _dense_mlp(model: Model, s: Shapes) -> Iterator[Kept]:
    yield from _mlp_inputs(model, s)
    yield from _mlp(model, "mlp", s.tokens * (model.ffn_hidden // s.tp))


def _mlp_inputs(model: Model, s: Shapes) -> Iterator[Kept]:
    yield Kept("mlp norm input", BYTES * s.tokens_sp * model.hidden)
    yield Kept("mlp norm output", BYTES * s.tokens_sp * model.hidden)


def _mlp(model: Model, name: str, elements: int) -> Iterator[Kept]:
    """Input of the activation, twice as wide with a gate, and its output, the down projection's input."""
    gates = 2 if model.gated_mlp else 1
    yield Kept(f"{name} activation input", BYTES * gates * elements)
    yield Kept(f"{name} activation output", BYTES * elements)


def _moe(model: Model, experts: Experts, s: Shapes) -> Iterator[Kept]:
    """Tokens are spread evenly: tokens x top_k copies arrive, on each rank of an etp group those of all its members.

    The copies as they were before dispatch are not needed again, and neither are the experts' outputs: Megatron-Core
    multiplies by the router's weights inside the activation (weighted_bias_swiglu_impl).
    """
    yield from _mlp_inputs(model, s)
    yield Kept("router scores", SCORE_BYTES * s.tokens_sp * experts.num_experts)
    copies = s.tokens_sp * experts.top_k * s.etp
    yield Kept("dispatched tokens", BYTES * copies * model.hidden)
    yield from _mlp(model, "experts", copies * (experts.ffn_hidden // s.etp))
    if experts.shared_ffn_hidden:
        yield from _mlp(model, "shared expert", s.tokens * (experts.shared_ffn_hidden // s.tp))
