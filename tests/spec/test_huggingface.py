from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

import sim
from sim.errors import SimError
from sim.spec.huggingface import MODEL_TYPES, model_from_config
from sim.spec.model import Model
from sim.spec.parameters import parameters

MODELS = Path(sim.__file__).parent / "catalog" / "models"

# The keys of each repository's config.json that have to do with its shape.
CONFIGS: dict[str, dict[str, Any]] = {
    "llama2-70b": {
        "model_type": "llama",
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "max_position_embeddings": 4096,
        "num_attention_heads": 64,
        "num_hidden_layers": 80,
        "num_key_value_heads": 8,
        "tie_word_embeddings": False,
        "vocab_size": 32000,
    },
    "llama3.1-8b": {
        "model_type": "llama",
        "attention_bias": False,
        "hidden_act": "silu",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "max_position_embeddings": 131072,
        "mlp_bias": False,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 8,
        "rope_scaling": {"factor": 8.0, "rope_type": "llama3"},
        "tie_word_embeddings": False,
        "vocab_size": 128256,
    },
    "mixtral-8x7b": {
        "model_type": "mixtral",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "max_position_embeddings": 32768,
        "num_attention_heads": 32,
        "num_experts_per_tok": 2,
        "num_hidden_layers": 32,
        "num_key_value_heads": 8,
        "num_local_experts": 8,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "vocab_size": 32000,
    },
    "qwen2.5-7b": {
        "model_type": "qwen2",
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "max_position_embeddings": 131072,
        "max_window_layers": 28,
        "num_attention_heads": 28,
        "num_hidden_layers": 28,
        "num_key_value_heads": 4,
        "sliding_window": 131072,
        "use_sliding_window": False,
        "tie_word_embeddings": False,
        "vocab_size": 152064,
    },
    "qwen3-8b": {
        "model_type": "qwen3",
        "attention_bias": False,
        "head_dim": 128,
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "max_position_embeddings": 40960,
        "num_attention_heads": 32,
        "num_hidden_layers": 36,
        "num_key_value_heads": 8,
        "tie_word_embeddings": False,
        "use_sliding_window": False,
        "vocab_size": 151936,
    },
    "qwen3-30b-a3b": {
        "model_type": "qwen3_moe",
        "attention_bias": False,
        "decoder_sparse_step": 1,
        "head_dim": 128,
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "max_position_embeddings": 40960,
        "mlp_only_layers": [],
        "moe_intermediate_size": 768,
        "num_attention_heads": 32,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "num_hidden_layers": 48,
        "num_key_value_heads": 4,
        "tie_word_embeddings": False,
        "vocab_size": 151936,
    },
    "deepseek-v2": {
        "model_type": "deepseek_v2",
        "attention_bias": False,
        "first_k_dense_replace": 1,
        "hidden_size": 5120,
        "intermediate_size": 12288,
        "kv_lora_rank": 512,
        "max_position_embeddings": 163840,
        "moe_intermediate_size": 1536,
        "moe_layer_freq": 1,
        "n_routed_experts": 160,
        "n_shared_experts": 2,
        "n_group": 8,
        "num_attention_heads": 128,
        "num_experts_per_tok": 6,
        "num_hidden_layers": 60,
        "num_key_value_heads": 128,
        "q_lora_rank": 1536,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "tie_word_embeddings": False,
        "topk_group": 3,
        "topk_method": "group_limited_greedy",
        "v_head_dim": 128,
        "vocab_size": 102400,
    },
    "deepseek-v3": {
        "model_type": "deepseek_v3",
        "first_k_dense_replace": 3,
        "hidden_size": 7168,
        "intermediate_size": 18432,
        "kv_lora_rank": 512,
        "max_position_embeddings": 163840,
        "moe_intermediate_size": 2048,
        "n_routed_experts": 256,
        "n_shared_experts": 1,
        "num_attention_heads": 128,
        "num_experts_per_tok": 8,
        "num_hidden_layers": 61,
        "num_key_value_heads": 128,
        "num_nextn_predict_layers": 1,
        "q_lora_rank": 1536,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "tie_word_embeddings": False,
        "topk_method": "noaux_tc",
        "v_head_dim": 128,
        "vocab_size": 129280,
    },
    "gpt-neox-20b": {
        "model_type": "gpt_neox",
        "hidden_size": 6144,
        "intermediate_size": 24576,
        "max_position_embeddings": 2048,
        "num_attention_heads": 64,
        "num_hidden_layers": 44,
        "rotary_pct": 0.25,
        "tie_word_embeddings": False,
        "vocab_size": 50432,
    },
    "gpt2": {
        "model_type": "gpt2",
        "n_ctx": 1024,
        "n_embd": 768,
        "n_head": 12,
        "n_layer": 12,
        "n_positions": 1024,
        "vocab_size": 50257,
    },
}


def problems(config: dict[str, Any]) -> dict[str, str]:
    """Message of each refused key."""
    with pytest.raises(SimError) as caught:
        model_from_config(config, "model")
    return {problem.path: problem.message for problem in caught.value.problems}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_published_config_gives_the_catalogues_model(name):
    expected = Model.model_validate(yaml.safe_load((MODELS / f"{name}.yaml").read_text()))
    # The catalogue's DeepSeek-V3 is without multi-token prediction.
    mtp_layers = CONFIGS[name].get("num_nextn_predict_layers", 0)
    assert model_from_config(CONFIGS[name], name) == expected.model_copy(update={"mtp_layers": mtp_layers})


