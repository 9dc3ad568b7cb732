"""The pieces of a transformer: attention (grouped-query or latent), dense MLP, experts, embedding, head.

What is between products depends on the stack (`sim.program.pointwise`). Below 16 bits, what a layer's product reads is
cast before it: its input, and backward the gradient of its output; weights once a step (`sim.program.stage`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from sim.program.core import core
from sim.program.pieces import Beside, Exchange, Linear, Part, Piece, Pointwise
from sim.program.pointwise import (
    LOSS_BYTES,
    activation,
    dropout,
    from_dispatch,
    gradient_cast,
    input_cast,
    norm,
    permutation,
    residual,
    rotary,
    to_dispatch,
)
from sim.program.routing import Routed
from sim.program.shapes import BYTES, DISPATCH_BYTES, Shapes
from sim.spec.model import Experts, LatentAttention, Model


def column_parallel(s: Shapes, name: str, n: int, k: int) -> Iterator[Piece]:
    """A product of all tokens whose output is split over tp. Sequence parallelism gathers the tokens before it (and
    scatters their gradient); plain tensor parallelism only reduces the gradient (Megatron's f and g, arXiv 1909.08053
    and 2205.05198). Below 16 bits each rank casts its own tokens, and the cast ones are gathered."""
    if s.recipe is not None:
        yield input_cast(name, s.tokens_sp * k, s)
    if s.tp > 1:
        nbytes = float(BYTES * s.tokens * k)
        if s.is_sequence_parallel:
            cast_nbytes = None if s.recipe is None else s.quantized_bytes * s.tokens * k
            yield Exchange(
                "tp",
                nbytes,
                "all_gather",
                "reduce_scatter",
                regathers=True,
                cast_nbytes=cast_nbytes,
                gather_chunks=s.gather_chunks,
            )
        else:
            yield Exchange("tp", nbytes, None, "all_reduce")
    yield linear(s, name, s.tokens, n, k)
    if s.recipe is not None:
        yield gradient_cast(name, s.tokens * n, s)


def scatter_tokens(s: Shapes, width: int) -> Iterator[Piece]:
    """What follows a row-parallel product: its partial sums are reduced, and scattered under sequence parallelism."""
    if s.tp > 1:
        nbytes = float(BYTES * s.tokens * width)
        if s.is_sequence_parallel:
            yield Exchange(
                "tp",
                nbytes,
                "reduce_scatter",
                "all_gather",
                gather_chunks=s.gather_chunks,
                scatter_chunks=s.tp_chunks or 1,
            )
        else:
            yield Exchange("tp", nbytes, "all_reduce", None)


def product(s: Shapes, name: str, m: int, n: int, k: int, *, routed: Routed | None = None) -> Iterator[Piece]:
    """A layer's product in the training's number format, with the casts of what it reads. routed: of experts' products,
    how their m rows are spread over them."""
    if s.recipe is not None:
        yield input_cast(name, m * k, s)
    yield linear(s, name, m, n, k, routed=routed)
    if s.recipe is not None:
        yield gradient_cast(name, m * n, s)


def linear(s: Shapes, name: str, m: int, n: int, k: int, *, routed: Routed | None = None) -> Linear:
    """A product in the training's number format."""
    groups = None if routed is None else routed.groups
    return Linear(name, m, n, k, s.format, s.grad_bytes, s.accumulates, groups)


def attention(model: Model, s: Shapes) -> Iterator[Piece]:
    """Norm, projections, rotary embedding, attention, output projection, residual."""
    yield Part("norm", (norm("attention norm", s.tokens_sp, model.hidden, s),))
    if model.latent_attention is None:
        yield from _grouped_query(model, s)
        out_width = s.heads * model.head_dim
    else:
        yield from _latent(model, model.latent_attention, s)
        out_width = s.heads * model.latent_attention.v_head_dim
    yield from product(s, "attention out", s.tokens, model.hidden, out_width)
    yield from scatter_tokens(s, model.hidden)
    yield from residual(s.tokens_sp, model.hidden, s)


def _grouped_query(model: Model, s: Shapes) -> Iterator[Piece]:
    q, kv = s.heads * model.head_dim, s.kv_heads * model.head_dim
    yield from column_parallel(s, "qkv", q + 2 * kv, model.hidden)
    if model.qk_norm:
        yield norm("qk norm", s.tokens * (s.heads + s.kv_heads), model.head_dim, s)
    if not model.learned_positions:
        yield rotary(s.tokens * (q + kv), s)
    yield from core(s, s.kv_heads, model.head_dim, model.head_dim)


def _latent(model: Model, mla: LatentAttention, s: Shapes) -> Iterator[Piece]:
    """Down-projections work on each rank's own tokens; only the latents are gathered (Megatron-Core's MLA)."""
    qk_dim = mla.qk_nope_head_dim + mla.qk_rope_head_dim
    yield from product(s, "kv down", s.tokens_sp, mla.kv_lora_rank + mla.qk_rope_head_dim, model.hidden)
    if mla.q_lora_rank is not None:
        yield from product(s, "q down", s.tokens_sp, mla.q_lora_rank, model.hidden)
    yield Part("mla_up_projection", tuple(_up_projections(model, mla, s)))
    yield from core(s, s.heads, qk_dim, mla.v_head_dim)


