"""What a forward pass keeps for its backward pass: every tensor of a layer by name, in bytes.

Tensors are counted as Korthikanti et al. (arXiv 2205.05198, section 4) count them: with unfused attention, dropout and
a GELU of width 4 h a layer keeps 34 s b h + 5 a s^2 b bytes. Fused attention keeps its output and 4 bytes for each head
and token (the log of the softmax's sum, arXiv 2307.08691 section 3.1) instead of the scores. Kernels that a stack does
not fuse keep what torch's autograd saves for each of their operations. Left out, as there: norm statistics.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from sim.program.pointwise import MASK_BYTES
from sim.program.shapes import BYTES, Shapes
from sim.spec.model import Experts, LatentAttention, Model
from sim.spec.training import Module

FP32_BYTES = 4

ROUTER_BYTES = 3 * FP32_BYTES + 1
"""For each token and expert: logits, scores and the weights of those chosen in fp32, and a map of who is chosen
(megatron/core/transformer/moe/router.py and moe_utils.py, topk_routing_with_score_function)."""

COPY_BYTES = 2 * FP32_BYTES
"""For each dispatched copy of a token: its weight in fp32 and its row as a 32-bit integer
(megatron/core/transformer/moe/token_dispatcher.py, permuted_probs and reversed_local_input_permutation_mapping)."""

TOKEN_ID_BYTES = 8
"""Embedding's backward pass needs only the ids, 64-bit integers (Megatron-LM, theoretical_memory_usage.py)."""

LAYER_INPUT = "layer input"
"""The first tensor of a layer, and all that full recomputation keeps of it."""

MTP_INPUT = "mtp embedding"
"""The same of a module of multi-token prediction."""

Modules = frozenset[Module]

NOTHING: Modules = frozenset()
CORE: Modules = frozenset({"core_attention"})
NORM: Modules = frozenset({"norm"})
ACTIVATION: Modules = frozenset({"activation"})
UP_PROJECTION: Modules = frozenset({"mla_up_projection"})
MLP: Modules = frozenset({"mlp"})
MOE: Modules = frozenset({"moe"})


@dataclass(frozen=True)
class Kept:
    """A tensor that stays on one rank from the forward pass of a micro-batch to its backward pass.

    made_by: modules that make it again where selective recomputation runs one of them.
    """

    name: str
    nbytes: float
    made_by: Modules = NOTHING


def layer_kept(model: Model, s: Shapes, index: int) -> tuple[Kept, ...]:
    """Tensors of layer `index` without recomputation.

    Tokens are those of the micro-batch on this rank: context parallelism divides all of them by cp, sequence
    parallelism those between blocks by tp (products gather them again in the backward pass), tensor parallelism divides
    heads and widths.
    """
    experts = model.experts
    mlp = _moe(model, experts, s) if experts is not None and model.is_moe_layer(index) else _dense_mlp(model, s)
    return (*_attention(model, s), *mlp)


def kept_bytes(kept: Iterable[Kept], recomputed: Modules) -> float:
    """Bytes of a layer that stay from forward to backward where the modules `recomputed` run again."""
    return sum(tensor.nbytes for tensor in kept if not tensor.made_by & recomputed)


def input_bytes(kept: Iterable[Kept]) -> float:
    """What stays of a layer, or of a module of multi-token prediction, that runs again as a whole: its first tensor."""
    first = next(iter(kept))
    assert first.name in (LAYER_INPUT, MTP_INPUT)
    return first.nbytes


def remade_bytes(kept: Iterable[Kept], recomputed: Modules) -> float:
    """Most bytes that live only while a layer's backward pass runs, because a module made them again.

    Modules run again one after the other, each just before its own backward pass.
    """
    tensors = tuple(kept)
    by_module = (sum(tensor.nbytes for tensor in tensors if module in tensor.made_by) for module in recomputed)
    return max(by_module, default=0.0)


