"""What a transformer is: its shape, dense or mixture of experts."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sim.spec.quantity import Count, Spec


class LatentAttention(Spec):
    """Multi-head latent attention (MLA): queries and keys/values through low-rank latents (arXiv 2405.04434)."""

    q_lora_rank: Count | None = None
    kv_lora_rank: Count
    qk_nope_head_dim: Count
    qk_rope_head_dim: Count
    v_head_dim: Count


class Experts(Spec):
    """The mixture of experts that replaces the dense MLP in MoE layers."""

    num_experts: Count
    top_k: Count
    ffn_hidden: Count
    shared_ffn_hidden: Annotated[int, Field(ge=0, strict=True)] = 0
    shared_expert_gate: bool = False
    router_bias: bool = False
    first_dense_layers: Annotated[int, Field(ge=0, strict=True)] = 0
    layer_stride: Count = 1


class Model(Spec):
    """A decoder-only transformer. `ffn_hidden` is the dense MLP's width; an MoE layer's width is in `experts`.

    With `attention` set (MLA), `head_dim` and `num_kv_heads` are not used by the layers.
    """

    name: str
    num_layers: Count
    hidden: Count
    num_heads: Count
    num_kv_heads: Count
    head_dim: Count
    ffn_hidden: Count
    gated_mlp: bool
    vocab: Count
    tied_embeddings: bool
    max_seq_len: Count
    learned_positions: bool = False
    norm: Literal["rmsnorm", "layernorm"] = "rmsnorm"
    qkv_bias: bool = False
    attention_out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    latent_attention: LatentAttention | None = None
    experts: Experts | None = None

    def is_moe_layer(self, layer: int) -> bool:
        """Whether layer `layer` (from 0) holds experts: every `layer_stride`-th one after the first dense ones."""
        experts = self.experts
        if experts is None or layer < experts.first_dense_layers:
            return False
        return (layer - experts.first_dense_layers) % experts.layer_stride == experts.layer_stride - 1
