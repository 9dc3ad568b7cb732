"""A `Model` from a Hugging Face `config.json`, dispatched on its `model_type`.

Keys, defaults and biases are those of transformers 4.57 (src/transformers/models/<model_type>/): a missing key has its
class's default, as it has there. Keys that change no shape (dropout, initialisation, rotary scaling, token ids) are not
read. Multi-token prediction (`num_nextn_predict_layers`, which transformers leaves out) is read of DeepSeek-V3.
GPT-NeoX's parallel residual has the parameters and FLOPs of a serial one and is taken as that.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from pydantic import ValidationError

from sim.errors import Problem, SimError
from sim.registry import unknown
from sim.spec.huggingface_keys import (
    Config,
    Decoder,
    Deepseek,
    DeepseekV2,
    DeepseekV3,
    Gpt2,
    GptNeox,
    Llama,
    Mistral,
    Mixtral,
    Qwen,
    Qwen2Moe,
    Qwen3,
    Qwen3Moe,
    QwenMoe,
)
from sim.spec.mistakes import worded
from sim.spec.model import Experts, LatentAttention, Model

Fields = dict[str, Any]
"""Arguments of `Model`, apart from its name."""


def _decoder(config: Decoder) -> Fields:
    heads = config.num_attention_heads
    return {
        "num_layers": config.num_hidden_layers,
        "hidden": config.hidden_size,
        "num_heads": heads,
        "num_kv_heads": config.num_key_value_heads or heads,
        "head_dim": config.head_dim or _head_dim(config.hidden_size, heads),
        "ffn_hidden": config.intermediate_size,
        "gated_mlp": True,
        "vocab": config.vocab_size,
        "tied_embeddings": config.tie_word_embeddings,
        "max_seq_len": config.max_position_embeddings,
        "norm": "rmsnorm",
    }


def _head_dim(hidden: int, heads: int) -> int:
    if hidden % heads:
        raise SimError(f"hidden size {hidden} is no multiple of {heads} attention heads, and head_dim is not given")
    return hidden // heads


def _biases(flag: bool) -> Fields:
    return {"qkv_bias": flag, "attention_out_bias": flag}


def _llama(config: Llama) -> Fields:
    return _decoder(config) | _biases(config.attention_bias) | {"mlp_bias": config.mlp_bias}


def _mixtral(config: Mixtral) -> Fields:
    experts = Experts(
        num_experts=config.num_local_experts, top_k=config.num_experts_per_tok, ffn_hidden=config.intermediate_size
    )
    return _decoder(config) | {"experts": experts}


def _qwen2(config: Qwen) -> Fields:
    return _decoder(config) | {"qkv_bias": True}


def _qwen3(config: Qwen3) -> Fields:
    return _decoder(config) | _biases(config.attention_bias) | {"qk_norm": True}


def _qwen2_moe(config: Qwen2Moe) -> Fields:
    experts = Experts(
        num_experts=config.num_experts,
        top_k=config.num_experts_per_tok,
        ffn_hidden=config.moe_intermediate_size,
        shared_ffn_hidden=config.shared_expert_intermediate_size,
        shared_expert_gate=True,
        first_dense_layers=_first_dense_layers(config),
        layer_stride=config.decoder_sparse_step,
    )
    return _decoder(config) | {"qkv_bias": config.qkv_bias, "experts": experts}


def _qwen3_moe(config: Qwen3Moe) -> Fields:
    experts = Experts(
        num_experts=config.num_experts,
        top_k=config.num_experts_per_tok,
        ffn_hidden=config.moe_intermediate_size,
        first_dense_layers=_first_dense_layers(config),
        layer_stride=config.decoder_sparse_step,
    )
    return _decoder(config) | _biases(config.attention_bias) | {"qk_norm": True, "experts": experts}


def _first_dense_layers(config: QwenMoe) -> int:
    """Number of first layers that `mlp_only_layers` keeps dense.

    Layer i holds experts where it is not in that list and (i + 1) % decoder_sparse_step == 0, which a `Model` says only
    for a list 0, 1, ..., k - 1 with k a multiple of the step.
    """
    dense = sorted(config.mlp_only_layers or ())
    if dense != list(range(len(dense))) or len(dense) % config.decoder_sparse_step:
        raise SimError(
            Problem(
                f"got {dense} with decoder_sparse_step {config.decoder_sparse_step}, allowed none or the first layers, "
                "as many as a multiple of the step",
                path="mlp_only_layers",
            )
        )
    return len(dense)


def _deepseek(config: Deepseek) -> Fields:
    mla = LatentAttention(
        q_lora_rank=config.q_lora_rank or None,
        kv_lora_rank=config.kv_lora_rank,
        qk_nope_head_dim=config.qk_nope_head_dim,
        qk_rope_head_dim=config.qk_rope_head_dim,
        v_head_dim=config.v_head_dim,
    )
    experts = None
    if config.n_routed_experts is not None:
        assert config.num_experts_per_tok is not None
        is_grouped = not isinstance(config, DeepseekV2) or config.topk_method == "group_limited_greedy"
        experts = Experts(
            num_experts=config.n_routed_experts,
            top_k=config.num_experts_per_tok,
            ffn_hidden=config.moe_intermediate_size,
            shared_ffn_hidden=(config.n_shared_experts or 0) * config.moe_intermediate_size,
            router_bias=isinstance(config, DeepseekV3),
            expert_groups=(config.n_group or 1) if is_grouped else 1,
            group_limit=(config.topk_group or 1) if is_grouped else 1,
            first_dense_layers=config.first_k_dense_replace,
        )
    latent = config.model_copy(
        update={
            "num_key_value_heads": config.num_attention_heads,
            "head_dim": config.qk_nope_head_dim + config.qk_rope_head_dim,
        }
    )
    bias = isinstance(config, DeepseekV2) and config.mlp_bias
    mtp_layers = config.num_nextn_predict_layers if isinstance(config, DeepseekV3) else 0
    parts = {"latent_attention": mla, "experts": experts, "mlp_bias": bias, "mtp_layers": mtp_layers}
    return _decoder(latent) | parts


def _gpt(layers: int, hidden: int, heads: int, *, vocab: int, is_tied: bool) -> Fields:
    return {
        "num_layers": layers,
        "hidden": hidden,
        "num_heads": heads,
        "num_kv_heads": heads,
        "head_dim": _head_dim(hidden, heads),
        "gated_mlp": False,
        "vocab": vocab,
        "tied_embeddings": is_tied,
        "norm": "layernorm",
        "mlp_bias": True,
    }


def _gpt_neox(config: GptNeox) -> Fields:
    shape = _gpt(
        config.num_hidden_layers,
        config.hidden_size,
        config.num_attention_heads,
        vocab=config.vocab_size,
        is_tied=config.tie_word_embeddings,
    )
    sizes = {"ffn_hidden": config.intermediate_size, "max_seq_len": config.max_position_embeddings}
    return shape | sizes | _biases(config.attention_bias)


def _gpt2(config: Gpt2) -> Fields:
    shape = _gpt(
        config.n_layer, config.n_embd, config.n_head, vocab=config.vocab_size, is_tied=config.tie_word_embeddings
    )
    sizes = {"ffn_hidden": config.n_inner or 4 * config.n_embd, "max_seq_len": config.n_positions}
    return shape | sizes | _biases(True) | {"learned_positions": True}


class _ModelType(NamedTuple):
    config: type[Config]
    fields: Callable[[Any], Fields]


MODEL_TYPES: dict[str, _ModelType] = {
    "llama": _ModelType(Llama, _llama),
    "mistral": _ModelType(Mistral, _decoder),
    "mixtral": _ModelType(Mixtral, _mixtral),
    "qwen2": _ModelType(Qwen, _qwen2),
    "qwen3": _ModelType(Qwen3, _qwen3),
    "qwen2_moe": _ModelType(Qwen2Moe, _qwen2_moe),
    "qwen3_moe": _ModelType(Qwen3Moe, _qwen3_moe),
    "deepseek_v2": _ModelType(DeepseekV2, _deepseek),
    "deepseek_v3": _ModelType(DeepseekV3, _deepseek),
    "gpt_neox": _ModelType(GptNeox, _gpt_neox),
    "gpt2": _ModelType(Gpt2, _gpt2),
}
"""What can be read, by the `model_type` of the file."""

INFERENCE_KEYS = frozenset({"dim", "n_layers", "n_heads", "inter_dim"})
"""Keys of the authors' own inference code (DeepSeek's config_671B.json, Meta's params.json)."""