def gradient_bytes(model: Model, s: Shapes, index: int) -> float:
    """Most bytes of gradients of activations in the backward pass of layer `index`.

    (tokens, hidden) of the residual stream, and of one block: the MLP's output gradient and that of its activation's
    input (the output's gradient takes the place of the output), or attention's output gradient and those of q, k and v,
    with unfused attention also those of scores before and after the softmax.
    """
    experts = model.experts
    gates = 2 if model.gated_mlp else 1
    if experts is not None and model.is_moe_layer(index):
        mlp = _copies(s) * (gates * (experts.ffn_hidden // s.etp) + model.hidden)
    else:
        mlp = s.tokens * (gates * (model.ffn_hidden // s.tp) + model.hidden)
    scores = 2 * _scores(s) if s.attention == "unfused" else 0
    attention = s.tokens * (sum(_widths(model, s)) + _out_width(model, s)) + scores
    return float(BYTES * (s.tokens_sp * model.hidden + max(mlp, attention)))


def embedding_bytes(model: Model, s: Shapes) -> float:
    """The ids, and dropout's mask; the embedding's output is the first layer's input."""
    return TOKEN_ID_BYTES * s.tokens + _mask_bytes(s.tokens_sp * model.hidden, s)


def mtp_kept(model: Model, s: Shapes) -> Iterator[Kept]:
    """What a module of multi-token prediction keeps before its layer: the embedding that it norms, and both normed
    halves, the projection's input. The hidden states that it norms are the input of the norm before the head too, and
    counted there (`head_bytes`)."""
    values = s.tokens_sp * model.hidden
    yield from _norm("mtp embedding norm", MTP_INPUT, values, s, output_bytes=0, made_by=NOTHING)
    hidden = _norm("mtp hidden norm", "hidden states", values, s, output_bytes=0, made_by=NOTHING)
    yield from (tensor for tensor in hidden if tensor.name != "hidden states")
    yield Kept("mtp projection input", operand_bytes(s) * 2 * values)


def mtp_gradient_bytes(model: Model, s: Shapes) -> float:
    """Most bytes of gradients in the backward pass of a module of multi-token prediction: of its layer, or of the
    projection's output and (tokens, 2 hidden) input."""
    return max(gradient_bytes(model, s, model.num_layers - 1), float(BYTES * s.tokens * 3 * model.hidden))


def head_bytes(model: Model, s: Shapes) -> float:
    """Input of the final norm and of the head: (tokens, hidden) each, by tp with sequence parallelism."""
    norm = _norm("final norm", "final norm input", s.tokens_sp * model.hidden, s, output_bytes=BYTES)
    return sum(tensor.nbytes for tensor in norm)


def operand_bytes(s: Shapes) -> float:
    """Of a value that is kept as a product's operand. Below 16 bits only the copy that the gradient of the weight reads
    stays (transformer_engine/pytorch/module/linear.py, update_usage(rowwise_usage=False))."""
    return BYTES if s.recipe is None else s.quantized_bytes


def _norm(
    name: str, of: str, values: int, s: Shapes, *, output_bytes: float, made_by: Modules = NORM
) -> Iterator[Kept]:
    """Input (called `of`) and output of a norm that `made_by` makes again. RMSNorm of separate operations casts its
    input to fp32 and keeps that for the square and the product with the scale, and the product, cast back, for the one
    with the weight: 6 bytes instead of 2 (Hugging Face's LlamaRMSNorm)."""
    yield Kept(of, BYTES * values)
    if s.kernels.norm == "eager" and s.norm == "rmsnorm":
        yield Kept(f"{name}, in fp32 and cast", FP32_BYTES * values, made_by)
    yield Kept(f"{name} output", output_bytes * values, made_by)


def _attention(model: Model, s: Shapes) -> Iterator[Kept]:
    values = s.tokens_sp * model.hidden
    yield from _norm("attention norm", LAYER_INPUT, values, s, output_bytes=operand_bytes(s))
    q, k, v = _widths(model, s)
    made_by = NOTHING
    if model.latent_attention is not None:
        yield from _latents(model.latent_attention, s)
        made_by = UP_PROJECTION
    elif model.qk_norm:
        yield from _norm("qk norm", "qk norm input", s.tokens * (q + k), s, output_bytes=0, made_by=NOTHING)
    yield Kept("q, k, v", BYTES * s.tokens * (q + k + v), made_by)
    yield from _core(s, _out_width(model, s))
    yield from _mask("attention", values, s)


def _widths(model: Model, s: Shapes) -> tuple[int, int, int]:
    """Of queries, keys and values on this rank. Where Ulysses spreads heads over more ranks than there are key and
    value heads, each keeps a whole one."""
    mla = model.latent_attention
    if mla is None:
        kv_heads = max(s.kv_heads, s.cp_head_ranks)
        return s.heads * model.head_dim, kv_heads * model.head_dim, kv_heads * model.head_dim
    qk_width = s.heads * (mla.qk_nope_head_dim + mla.qk_rope_head_dim)
    return qk_width, qk_width, s.heads * mla.v_head_dim


def _out_width(model: Model, s: Shapes) -> int:
    """Of attention's output on this rank."""
    return s.heads * (model.head_dim if model.latent_attention is None else model.latent_attention.v_head_dim)


def _scores(s: Shapes) -> int:
    """Pairs of query and key, of all heads on this rank."""
    return s.sequences * s.heads * s.q_len * s.kv_len


def _core(s: Shapes, out_width: int) -> Iterator[Kept]:
    """Attention itself. Fused, its output is needed by its own backward pass, and cast for the next product below 16
    bits. Unfused: the softmax's output (in fp32 too where it is not fused), dropout's mask and its output, 2, 1 and 2
    bytes a score."""
    if s.attention == "unfused":
        scores = _scores(s)
        if s.kernels.softmax == "eager":
            yield Kept("softmax output, fp32", FP32_BYTES * scores, CORE)
        yield Kept("softmax output", BYTES * scores, CORE)
        if s.dropout > 0:
            yield Kept("scores' dropout mask", MASK_BYTES * scores, CORE)
            yield Kept("scores' dropout output", BYTES * scores, CORE)
        yield Kept("attention output", operand_bytes(s) * s.tokens * out_width)
        return
    yield Kept("attention output", BYTES * s.tokens * out_width)
    if s.recipe is not None:
        yield Kept("attention output, cast", s.quantized_bytes * s.tokens * out_width)
    yield Kept("softmax statistics", FP32_BYTES * s.tokens * s.heads, CORE)


def _latents(mla: LatentAttention, s: Shapes) -> Iterator[Kept]:
    """Each latent before its norm and after it, for this rank's own tokens.

    They are gathered again for the backward pass. The rotary part of the keys is copied into the keys.
    """
    ranks = {"kv": mla.kv_lora_rank} if mla.q_lora_rank is None else {"q": mla.q_lora_rank, "kv": mla.kv_lora_rank}
    for name, rank in ranks.items():
        values = s.tokens_sp * rank
        norm = f"{name} latent norm"
        yield from _norm(norm, f"{name} latent", values, s, output_bytes=operand_bytes(s), made_by=UP_PROJECTION)


def _dense_mlp(model: Model, s: Shapes) -> Iterator[Kept]:
    values = s.tokens_sp * model.hidden
    yield from _norm("mlp norm", "mlp norm input", values, s, output_bytes=operand_bytes(s), made_by=NORM | MLP)
    yield from _mlp(model, s, "mlp", s.tokens * (model.ffn_hidden // s.tp), MLP)
    yield from _mask("mlp", values, s)


def _mlp(model: Model, s: Shapes, name: str, elements: int, module: Modules) -> Iterator[Kept]:
    """Input of the activation, twice as wide with a gate, and its output, the down projection's input. With a gate and
    separate operations, also the activated gate, which the product with the other half needs."""
    gates = 2 if model.gated_mlp else 1
    yield Kept(f"{name} activation input", BYTES * gates * elements, module)
    if model.gated_mlp and s.kernels.activation == "eager":
        yield Kept(f"{name} activated gate", BYTES * elements, module | ACTIVATION)
    yield Kept(f"{name} activation output", operand_bytes(s) * elements, module | ACTIVATION)


def _copies(s: Shapes) -> int:
    """Of tokens, that arrive on this rank, on each rank of an etp group those of all."""
    assert s.routed is not None
    return s.routed.copies


def _moe(model: Model, experts: Experts, s: Shapes) -> Iterator[Kept]:
    """The copies as they were before dispatch are not needed again, and neither are the experts' outputs where the
    router's weights multiply inside the activation (Megatron-Core's weighted_bias_swiglu_impl): where tokens are
    scaled apart (`permutation: eager`), the scale's gradient needs them."""
    values = s.tokens_sp * model.hidden
    yield from _norm("mlp norm", "mlp norm input", values, s, output_bytes=BYTES)
    yield Kept("router", ROUTER_BYTES * s.tokens_sp * experts.num_experts)
    copies = _copies(s)
    yield Kept("copies' weights and rows", COPY_BYTES * copies, MOE)
    yield Kept("dispatched tokens", operand_bytes(s) * copies * model.hidden, MOE)
    yield from _mlp(model, s, "experts", copies * (experts.ffn_hidden // s.etp), MOE)
    if s.kernels.permutation == "eager":
        yield Kept("experts' outputs", BYTES * copies * model.hidden, MOE)
    if experts.shared_ffn_hidden:
        yield from _mlp(model, s, "shared expert", s.tokens * (experts.shared_ffn_hidden // s.tp), MOE)
    yield from _mask("mlp", values, s)


def _mask(name: str, values: int, s: Shapes) -> Iterator[Kept]:
    """Of the dropout before a residual."""
    if s.dropout > 0:
        yield Kept(f"{name} dropout mask", _mask_bytes(values, s))


def _mask_bytes(values: int, s: Shapes) -> float:
    return MASK_BYTES * values if s.dropout > 0 else 0
