"""The model of a row: its shape as published, and the family's habits where the source is silent."""

from __future__ import annotations

import re
from typing import Any

from sim.validation.draft import CannotSimulate, Draft

VOCABULARIES = {
    "qwen": 151936, "llama ?3": 128256, "llama ?2": 32000, "mixtral": 32000, "nemotron": 256000, "grok": 131072,
    "deepseek": 129280, "gpt.?oss": 201088,
}  # fmt: skip
"""By family, of the published tokenizers (Hugging Face configurations); `DEFAULT_VOCABULARY` for all others."""

DEFAULT_VOCABULARY = 50257
MLA = re.compile(r"q_lora(\d+),kv_lora(\d+),qk_nope(\d+),qk_rope(\d+),v(\d+)")
DEEPSEEK_V3_MLA = (1536, 512, 128, 64, 128)


def add_model(draft: Draft) -> None:
    """Put the model into the draft. Raises CannotSimulate where its shape is unknown, or not modelled."""
    run = draft.run
    if run.text("kind") == "hybrid":
        raise CannotSimulate("layers of state-space models (hybrid) are not modelled")
    hidden, heads = draft.needed("hidden", "the model's shape"), draft.needed("heads", "the model's shape")
    is_gated = run.flag("gated_mlp")
    if is_gated is None:
        is_gated = bool(run.count("num_experts"))
        draft.assume(f"{'gated' if is_gated else 'plain'} MLP (not stated)")
    is_gpt = not is_gated
    model: dict[str, Any] = {
        "name": re.sub(r"[^\w.-]+", "-", run.text("model")).strip(".-") or "model",
        "num_layers": draft.needed("layers", "the model's shape"),
        "hidden": hidden,
        "num_heads": heads,
        "num_kv_heads": run.count("kv_heads") or heads,
        "head_dim": run.count("head_dim") or hidden // heads,
        "ffn_hidden": run.count("ffn_hidden") or _ffn_hidden(draft, hidden),
        "gated_mlp": is_gated,
        "vocab": run.count("vocab") or _vocabulary(draft),
        "tied_embeddings": _tied(draft, is_gpt=is_gpt),
        "max_seq_len": draft.needed("seq_len", "the sequence length"),
        "learned_positions": is_gpt and not re.search("nemotron|bloom|neox|pythia", run.text("model")),
        "norm": "layernorm" if is_gpt else "rmsnorm",
        "qk_norm": "qwen3" in run.text("model"),
    }
    draft.values["model"] = model
    if run.count("num_experts"):
        _add_experts(draft, model)
    if "mla" in run.text("attention"):
        _add_latent_attention(draft, model)
    if "sliding" in run.text("attention"):
        draft.assume("sliding-window attention is taken as full attention")
    if "parallel transformer" in run.text("attention"):
        draft.assume("the parallel block is taken as attention and MLP one after the other")


def _ffn_hidden(draft: Draft, hidden: int) -> int:
    if draft.run.count("moe_ffn_hidden"):
        return draft.needed("moe_ffn_hidden", "the experts' width")
    draft.assume("MLP of 4 x hidden (not stated)")
    return 4 * hidden


def _tied(draft: Draft, *, is_gpt: bool) -> bool:
    given = draft.run.flag("tied_embeddings")
    if given is None:
        draft.assume(f"{'tied' if is_gpt else 'untied'} embeddings (not stated)")
        return is_gpt
    return given


def _vocabulary(draft: Draft) -> int:
    name = draft.run.text("model")
    size = next((size for family, size in VOCABULARIES.items() if re.search(family, name)), DEFAULT_VOCABULARY)
    draft.assume(f"vocabulary {size} (not stated)")
    return size


def _add_experts(draft: Draft, model: dict[str, Any]) -> None:
    run = draft.run
    model["experts"] = {
        "num_experts": draft.needed("num_experts", "the experts"),
        "top_k": draft.needed("top_k", "the experts a token"),
        "ffn_hidden": run.count("moe_ffn_hidden") or draft.needed("ffn_hidden", "the experts' width"),
        "shared_ffn_hidden": run.count("shared_expert_ffn") or 0,
        "first_dense_layers": run.count("first_dense_layers") or 0,
        "router_bias": "deepseek-v3" in run.text("model").replace(" ", "-") or "deepseekv3" in run.text("model"),
    }
    if "pad-to-capacity" not in run.text("notes"):
        draft.assume("experts get the same number of tokens each")
    if re.search("dropless|natural", run.text("notes")) and "forced" not in run.text("notes"):
        draft.assume("real routing (imbalance) is taken as balanced")


def _add_latent_attention(draft: Draft, model: dict[str, Any]) -> None:
    found = MLA.search(draft.run.text("attention"))
    if found is None:
        draft.assume("latent attention as in DeepSeek-V3 (ranks not stated)")
    q_rank, kv_rank, nope, rope, v = map(int, found.groups()) if found else DEEPSEEK_V3_MLA
    model["latent_attention"] = {
        "q_lora_rank": q_rank, "kv_lora_rank": kv_rank, "qk_nope_head_dim": nope, "qk_rope_head_dim": rope,
        "v_head_dim": v,
    }  # fmt: skip
    model |= {"num_kv_heads": model["num_heads"], "head_dim": nope}