def _up_projections(model: Model, mla: LatentAttention, s: Shapes) -> Iterator[Piece]:
    """From the latents to queries, keys and values."""
    qk_dim = mla.qk_nope_head_dim + mla.qk_rope_head_dim
    q_in = model.hidden
    if mla.q_lora_rank is not None:
        q_in = mla.q_lora_rank
        yield norm("q latent norm", s.tokens_sp, q_in, s)
    yield from column_parallel(s, "q up", s.heads * qk_dim, q_in)
    yield norm("kv latent norm", s.tokens_sp, mla.kv_lora_rank, s)
    up_width = s.heads * (mla.qk_nope_head_dim + mla.v_head_dim)
    yield from column_parallel(s, "kv up", up_width, mla.kv_lora_rank)
    yield rotary(s.tokens * s.heads * (qk_dim + mla.qk_rope_head_dim), s)


def dense_mlp(model: Model, s: Shapes) -> Iterator[Piece]:
    """Norm, up (and gate) projection, activation, down projection, residual."""
    parts = (
        Part("norm", (norm("mlp norm", s.tokens_sp, model.hidden, s),)),
        *_mlp(model, s, "mlp", model.ffn_hidden // s.tp),
    )
    yield Part("mlp", parts)
    yield from residual(s.tokens_sp, model.hidden, s)


def _mlp(model: Model, s: Shapes, name: str, width: int) -> Iterator[Piece]:
    gates = 2 if model.gated_mlp else 1
    yield from column_parallel(s, f"{name} up", gates * width, model.hidden)
    yield Part("activation", (activation("activation", s.tokens, width, gates, s),))
    yield from product(s, f"{name} down", s.tokens, model.hidden, width)
    yield from scatter_tokens(s, model.hidden)


def moe_mlp(model: Model, experts: Experts, s: Shapes) -> Iterator[Piece]:
    """Norm, router, shared expert, dispatch, grouped products, combine, residual."""
    h = model.hidden
    yield Part("norm", (norm("mlp norm", s.tokens_sp, h, s),))
    yield replace(linear(s, "router", s.tokens_sp, experts.num_experts, h), format=s.format_16)
    score_bytes = 4 * s.tokens_sp * experts.num_experts
    yield Pointwise("top-k", 3 * score_bytes, 3 * score_bytes)
    assert s.routed is not None
    width = experts.shared_ffn_hidden // s.tp
    shared = tuple(_mlp(model, s, "shared expert", width)) if width else ()
    if s.routed.is_shared_beside and s.ep > 1:
        middle = next(index + 1 for index, piece in enumerate(shared) if isinstance(piece, Part)) if shared else 0
        pieces = tuple(_experts(model, experts, s, s.routed, beside=(shared[:middle], shared[middle:])))
    else:
        pieces = (*shared, *_experts(model, experts, s, s.routed, beside=((), ())))
    yield Part("moe", pieces)
    yield from residual(s.tokens_sp, h, s)


Beneath = tuple[tuple[Piece, ...], tuple[Piece, ...]]
"""What runs beside dispatch, and beside combine."""


def _experts(model: Model, experts: Experts, s: Shapes, routed: Routed, *, beside: Beneath) -> Iterator[Piece]:
    """Every rank sends its tokens' top-k copies to the experts' ranks and gets their outputs back.

    Each of the ep x etp ranks holds num_experts / ep experts at 1 / etp of their width; an etp group gathers its
    members' tokens. What an expert gets: `sim.program.routing`. What came in fp8 is cast back before products in 16
    bits; below, the products' own casts read it.
    """
    h = model.hidden
    all_copies = s.tokens_sp * experts.top_k
    sent = round(all_copies * routed.sent_frac)
    received_bytes = float(BYTES * routed.copies * h)
    width = experts.ffn_hidden // s.etp
    gates = 2 if model.gated_mlp else 1
    casts = routed.dispatch == "fp8" and s.ep > 1
    cast_bytes = DISPATCH_BYTES * routed.copies * h if casts else None
    if casts:
        yield to_dispatch("tokens to dispatch", s.tokens_sp * h, is_gradient=False)
    yield permutation("permute", sent * h, s)
    dispatch = _exchange(s, routed, all_copies * h)
    if dispatch is not None:
        yield Beside(dispatch, beside[0]) if beside[0] else dispatch
    if s.etp > 1:
        yield Exchange("etp", received_bytes, "all_gather", "reduce_scatter", cast_nbytes=cast_bytes)
    if casts and s.recipe is None:
        yield from_dispatch("dispatched tokens", routed.copies * h, is_gradient=False)
    yield from product(s, "experts up", routed.copies, gates * width, h, routed=routed)
    yield Part("activation", (activation("activation", routed.copies, width, gates, s),))
    yield from product(s, "experts down", routed.copies, h, width, routed=routed)
    if casts and s.recipe is None:
        yield from_dispatch("dispatched gradients", routed.copies * h, is_gradient=True)
    if s.etp > 1:
        yield Exchange("etp", received_bytes, "reduce_scatter", "all_gather", gradient_cast_nbytes=cast_bytes)
    if dispatch is not None:
        combine = replace(
            dispatch,
            cast_nbytes=None,
            gradient_cast_nbytes=dispatch.cast_nbytes,
            spread=routed.spread.back,
        )
        yield Beside(combine, beside[1]) if beside[1] else combine
    yield permutation("unpermute", sent * h, s)
    if casts:
        yield to_dispatch("gradients to dispatch", s.tokens_sp * h, is_gradient=True)


def _exchange(s: Shapes, routed: Routed, values: int) -> Exchange | None:
    """Dispatch of all copies of a rank's tokens, `values` in all; their gradients come back in 16 bits."""
    if s.ep == 1:
        return None
    cast_nbytes = DISPATCH_BYTES * values if routed.dispatch == "fp8" else None
    return Exchange(
        "ep", float(BYTES * values), "all_to_all", "all_to_all", cast_nbytes=cast_nbytes, spread=routed.spread
    )


def layer(model: Model, s: Shapes, index: int) -> tuple[Piece, ...]:
    """Pieces of layer `index`."""
    experts = model.experts
    is_moe = experts is not None and model.is_moe_layer(index)
    mlp = moe_mlp(model, experts, s) if is_moe and experts is not None else dense_mlp(model, s)
    return (*attention(model, s), *mlp)


def embedding(model: Model, s: Shapes) -> tuple[Piece, ...]:
    """Look-up in the vocabulary's shard (and the learned positions), summed over tp. Backward the gradient is added
    to the rows of its tokens, in the gradient's format."""
    width = s.tokens * model.hidden
    rows = 2 if model.learned_positions else 1
    backward_bytes = (BYTES + 2 * s.grad_bytes) * width * rows
    lookup = Pointwise("embedding", BYTES * (rows + 1) * width, backward_bytes, "embedding", "gather")
    masked = (dropout("embedding dropout", s.tokens_sp * model.hidden),) if s.dropout > 0 else ()
    return (lookup, *scatter_tokens(s, model.hidden), *masked)


def mtp_layer(model: Model, s: Shapes) -> tuple[Piece, ...]:
    """A module of multi-token prediction between the embedding and the head that it shares: hidden states and embedding
    are normed and joined, projected from 2 h to h, and pass a layer like the model's last.

    Source: arXiv 2412.19437 section 2.2, equations 21 and 22. Over tp as in Megatron-Core (multi_token_prediction.py):
    the projection is column-parallel, its output is gathered, and sequence parallelism keeps a slice of the tokens.
    """
    width = s.tokens_sp * model.hidden
    moved_bytes = 2 * BYTES * 2 * width
    return (
        norm("mtp embedding norm", s.tokens_sp, model.hidden, s),
        norm("mtp hidden norm", s.tokens_sp, model.hidden, s),
        Pointwise("mtp concatenation", moved_bytes, moved_bytes),
        *column_parallel(s, "mtp projection", model.hidden // s.tp, 2 * model.hidden),
        *_gathered_output(s, model.hidden),
        *layer(model, s, model.num_layers - 1),
    )


def _gathered_output(s: Shapes, width: int) -> Iterator[Piece]:
    """The output of a column-parallel product, whole on every rank; of its tokens each keeps a slice under sequence
    parallelism, and the gradients of all slices are gathered."""
    if s.tp > 1:
        nbytes = float(BYTES * s.tokens * width)
        yield Exchange("tp", nbytes, "all_gather", "reduce_scatter")
        if s.is_sequence_parallel:
            yield Exchange("tp", nbytes, None, "all_gather")


def heads(model: Model, s: Shapes) -> tuple[Piece, ...]:
    """The head with its loss, once more for each module of multi-token prediction."""
    return (1 + model.mtp_layers) * head(model, s)


def head(model: Model, s: Shapes) -> tuple[Piece, ...]:
    """Final norm, logits, cross-entropy. Over a split vocabulary the loss reduces maximum, sum and target logit."""
    logits = s.tokens * s.vocab
    reduce = [Exchange("tp", 4 * s.tokens, "all_reduce", None)] * (1 if s.tp > 1 else 0)
    before, after, backward = LOSS_BYTES[s.kernels.cross_entropy]
    return (
        norm("final norm", s.tokens_sp, model.hidden, s),
        *_head_product(model, s),
        Pointwise("logit maximum", before * logits, 0.0, "head"),
        *reduce,
        Pointwise("cross-entropy", after * logits, backward * logits, "head"),
        *reduce,
        *reduce,
        Pointwise("loss", 4 * 4 * s.tokens, 4 * s.tokens, "head"),
    )


def _head_product(model: Model, s: Shapes) -> Iterator[Piece]:
    """Logits, in 16 bits whatever the layers' format, and whole (Megatron-LM's own layer)."""
    for piece in column_parallel(
        replace(s, recipe=None, format=s.format_16, tp_chunks=None), "head", s.vocab, model.hidden
    ):
        yield replace(piece, cause="head") if isinstance(piece, Linear) else piece