@pytest.mark.parametrize(
    ("config", "total"),
    [
        ({"model_type": "llama"}, 6_738_415_616),
        ({"model_type": "mixtral"}, 46_702_792_704),
        ({"model_type": "gpt2"}, 124_439_808),
        ({"model_type": "gpt_neox"}, 20_554_567_680),
        ({"model_type": "deepseek_v3"}, 671_026_419_200),
        ({"model_type": "mistral", "sliding_window": None}, 7_241_732_096),
        ({"model_type": "qwen2_moe"}, 14_315_784_192),
    ],
)
def test_missing_keys_have_the_defaults_of_the_class(config, total):
    # Each class's defaults are its family's best known model: Llama-7B, Mistral-7B-v0.1, Qwen1.5-MoE-A2.7B and so on.
    assert parameters(model_from_config(config, "default")).total == total


def test_null_kv_heads_are_as_many_as_heads():
    assert model_from_config({"model_type": "llama", "num_key_value_heads": None}, "mha").num_kv_heads == 32


def test_gpt2_reads_the_other_types_names():
    model = model_from_config({"model_type": "gpt2", "hidden_size": 1600, "num_attention_heads": 25}, "gpt2-xl")
    assert (model.hidden, model.num_heads, model.ffn_hidden) == (1600, 25, 6400)


def test_llama_attention_bias_is_on_all_four_projections():
    model = model_from_config({"model_type": "llama", "attention_bias": True, "mlp_bias": True}, "biased")
    assert (model.qkv_bias, model.attention_out_bias, model.mlp_bias) == (True, True, True)


def test_text_config_describes_a_multimodal_model():
    config = {
        "model_type": "llava",
        "tie_word_embeddings": True,
        "text_config": {"model_type": "llama", "vocab_size": 9},
    }
    model = model_from_config(config, "llava")
    assert (model.vocab, model.hidden, model.tied_embeddings) == (9, 4096, True)


def test_no_query_latent_where_its_rank_is_zero_or_null():
    for rank in (0, None):
        model = model_from_config(CONFIGS["deepseek-v3"] | {"q_lora_rank": rank}, "v3")
        assert model.latent_attention is not None
        assert model.latent_attention.q_lora_rank is None


def test_deepseek_without_routed_experts_is_dense():
    config = CONFIGS["deepseek-v2"] | {"n_routed_experts": None, "num_experts_per_tok": None}
    assert model_from_config(config, "dense").experts is None


def test_dense_layers_of_qwen_are_the_first_ones_or_at_a_stride():
    first = model_from_config(CONFIGS["qwen3-30b-a3b"] | {"mlp_only_layers": [0, 1]}, "first")
    assert [first.is_moe_layer(layer) for layer in range(4)] == [False, False, True, True]
    stride = model_from_config(CONFIGS["qwen3-30b-a3b"] | {"decoder_sparse_step": 2}, "stride")
    assert [stride.is_moe_layer(layer) for layer in range(4)] == [False, True, False, True]


@pytest.mark.parametrize("changes", [{"mlp_only_layers": [5]}, {"mlp_only_layers": [0], "decoder_sparse_step": 2}])
def test_other_dense_layers_are_refused(changes):
    assert "allowed none or the first layers" in problems(CONFIGS["qwen3-30b-a3b"] | changes)["mlp_only_layers"]


def test_an_unknown_model_type_names_the_known_ones_and_the_likely_one():
    message = problems({"model_type": "qwen3moe"})["model_type"]
    assert "got 'qwen3moe'" in message
    assert "did you mean 'qwen3_moe'?" in message
    assert all(known in message for known in MODEL_TYPES)


@pytest.mark.parametrize("model_type", [None, ["llama"], {}])
def test_a_model_type_that_is_no_name_is_refused(model_type):
    assert "model_type" in problems({"model_type": model_type})


def test_inference_configs_are_refused_with_a_hint():
    message = problems({"vocab_size": 129280, "dim": 7168, "inter_dim": 18432, "n_layers": 61, "n_heads": 128})[
        "model_type"
    ]
    assert "dim, inter_dim, n_heads, n_layers are keys of inference code" in message
    assert "inference" not in problems({"hidden_size": 7168})["model_type"]


def test_every_wrong_value_is_told_at_once_by_key():
    config = {"model_type": "llama", "hidden_size": "4096", "num_hidden_layers": 0, "tie_word_embeddings": "yes"}
    found = problems(config)
    assert found.keys() == {"hidden_size", "num_hidden_layers", "tie_word_embeddings"}
    assert "got '4096'" in found["hidden_size"]
    assert "got 0" in found["num_hidden_layers"]


def test_a_misspelt_key_is_refused_rather_than_replaced_by_the_default():
    assert problems({"model_type": "llama", "hiden_size": 512}) == {
        "hiden_size": "unknown key, did you mean 'hidden_size'?"
    }


@pytest.mark.parametrize(
    ("config", "key", "message"),
    [
        ({"model_type": "mistral", "sliding_window": 4096}, "sliding_window", "attends to the whole sequence"),
        ({"model_type": "mistral"}, "sliding_window", "got 4096"),
        ({"model_type": "qwen2", "use_sliding_window": True}, "use_sliding_window", "attends to the whole sequence"),
        ({"model_type": "deepseek_v3", "attention_bias": True}, "attention_bias", "allowed false"),
        ({"model_type": "deepseek_v3", "moe_layer_freq": 2}, "moe_layer_freq", "got 2"),
        ({"model_type": "deepseek_v2"}, "", "num_experts_per_tok is missing"),
        ({"model_type": "mixtral", "num_experts_per_tok": 9}, "", "top_k = 9 exceeds num_experts = 8"),
        ({"model_type": "llama", "num_attention_heads": 33}, "", "hidden size 4096 is no multiple of 33"),
        ({"model_type": "llama", "num_key_value_heads": 5}, "", "num_heads = 32 is no multiple of num_kv_heads = 5"),
    ],
)
def test_what_a_model_cannot_say_is_refused(config, key, message):
    assert message in problems(config)[key]
