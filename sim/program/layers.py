"""The pieces of a transformer: attention (grouped-query or latent), dense MLP, experts, embedding, head.

Bytes of memory-bound kernels count every tensor that is read or written once, 2 bytes an element: a norm reads and
writes its input, a residual addition reads two tensors and writes one; backward they read the gradient too. They add
up to 20 h forward and 24 h backward per token and layer, as measured on RMSNorm stacks. Dropout is not modelled.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from sim.cost.kernels import Attention
from sim.program.pieces import Core, Exchange, Linear, Piece, Pointwise
from sim.program.shapes import BYTES, Shapes
from sim.spec.model import Experts, LatentAttention, Model

CAUSAL_FRAC = 0.5
"""Share of the scores under a causal mask; with context parallelism each rank takes a head and a tail chunk of the
sequence, so that every rank has the same half (Llama 3, arXiv 2407.21783 section 3.3.2)."""

MAXIMUM_BYTES = 10
FORWARD_LOSS_BYTES = 24
BACKWARD_LOSS_BYTES = 16
"""Per logit: Megatron-LM's vocab-parallel cross-entropy. The cast to fp32 (6) and the maximum (4); then subtraction,
exponential, sum and division, each over fp32 logits (24); backward the gradient in place and its cast (16)."""


def norm(name: str, tokens: int, width: int) -> Pointwise:
    """Reads and writes the input; backward reads the gradient and the input, writes the input's gradient."""
    return Pointwise(name, 2 * BYTES * tokens * width, 3 * BYTES * tokens * width)


def residual(tokens: int, width: int) -> Pointwise:
    """Reads both branches and writes the sum; backward adds the branch's gradient to the stream's."""
    return Pointwise("residual", 3 * BYTES * tokens * width, 3 * BYTES * tokens * width)


def gather_tokens(s: Shapes, width: int) -> Iterator[Piece]:
    """What precedes a column-parallel product: sequence parallelism gathers tokens (and scatters their gradient);
    plain tensor parallelism only reduces the gradient (Megatron's f and g, arXiv 1909.08053 and 2205.05198)."""
    if s.tp > 1:
        nbytes = BYTES * s.tokens * width
        if s.is_sequence_parallel:
            yield Exchange("tp", nbytes, "all_gather", "reduce_scatter", regathers=True)
        else:
            yield Exchange("tp", nbytes, None, "all_reduce")


def scatter_tokens(s: Shapes, width: int) -> Iterator[Piece]:
    """What follows a row-parallel product: its partial sums are reduced, and scattered under sequence parallelism."""
    if s.tp > 1:
        nbytes = BYTES * s.tokens * width
        if s.is_sequence_parallel:
            yield Exchange("tp", nbytes, "reduce_scatter", "all_gather")
        else:
            yield Exchange("tp", nbytes, "all_reduce", None)


def linear(s: Shapes, name: str, m: int, n: int, k: int) -> Linear:
    """A product in the training's number format."""
    return Linear(name, m, n, k, s.format, s.grad_bytes)


def attention(model: Model, s: Shapes) -> Iterator[Piece]:
    """Norm, projections, rotary embedding, attention, output projection, residual."""
    yield norm("attention norm", s.tokens_sp, model.hidden)
    if model.latent_attention is None:
        yield from _grouped_query(model, s)
        out_width = s.heads * model.head_dim
    else:
        yield from _latent(model, model.latent_attention, s)
        out_width = s.heads * model.latent_attention.v_head_dim
    yield linear(s, "attention out", s.tokens, model.hidden, out_width)
    yield from scatter_tokens(s, model.hidden)
    yield residual(s.tokens_sp, model.hidden)


