"""How many parameters a model has, by term, and which of them tensor and expert parallelism divide.

Counts are of the unsharded model without vocabulary padding. They equal the number of elements in the Hugging Face
checkpoint (without its second copy of what multi-token prediction shares); rotary embeddings have none.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from sim.spec.model import Experts, LatentAttention, Model


@dataclass(frozen=True)
class LayerParameters:
    """Parameters of one layer, unsharded, by term and by what divides them (as Megatron-Core places them).

    attention_q_out: divided by tp. Query and output projection; with MLA the up-projections and the output.
    attention_kv: divided by min(tp, num_kv_heads): a rank has one head or more. Key and value projection.
    attention_replicated: on every rank of a tensor-parallel group. MLA's down-projections and the norms of its latents,
        the norms of queries and keys, the output projection's bias (added after the reduction).
    dense_mlp_sharded, shared_sharded: divided by tp. Up, gate and down projection, the bias of the first two.
    dense_mlp_replicated, shared_replicated: the down projection's bias; the shared expert's gate.
    router: replicated over tp and ep.
    experts_sharded: divided by ep x etp, all experts together.
    experts_replicated: divided by ep only. The down projection's bias of every expert.
    norms: replicated. The norms before attention and before the MLP.
    """

    attention_q_out: int
    attention_kv: int
    attention_replicated: int
    norms: int
    dense_mlp_sharded: int = 0
    dense_mlp_replicated: int = 0
    router: int = 0
    experts_sharded: int = 0
    experts_replicated: int = 0
    shared_sharded: int = 0
    shared_replicated: int = 0

    @property
    def attention_sharded(self) -> int:
        """What tp divides of attention, as long as it does not exceed the kv heads."""
        return self.attention_q_out + self.attention_kv

    @property
    def attention(self) -> int:
        """Attention without the norm before it."""
        return self.attention_sharded + self.attention_replicated

    @property
    def dense_mlp(self) -> int:
        """The dense MLP; 0 in an MoE layer."""
        return self.dense_mlp_sharded + self.dense_mlp_replicated

    @property
    def experts(self) -> int:
        """All routed experts."""
        return self.experts_sharded + self.experts_replicated

    @property
    def shared(self) -> int:
        """The shared expert and its gate."""
        return self.shared_sharded + self.shared_replicated

    @property
    def tensor_sharded(self) -> int:
        """What tp divides, whatever it is: all but `attention_kv`."""
        return self.attention_q_out + self.dense_mlp_sharded + self.shared_sharded

    @property
    def replicated(self) -> int:
        """What every rank of a tensor-parallel group holds whole."""
        return self.attention_replicated + self.dense_mlp_replicated + self.shared_replicated + self.router + self.norms

    @property
    def total(self) -> int:
        """All of the layer."""
        return sum(getattr(self, field.name) for field in fields(self))


@dataclass(frozen=True)
class Parameters:
    """Parameters of the whole model by term; layers are summed.

    head: 0 where it is tied to the embedding.  mtp: modules of multi-token prediction, without the embedding and the
    head that they share.  active_experts, active_mtp: those of `experts` and `mtp` that one token meets.
    Tensor parallelism divides `embedding` and `head` over the vocabulary; learned positions and norms are replicated.
    """

    embedding: int
    learned_positions: int
    attention: int
    dense_mlp: int
    router: int
    experts: int
    shared: int
    norms: int
    final_norm: int
    head: int
    mtp: int
    active_experts: int
    active_mtp: int

    @property
    def total(self) -> int:
        """Every parameter once."""
        return sum(self.by_term.values())

    @property
    def active(self) -> int:
        """What one token meets: top-k experts instead of all; both embeddings are counted."""
        return self.total - self.experts + self.active_experts - self.mtp + self.active_mtp

    @property
    def by_term(self) -> dict[str, int]:
        """Parameters by term, in the order of the forward pass; they add up to `total`."""
        return {field.name: getattr(self, field.name) for field in fields(self) if not field.name.startswith("active_")}


def parameters(model: Model) -> Parameters:
    """Parameters of `model` by term.

    For a GPT with biases, layer norms, ungated MLP of width 4 h and tied embeddings the total without the final norm is
    12 l h^2 (1 + 13 / (12 h) + (V + s) / (12 l h)). Source: Narayanan et al. 2021, arXiv 2104.04473, section 5.1 (which
    leaves out the final norm's 2 h).
    """
    layers = [layer_parameters(model, layer) for layer in range(model.num_layers)]
    experts = sum(layer.experts for layer in layers)
    mtp = layers[-1].total + mtp_dense_parameters(model)
    return Parameters(
        embedding=model.vocab * model.hidden,
        learned_positions=model.max_seq_len * model.hidden if model.learned_positions else 0,
        attention=sum(layer.attention for layer in layers),
        dense_mlp=sum(layer.dense_mlp for layer in layers),
        router=sum(layer.router for layer in layers),
        experts=experts,
        shared=sum(layer.shared for layer in layers),
        norms=sum(layer.norms for layer in layers),
        final_norm=norm_parameters(model, model.hidden),
        head=0 if model.tied_embeddings else model.vocab * model.hidden,
        mtp=model.mtp_layers * mtp,
        active_experts=_active(model, experts),
        active_mtp=model.mtp_layers * (mtp - layers[-1].experts + _active(model, layers[-1].experts)),
    )


def _active(model: Model, experts: int) -> int:
    """Of the parameters of all experts, those of the top-k."""
    return 0 if model.experts is None else experts // model.experts.num_experts * model.experts.top_k


def mtp_dense_parameters(model: Model) -> int:
    """A module of multi-token prediction without its layer: the norms of hidden states, of the embedding and before the
    head, and the projection of both together, (2 hidden, hidden), without a bias.

    Source: DeepSeek-V3, arXiv 2412.19437, section 2.2 (enorm, hnorm, eh_proj and shared_head.norm of its checkpoint).
    """
    return 3 * norm_parameters(model, model.hidden) + 2 * model.hidden**2


def layer_parameters(model: Model, layer: int) -> LayerParameters:
    """Parameters of layer `layer` (from 0)."""
    assert 0 <= layer < model.num_layers, f"layer {layer} of {model.num_layers}"
    mla = model.latent_attention
    terms = _grouped_query(model) if mla is None else _latent(model, mla)
    terms["attention_replicated"] += model.hidden if model.attention_out_bias else 0
    terms["norms"] = 2 * norm_parameters(model, model.hidden)
    if model.experts is not None and model.is_moe_layer(layer):
        terms |= _moe(model, model.experts)
    else:
        terms["dense_mlp_sharded"], terms["dense_mlp_replicated"] = _mlp(model, model.ffn_hidden)
    return LayerParameters(**terms)


def norm_parameters(model: Model, width: int) -> int:
    """RMSNorm has a weight for each of `width` channels, LayerNorm a bias too."""
    return width if model.norm == "rmsnorm" else 2 * width


def _grouped_query(model: Model) -> dict[str, int]:
    """Query and output projection (hidden, heads x head_dim); keys and values (hidden, kv heads x head_dim) each."""
    rows = model.hidden + (1 if model.qkv_bias else 0)
    q_width = model.num_heads * model.head_dim
    kv_width = model.num_kv_heads * model.head_dim
    qk_norms = 2 * norm_parameters(model, model.head_dim) if model.qk_norm else 0
    return {
        "attention_q_out": rows * q_width + q_width * model.hidden,
        "attention_kv": 2 * rows * kv_width,
        "attention_replicated": qk_norms,
    }


def _latent(model: Model, mla: LatentAttention) -> dict[str, int]:
    """Latents of queries and keys/values with their norms, and the up-projections by head.

    Source: DeepSeek-V2, arXiv 2405.04434, section 2.1; without a query latent, queries are projected directly.
    """
    h, heads = model.hidden, model.num_heads
    q_width = heads * (mla.qk_nope_head_dim + mla.qk_rope_head_dim)
    replicated = h * (mla.kv_lora_rank + mla.qk_rope_head_dim) + norm_parameters(model, mla.kv_lora_rank)
    if mla.q_lora_rank is None:
        sharded = h * q_width
    else:
        replicated += h * mla.q_lora_rank + norm_parameters(model, mla.q_lora_rank)
        sharded = mla.q_lora_rank * q_width
    sharded += mla.kv_lora_rank * heads * (mla.qk_nope_head_dim + mla.v_head_dim)
    sharded += heads * mla.v_head_dim * h
    return {"attention_q_out": sharded, "attention_kv": 0, "attention_replicated": replicated}


def _mlp(model: Model, width: int) -> tuple[int, int]:
    """An MLP of `width`: what tp divides, and what it does not (the down projection's bias)."""
    ups = 2 if model.gated_mlp else 1
    if not model.mlp_bias:
        return (ups + 1) * model.hidden * width, 0
    return (ups + 1) * model.hidden * width + ups * width, model.hidden


def _moe(model: Model, experts: Experts) -> dict[str, int]:
    sharded, replicated = _mlp(model, experts.ffn_hidden)
    terms = {
        "router": experts.num_experts * (model.hidden + (1 if experts.router_bias else 0)),
        "experts_sharded": experts.num_experts * sharded,
        "experts_replicated": experts.num_experts * replicated,
    }
    if experts.shared_ffn_hidden:
        terms["shared_sharded"], terms["shared_replicated"] = _mlp(model, experts.shared_ffn_hidden)
        terms["shared_replicated"] += model.hidden if experts.shared_expert_gate else 0
    return terms
