"""What a transformer is: its shape, dense or mixture of experts."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from sim.spec.quantity import Count, Spec


class LatentAttention(Spec):
    """Multi-head latent attention (MLA): queries and keys/values through low-rank latents (arXiv 2405.04434)."""

    q_lora_rank: Count | None = None
    kv_lora_rank: Count
    qk_nope_head_dim: Count
    qk_rope_head_dim: Count
    v_head_dim: Count


class Experts(Spec):
    """The mixture of experts that replaces the dense MLP in MoE layers.

    shared_ffn_hidden: width of the MLP that every token meets (of all shared experts together).  shared_expert_gate: a
    scalar gate on its output (Qwen2-MoE).  router_bias: one number for each expert (DeepSeek-V3's balancing bias).
    expert_groups, group_limit: a token's experts lie in at most `group_limit` of as many groups of neighbours
    (DeepSeek's n_group and topk_group, arXiv 2412.19437 section 2.1.2).
    MoE layers: every `layer_stride`-th one after the first dense ones.
    """

    num_experts: Count
    top_k: Count
    ffn_hidden: Count
    shared_ffn_hidden: Annotated[int, Field(ge=0, strict=True)] = 0
    shared_expert_gate: bool = False
    router_bias: bool = False
    expert_groups: Count = 1
    group_limit: Count = 1
    first_dense_layers: Annotated[int, Field(ge=0, strict=True)] = 0
    layer_stride: Count = 1

    @model_validator(mode="after")
    def _fields_belong_together(self) -> Experts:
        if self.top_k > self.num_experts:
            raise ValueError(f"top_k = {self.top_k} exceeds num_experts = {self.num_experts}")
        if self.num_experts % self.expert_groups:
            raise ValueError(f"expert_groups = {self.expert_groups} does not divide num_experts = {self.num_experts}")
        reach = self.group_limit * (self.num_experts // self.expert_groups)
        if self.group_limit > self.expert_groups or reach < self.top_k:
            raise ValueError(
                f"group_limit = {self.group_limit} of expert_groups = {self.expert_groups} with {reach} experts "
                f"(allowed up to {self.expert_groups} groups, with top_k = {self.top_k} experts or more)"
            )
        if self.shared_expert_gate and not self.shared_ffn_hidden:
            raise ValueError("shared_expert_gate needs a shared_ffn_hidden")
        return self


class Model(Spec):
    """A decoder-only transformer. `ffn_hidden` is the dense MLP's width; an MoE layer's width is in `experts`.

    With `latent_attention` set (MLA), `head_dim` and `num_kv_heads` are not used by the layers. `mlp_bias` is of every
    MLP, experts too. `learned_positions` have `max_seq_len` rows; without them, positions are rotary.
    mtp_layers: modules of multi-token prediction, one after the other behind the last layer: each joins the hidden
    states with the embedding of the token after, runs a layer like the last one, and the shared head with a loss of its
    own (DeepSeek-V3, arXiv 2412.19437 section 2.2).
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
    mtp_layers: Annotated[int, Field(ge=0, strict=True)] = 0

    @model_validator(mode="after")
    def _fields_belong_together(self) -> Model:
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_heads = {self.num_heads} is no multiple of num_kv_heads = {self.num_kv_heads}")
        if self.latent_attention is not None and (self.qk_norm or self.qkv_bias):
            raise ValueError(
                "qk_norm and qkv_bias belong to attention without latent_attention, whose latents are normed"
            )
        return self

    def is_moe_layer(self, layer: int) -> bool:
        """Whether layer `layer` (from 0) holds experts: every `layer_stride`-th one after the first dense ones."""
        experts = self.experts
        if experts is None or layer < experts.first_dense_layers:
            return False
        return (layer - experts.first_dense_layers) % experts.layer_stride == experts.layer_stride - 1