def _grouped_query(model: Model, s: Shapes) -> Iterator[Piece]:
    q, kv = s.heads * model.head_dim, s.kv_heads * model.head_dim
    yield from gather_tokens(s, model.hidden)
    yield linear(s, "qkv", s.tokens, q + 2 * kv, model.hidden)
    if model.qk_norm:
        yield norm("qk norm", s.tokens, q + kv)
    if not model.learned_positions:
        yield Pointwise("rotary", 2 * BYTES * s.tokens * (q + kv), 2 * BYTES * s.tokens * (q + kv))
    yield from _core(s, s.kv_heads, model.head_dim, model.head_dim)


def _latent(model: Model, mla: LatentAttention, s: Shapes) -> Iterator[Piece]:
    """Down-projections work on each rank's own tokens; only the latents are gathered (Megatron-Core's MLA)."""
    qk_dim = mla.qk_nope_head_dim + mla.qk_rope_head_dim
    q_in = model.hidden
    if mla.q_lora_rank is None:
        yield from gather_tokens(s, model.hidden)
        yield linear(s, "q", s.tokens, s.heads * qk_dim, model.hidden)
    else:
        q_in = mla.q_lora_rank
        yield linear(s, "q down", s.tokens_sp, q_in, model.hidden)
        yield norm("q latent norm", s.tokens_sp, q_in)
        yield from gather_tokens(s, q_in)
        yield linear(s, "q up", s.tokens, s.heads * qk_dim, q_in)
    yield linear(s, "kv down", s.tokens_sp, mla.kv_lora_rank + mla.qk_rope_head_dim, model.hidden)
    yield norm("kv latent norm", s.tokens_sp, mla.kv_lora_rank)
    yield from gather_tokens(s, mla.kv_lora_rank + mla.qk_rope_head_dim)
    up_width = s.heads * (mla.qk_nope_head_dim + mla.v_head_dim)
    yield linear(s, "kv up", s.tokens, up_width, mla.kv_lora_rank)
    rotary_bytes = 2 * BYTES * s.tokens * s.heads * (qk_dim + mla.qk_rope_head_dim)
    yield Pointwise("rotary", rotary_bytes, rotary_bytes)
    yield from _core(s, s.heads, qk_dim, mla.v_head_dim)


def _core(s: Shapes, kv_heads: int, qk_head_dim: int, v_head_dim: int) -> Iterator[Piece]:
    """Attention itself. Under context parallelism, keys and values are gathered before it and their gradients
    scattered after its backward pass (Llama 3's all-gather form)."""
    if s.cp > 1:
        nbytes = BYTES * s.tokens * s.cp * kv_heads * (qk_head_dim + v_head_dim)
        yield Exchange("cp", nbytes, "all_gather", "reduce_scatter", regathers=True)
    forward = Attention(
        name="attention forward",
        batch=s.sequences,
        q_len=s.q_len,
        kv_len=s.kv_len,
        heads=s.heads,
        kv_heads=kv_heads,
        qk_head_dim=qk_head_dim,
        v_head_dim=v_head_dim,
        work_frac=CAUSAL_FRAC,
        is_backward=False,
        format=s.format,
    )
    yield Core(forward, replace(forward, name="attention backward", is_backward=True))


