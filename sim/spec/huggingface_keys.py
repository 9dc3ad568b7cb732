"""Keys of Hugging Face configurations that give a model its shape, with the defaults of transformers 4.57.

One class for each `model_type`, as in src/transformers/models/<model_type>/configuration_<model_type>.py there.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, AliasChoices, BaseModel, ConfigDict, Field, model_validator

from sim.spec.quantity import Count

Flag = Annotated[bool, Field(strict=True)]
CountOrZero = Annotated[int, Field(ge=0, strict=True)]


def _full_attention(window: int | bool | None) -> int | bool | None:
    if window:
        raise ValueError("every token attends to the whole sequence here; set it to null (or false) if that is meant")
    return window


def _no_bias(flag: bool) -> bool:
    if flag:
        raise ValueError("latent attention has no biases here, allowed false")
    return flag


Window = Annotated[Count | None, AfterValidator(_full_attention)]


class Config(BaseModel):
    """Keys that are read of one model type; the others change no shape."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Decoder(Config):
    """What all but the GPTs share: RMSNorm, rotary positions, gated MLP."""

    vocab_size: Count = 32000
    hidden_size: Count = 4096
    intermediate_size: Count = 11008
    num_hidden_layers: Count = 32
    num_attention_heads: Count = 32
    num_key_value_heads: Count | None = None
    head_dim: Count | None = None
    max_position_embeddings: Count = 2048
    tie_word_embeddings: Flag = False


class Llama(Decoder):
    """LlamaConfig."""

    attention_bias: Flag = False
    mlp_bias: Flag = False


class Mistral(Decoder):
    """MistralConfig."""

    intermediate_size: Count = 14336
    num_key_value_heads: Count | None = 8
    max_position_embeddings: Count = 131072
    sliding_window: Window = Field(default=4096, validate_default=True)


class Mixtral(Mistral):
    """MixtralConfig; `intermediate_size` is an expert's."""

    sliding_window: Window = None
    num_local_experts: Count = 8
    num_experts_per_tok: Count = 2


class Qwen(Decoder):
    """Qwen2Config, and what the other Qwens share."""

    vocab_size: Count = 151936
    intermediate_size: Count = 22016
    num_key_value_heads: Count | None = 32
    max_position_embeddings: Count = 32768
    use_sliding_window: Annotated[Flag, AfterValidator(_full_attention)] = False


class Qwen3(Qwen):
    """Qwen3Config."""

    head_dim: Count | None = 128
    attention_bias: Flag = False


class QwenMoe(Qwen):
    """What both mixtures of experts share."""

    hidden_size: Count = 2048
    num_hidden_layers: Count = 24
    decoder_sparse_step: Count = 1
    mlp_only_layers: tuple[CountOrZero, ...] | None = None


class Qwen2Moe(QwenMoe):
    """Qwen2MoeConfig."""

    intermediate_size: Count = 5632
    num_attention_heads: Count = 16
    num_key_value_heads: Count | None = 16
    num_experts: Count = 60
    num_experts_per_tok: Count = 4
    moe_intermediate_size: Count = 1408
    shared_expert_intermediate_size: Count = 5632
    qkv_bias: Flag = True


class Qwen3Moe(QwenMoe):
    """Qwen3MoeConfig."""

    intermediate_size: Count = 6144
    num_key_value_heads: Count | None = 4
    num_experts: Count = 128
    num_experts_per_tok: Count = 8
    moe_intermediate_size: Count = 768
    attention_bias: Flag = False


class Deepseek(Decoder):
    """What DeepSeek-V2 and V3 share; `num_key_value_heads` means nothing under latent attention."""

    q_lora_rank: CountOrZero | None = 1536
    kv_lora_rank: Count = 512
    qk_nope_head_dim: Count = 128
    qk_rope_head_dim: Count = 64
    v_head_dim: Count = 128
    attention_bias: Annotated[Flag, AfterValidator(_no_bias)] = False
    n_routed_experts: Count | None = 64
    n_shared_experts: CountOrZero | None = 2
    num_experts_per_tok: Count | None = None
    moe_intermediate_size: Count = 1407
    first_k_dense_replace: CountOrZero = 0
    moe_layer_freq: Annotated[int, Field(ge=1, le=1, strict=True)] = 1
    n_group: Count | None = None
    topk_group: Count | None = None

    @model_validator(mode="after")
    def _experts_have_a_top_k(self) -> Deepseek:
        if self.n_routed_experts is not None and self.num_experts_per_tok is None:
            raise ValueError("num_experts_per_tok is missing, needed with n_routed_experts")
        return self


class DeepseekV2(Deepseek):
    """DeepseekV2Config. `n_group` counts with `topk_method` group_limited_greedy alone."""

    mlp_bias: Flag = False
    topk_method: str = "greedy"


class DeepseekV3(Deepseek):
    """DeepseekV3Config."""

    vocab_size: Count = 129280
    hidden_size: Count = 7168
    intermediate_size: Count = 18432
    num_hidden_layers: Count = 61
    num_attention_heads: Count = 128
    max_position_embeddings: Count = 4096
    n_routed_experts: Count | None = 256
    n_shared_experts: CountOrZero | None = 1
    num_experts_per_tok: Count | None = 8
    moe_intermediate_size: Count = 2048
    first_k_dense_replace: CountOrZero = 3
    n_group: Count | None = 8
    topk_group: Count | None = 4
    num_nextn_predict_layers: CountOrZero = 0


class GptNeox(Config):
    """GPTNeoXConfig."""

    vocab_size: Count = 50432
    hidden_size: Count = 6144
    intermediate_size: Count = 24576
    num_hidden_layers: Count = 44
    num_attention_heads: Count = 64
    max_position_embeddings: Count = 2048
    tie_word_embeddings: Flag = False
    attention_bias: Flag = True


class Gpt2(Config):
    """GPT2Config; it reads the other types' names too (its `attribute_map`)."""

    vocab_size: Count = 50257
    n_positions: Count = Field(default=1024, validation_alias=AliasChoices("n_positions", "max_position_embeddings"))
    n_embd: Count = Field(default=768, validation_alias=AliasChoices("n_embd", "hidden_size"))
    n_layer: Count = Field(default=12, validation_alias=AliasChoices("n_layer", "num_hidden_layers"))
    n_head: Count = Field(default=12, validation_alias=AliasChoices("n_head", "num_attention_heads"))
    n_inner: Count | None = None
    tie_word_embeddings: Flag = True
