"""Model FLOPs: what a training step must compute, by term, whatever the hardware recomputes or pads.

A product (m, k) x (k, n) is 2 m n k FLOPs. The embedding is a look-up and counts nothing; norms, activations, rotary
embedding and softmax are left out, as in every published convention (below 1 % of the whole for hidden >= 4096).
"""

from __future__ import annotations

from sim.spec.model import LatentAttention, Model

ATTENTION_SCORES = "attention_scores"
"""The term that a causal mask halves."""


def forward_flop_by_term(model: Model, seq_len: int) -> dict[str, float]:
    """FLOPs of the forward pass over one sequence of `seq_len` tokens, all layers, by term.

    qkv: projections of queries, keys and values (with MLA down and up).  attention_scores: q x k and scores x v over
    the full seq_len x seq_len square.  attention_out: output projection.  mlp: dense MLPs.  router, experts, shared:
    of MoE layers, where a token meets top_k experts.  head: logits.  mtp_projection: of multi-token prediction, whose
    layers and logits are in the other terms, for all tokens of the sequence (the last ones have no target).

    Source: PaLM, arXiv 2204.02311, appendix B: with N the weights of all products (the head in, the embedding look-up
    out), forward is 2 N + 4 L H Q T per token, where L layers have H heads of dim Q over T tokens. With MLA 4 Q becomes
    2 (qk + v) with qk = qk_nope_head_dim + qk_rope_head_dim. MoE: N has only the experts that a token meets.

    >>> gpt = Model(name="toy", num_layers=1, hidden=2, num_heads=1, num_kv_heads=1, head_dim=2, ffn_hidden=8,
    ...             gated_mlp=False, vocab=10, tied_embeddings=True, max_seq_len=3)
    >>> forward_flop_by_term(gpt, 3)["qkv"], forward_flop_by_term(gpt, 3)["attention_scores"]
    (72.0, 72.0)
    """
    kinds = [model.is_moe_layer(layer) for layer in range(model.num_layers)]
    kinds += kinds[-1:] * model.mtp_layers
    num_layers, moe_layers = len(kinds), sum(kinds)
    layers = {term: num_layers * weights for term, weights in _attention_weights(model).items()}
    weights_by_term = layers | {"mlp": (num_layers - moe_layers) * _mlp_weights(model, model.ffn_hidden)}
    weights_by_term |= {term: moe_layers * weights for term, weights in _moe_weights(model).items()}
    weights_by_term["head"] = (1 + model.mtp_layers) * model.vocab * model.hidden
    weights_by_term["mtp_projection"] = model.mtp_layers * 2 * model.hidden**2
    flop_by_term = {term: 2.0 * seq_len * weights for term, weights in weights_by_term.items()}
    flop_by_term[ATTENTION_SCORES] = 2.0 * seq_len**2 * num_layers * model.num_heads * _score_dims(model)
    return flop_by_term


def model_flop(model: Model, seq_len: int, *, causal: bool) -> float:
    """FLOPs of the forward and backward pass over one sequence: 3 x forward, nothing recomputed.

    The backward pass has two products, for the input's and the weight's gradient, for each one of the forward pass.
    `causal` counts half of the score and value products, else the full square.

    With full attention that is (6 N + 12 L H Q T) T, PaLM's definition of MFU (arXiv 2204.02311, appendix B). For a GPT
    with ungated MLP of width 4 h it is 72 s l h^2 (1 + s / (6 h) + V / (12 l h)): Narayanan et al. 2021, arXiv
    2104.04473, section 5.1, whose 96 s l h^2 (1 + s / (6 h) + V / (16 l h)) holds a second forward pass of the layers.
    The rule 6 N leaves attention out: at 8,192 tokens that is 22 % of Llama-3.1-8B. Half attention is what Megatron-LM
    counts today (megatron/training/training.py).
    """
    flop_by_term = forward_flop_by_term(model, seq_len)
    if causal:
        flop_by_term[ATTENTION_SCORES] /= 2
    return 3 * sum(flop_by_term.values())


def _attention_weights(model: Model) -> dict[str, int]:
    """Weights of the products of one attention layer."""
    mla = model.latent_attention
    if mla is not None:
        return {"qkv": _latent_weights(model, mla), "attention_out": model.num_heads * mla.v_head_dim * model.hidden}
    heads = model.num_heads + 2 * model.num_kv_heads
    out = model.num_heads * model.head_dim * model.hidden
    return {"qkv": model.hidden * heads * model.head_dim, "attention_out": out}


def _latent_weights(model: Model, mla: LatentAttention) -> int:
    """Products down to the latents and up to the heads (DeepSeek-V2, arXiv 2405.04434, section 2.1).

    As trained: keys and values are expanded, not absorbed into queries and output as at inference.
    """
    q_width = model.num_heads * (mla.qk_nope_head_dim + mla.qk_rope_head_dim)
    kv_width = model.num_heads * (mla.qk_nope_head_dim + mla.v_head_dim)
    rank = mla.q_lora_rank
    q = model.hidden * q_width if rank is None else rank * (model.hidden + q_width)
    return q + model.hidden * (mla.kv_lora_rank + mla.qk_rope_head_dim) + mla.kv_lora_rank * kv_width


def _score_dims(model: Model) -> int:
    """Head dims of the two products of attention: of queries and keys, and of values."""
    mla = model.latent_attention
    if mla is None:
        return 2 * model.head_dim
    return mla.qk_nope_head_dim + mla.qk_rope_head_dim + mla.v_head_dim


def _mlp_weights(model: Model, width: int) -> int:
    return (3 if model.gated_mlp else 2) * model.hidden * width


def _moe_weights(model: Model) -> dict[str, int]:
    """Weights that one token meets in an MoE layer."""
    experts = model.experts
    if experts is None:
        return {"router": 0, "experts": 0, "shared": 0}
    gate = model.hidden if experts.shared_expert_gate else 0
    return {
        "router": model.hidden * experts.num_experts,
        "experts": experts.top_k * _mlp_weights(model, experts.ffn_hidden),
        "shared": _mlp_weights(model, experts.shared_ffn_hidden) + gate,
    }