def model_from_config(config: dict[str, Any], name: str) -> Model:
    """The model that a Hugging Face `config.json` describes. A multimodal one is described by its `text_config`.

    Raises SimError for a model type that is not known, for values that are wrong or missing (all of them, by key), and
    for what a `Model` cannot say: sliding windows, dense layers among MoE layers other than the first or at a stride.

    >>> model_from_config({"model_type": "gpt2", "n_layer": 24, "n_embd": 1024, "n_head": 16}, "gpt2-medium").ffn_hidden
    4096
    """
    inner = config.get("text_config")
    if isinstance(inner, dict):
        outer = {key: config[key] for key in config if key in ("model_type", "tie_word_embeddings")}
        config = outer | inner
    model_type = MODEL_TYPES[_type_name(config)]
    _refuse_misspelt(config, model_type.config)
    try:
        return Model(name=name, **model_type.fields(model_type.config.model_validate(config)))
    except ValidationError as error:
        raise SimError([_problem(details) for details in error.errors()]) from error


def _type_name(config: Mapping[str, Any]) -> str:
    name = config.get("model_type")
    if isinstance(name, str) and name in MODEL_TYPES:
        return name
    if name is not None:
        raise SimError(Problem(unknown("model type", str(name), list(MODEL_TYPES)), path="model_type"))
    hint = ""
    if found := sorted(INFERENCE_KEYS & config.keys()):
        hint = f"; {', '.join(found)} are keys of inference code: take config.json of the Hugging Face repository"
    raise SimError(Problem(f"missing (allowed {', '.join(MODEL_TYPES)}){hint}", path="model_type"))


def _refuse_misspelt(config: Mapping[str, Any], known: type[Config]) -> None:
    """Other keys are not read, so a misspelt one would silently leave the default in place."""
    missing = [key for key in known.model_fields if key not in config]
    close = {key: difflib.get_close_matches(key, missing, n=1, cutoff=0.9) for key in map(str, config)}
    problems = [
        Problem(f"unknown key, did you mean {meant[0]!r}?", path=key)
        for key, meant in close.items()
        if meant and key not in known.model_fields
    ]
    if problems:
        raise SimError(problems)


def _problem(details: Any) -> Problem:
    """A mistake as pydantic reports it; those that span several keys name them in their message."""
    if not details["loc"]:
        return Problem(details["msg"].removeprefix("Value error, "))
    return Problem(worded(details), path=str(details["loc"][0]))