def dense_mlp(model: Model, s: Shapes) -> Iterator[Piece]:
    """Norm, up (and gate) projection, activation, down projection, residual."""
    yield norm("mlp norm", s.tokens_sp, model.hidden)
    yield from _mlp(model, s, "mlp", s.tokens, model.ffn_hidden // s.tp)
    yield residual(s.tokens_sp, model.hidden)


def _mlp(model: Model, s: Shapes, name: str, tokens: int, width: int) -> Iterator[Piece]:
    gates = 2 if model.gated_mlp else 1
    yield from gather_tokens(s, model.hidden)
    yield linear(s, f"{name} up", tokens, gates * width, model.hidden)
    yield _activation(tokens, width, gates)
    yield linear(s, f"{name} down", tokens, model.hidden, width)
    yield from scatter_tokens(s, model.hidden)


def _activation(tokens: int, width: int, gates: int) -> Pointwise:
    """Reads `gates` inputs and writes one; backward reads them and the gradient, writes their gradients."""
    forward_bytes = BYTES * tokens * width * (gates + 1)
    return Pointwise("activation", forward_bytes, BYTES * tokens * width * (2 * gates + 1))


def moe_mlp(model: Model, experts: Experts, s: Shapes) -> Iterator[Piece]:
    """Norm, router, shared expert, dispatch, grouped products, combine, residual. Tokens are spread evenly."""
    h = model.hidden
    yield norm("mlp norm", s.tokens_sp, h)
    yield linear(s, "router", s.tokens_sp, experts.num_experts, h)
    score_bytes = 4 * s.tokens_sp * experts.num_experts
    yield Pointwise("top-k", 3 * score_bytes, 3 * score_bytes)
    if experts.shared_ffn_hidden:
        yield from _mlp(model, s, "shared expert", s.tokens, experts.shared_ffn_hidden // s.tp)
    yield from _routed(model, experts, s)
    yield residual(s.tokens_sp, h)


def _routed(model: Model, experts: Experts, s: Shapes) -> Iterator[Piece]:
    """Every rank sends its tokens' top-k copies to the experts' ranks and gets their outputs back.

    Each of the ep x etp ranks holds num_experts / ep experts at 1 / etp of their width; an etp group gathers its
    members' tokens. Tokens for one expert: tokens_sp x top_k x ep x etp / num_experts.
    """
    h = model.hidden
    copies = s.tokens_sp * experts.top_k
    copy_bytes = BYTES * copies * h
    local_experts = experts.num_experts // s.ep
    tokens_per_expert = max(round(copies * s.etp / local_experts), 1)
    width = experts.ffn_hidden // s.etp
    gates = 2 if model.gated_mlp else 1
    yield Pointwise("permute", 2 * copy_bytes, 2 * copy_bytes)
    if s.ep > 1:
        yield Exchange("ep", copy_bytes, "all_to_all", "all_to_all")
    if s.etp > 1:
        yield Exchange("etp", copy_bytes * s.etp, "all_gather", "reduce_scatter")
    up = linear(s, "experts up", tokens_per_expert, gates * width, h)
    yield replace(up, count=local_experts)
    yield _activation(tokens_per_expert * local_experts, width, gates)
    yield replace(linear(s, "experts down", tokens_per_expert, h, width), count=local_experts)
    if s.etp > 1:
        yield Exchange("etp", copy_bytes * s.etp, "reduce_scatter", "all_gather")
    if s.ep > 1:
        yield Exchange("ep", copy_bytes, "all_to_all", "all_to_all")
    yield Pointwise("unpermute", 2 * copy_bytes, 2 * copy_bytes)


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
    lookup = Pointwise("embedding", BYTES * (rows + 1) * width, backward_bytes, "embedding")
    return (lookup, *scatter_tokens(s, model.hidden))


def head(model: Model, s: Shapes) -> tuple[Piece, ...]:
    """Final norm, logits, cross-entropy. Over a split vocabulary the loss reduces maximum, sum and target logit."""
    logits = s.tokens * s.vocab
    reduce = [Exchange("tp", 4 * s.tokens, "all_reduce", None)] * (1 if s.tp > 1 else 0)
    return (
        norm("final norm", s.tokens_sp, model.hidden),
        *gather_tokens(s, model.hidden),
        replace(linear(s, "head", s.tokens, s.vocab, model.hidden), cause="head"),
        Pointwise("logit maximum", MAXIMUM_BYTES * logits, 0.0, "head"),
        *reduce,
        Pointwise("cross-entropy", FORWARD_LOSS_BYTES * logits, BACKWARD_LOSS_BYTES * logits, "head"),
        *reduce,
        *reduce,
        Pointwise("loss", 4 * 4 * s.tokens, 4 * s.tokens, "head"),
    )
