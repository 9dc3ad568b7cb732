from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

import sim
from sim.spec.model import Experts, LatentAttention, Model
from sim.spec.parameters import layer_parameters, parameters

MODELS = Path(sim.__file__).parent / "catalog" / "models"

# Elements of each Hugging Face checkpoint (the size in its safetensors index, by 2 bytes); DeepSeek-V3 without its
# multi-token prediction layer and with the 58 x 256 balancing biases, which are stored but not trained by gradients.
CHECKPOINTS = {
    "gpt2": 124_439_808,
    "gpt-neox-20b": 20_554_567_680,
    "llama2-7b": 6_738_415_616,
    "llama2-13b": 13_015_864_320,
    "llama2-70b": 68_976_648_192,
    "llama3.1-8b": 8_030_261_248,
    "llama3.1-70b": 70_553_706_496,
    "llama3.1-405b": 405_853_388_800,
    "mixtral-8x7b": 46_702_792_704,
    "mixtral-8x22b": 140_620_634_112,
    "qwen2.5-7b": 7_615_616_512,
    "qwen3-8b": 8_190_735_360,
    "qwen3-30b-a3b": 30_532_122_624,
    "qwen3-235b-a22b": 235_093_634_560,
    "deepseek-v2": 235_741_434_880,
    "deepseek-v3": 671_026_419_200,
}

# Sizes that papers print: Korthikanti et al. 2022, arXiv 2205.05198, table 3.
PRINTED = {"gpt-22b": 22e9, "gpt3-175b": 175e9, "gpt-530b": 530e9, "gpt-1t": 1e12}


def catalogue(name: str) -> Model:
    return Model.model_validate(yaml.safe_load((MODELS / f"{name}.yaml").read_text()))


def toy(**changes: object) -> Model:
    """Two layers, hidden 8, 4 heads of 2, 2 kv heads, gated MLP of 16, vocabulary 10."""
    shape: dict[str, object] = {
        "name": "toy",
        "num_layers": 2,
        "hidden": 8,
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_dim": 2,
        "ffn_hidden": 16,
        "gated_mlp": True,
        "vocab": 10,
        "tied_embeddings": False,
        "max_seq_len": 6,
    }
    return Model.model_validate(shape | changes)


def test_every_catalogue_file_says_its_source_and_is_named_after_its_model():
    files = sorted(MODELS.glob("*.yaml"))
    assert {file.stem for file in files} == CHECKPOINTS.keys() | PRINTED.keys()
    for file in files:
        assert file.read_text().startswith("# Source: ")
        assert catalogue(file.stem).name == file.stem


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_total_equals_the_elements_of_the_checkpoint(name):
    assert parameters(catalogue(name)).total == CHECKPOINTS[name]


@pytest.mark.parametrize("name", PRINTED)
def test_total_is_the_printed_size(name):
    assert parameters(catalogue(name)).total == pytest.approx(PRINTED[name], rel=0.01)


@pytest.mark.parametrize("name", PRINTED)
def test_gpt_follows_the_closed_form_of_megatron(name):
    # 12 l h^2 (1 + 13 / (12 h) + (V + s) / (12 l h)), arXiv 2104.04473 section 5.1, in whole numbers; no final norm.
    model = catalogue(name)
    h, layers = model.hidden, model.num_layers
    expected = layers * (12 * h * h + 13 * h) + (model.vocab + model.max_seq_len) * h
    found = parameters(model)
    assert found.total - found.final_norm == expected


@pytest.mark.parametrize(
    ("name", "active"),
    [
        ("mixtral-8x7b", 12_879_925_248),
        # arXiv 2412.19437: 671B with 37B active, both embeddings included.
        ("deepseek-v3", pytest.approx(37.55e9, rel=1e-4)),
        ("deepseek-v2", pytest.approx(21.4e9, rel=2e-3)),  # arXiv 2405.04434: 21B
        ("qwen3-30b-a3b", pytest.approx(3.35e9, rel=2e-3)),  # arXiv 2505.09388: 3.3B
        ("llama2-7b", 6_738_415_616),
    ],
)
def test_active_parameters_hold_only_the_experts_that_a_token_meets(name, active):
    assert parameters(catalogue(name)).active == active


def test_deepseek_v3_is_671_03_billion_without_multi_token_prediction():
    assert parameters(catalogue("deepseek-v3")).total == pytest.approx(671.03e9, rel=1e-5)


def test_deepseek_v3s_module_of_multi_token_prediction_has_11_5_billion_parameters_of_its_own():
    """README_WEIGHTS.md of https://huggingface.co/deepseek-ai/DeepSeek-V3: 11.5B without the shared embedding and head
    of 0.9B each, which the checkpoint repeats (14B in all). 1.5B meet a token, of which 0.9B are the head, is without
    the projection's 0.1B."""
    found = parameters(catalogue("deepseek-v3").model_copy(update={"mtp_layers": 1}))
    layer = 11_507_286_016 + 256
    assert found.mtp == layer + 2 * 7168 * 7168 + 3 * 7168
    assert found.mtp == pytest.approx(11.5e9, rel=0.01)
    assert found.mtp + found.embedding + found.head == pytest.approx(14e9, rel=0.05)
    assert found.active_mtp + found.head - 2 * 7168**2 == pytest.approx(1.5e9, rel=0.01)
    alone = parameters(catalogue("deepseek-v3"))
    assert (found.total, found.active) == (alone.total + found.mtp, alone.active + found.active_mtp)


@pytest.mark.parametrize("name", ["gpt2", "llama3.1-8b", "qwen3-30b-a3b", "deepseek-v3"])
def test_terms_add_up_to_the_layers_and_the_total(name):
    model = catalogue(name)
    found = parameters(model)
    layers = sum(layer_parameters(model, layer).total for layer in range(model.num_layers))
    assert layers + found.embedding + found.learned_positions + found.final_norm + found.head == found.total
    for layer in range(model.num_layers):
        part = layer_parameters(model, layer)
        assert part.tensor_sharded + part.attention_kv + part.replicated + part.experts == part.total


def test_tied_embeddings_have_no_head():
    tied, own = parameters(toy(tied_embeddings=True)), parameters(toy())
    assert (tied.head, own.head) == (0, 80)
    assert own.total - tied.total == 80


def test_learned_positions_have_a_row_for_each_position():
    assert parameters(toy(learned_positions=True)).total - parameters(toy()).total == 6 * 8


def test_grouped_query_attention_by_hand():
    layer = layer_parameters(toy(), 0)
    assert layer.attention_q_out == 8 * 8 + 8 * 8
    assert layer.attention_kv == 2 * 8 * 4
    assert layer.attention_sharded == 192
    assert layer.attention_replicated == 0
    assert layer.dense_mlp == layer.dense_mlp_sharded == 3 * 8 * 16
    assert layer.norms == 2 * 8


def test_layer_norm_has_a_bias_that_rms_norm_lacks():
    model = toy(norm="layernorm")
    assert layer_parameters(model, 0).norms == 4 * 8
    assert parameters(model).final_norm == 2 * 8


def test_biases_of_row_parallel_products_are_replicated():
    plain = layer_parameters(toy(), 0)
    biased = layer_parameters(toy(qkv_bias=True, attention_out_bias=True, mlp_bias=True), 0)
    assert biased.attention_q_out - plain.attention_q_out == 4 * 2
    assert biased.attention_kv - plain.attention_kv == 2 * 2 * 2
    assert biased.attention_replicated == 8
    assert biased.dense_mlp_sharded - plain.dense_mlp_sharded == 2 * 16
    assert biased.dense_mlp_replicated == 8


def test_norms_of_queries_and_keys_span_one_head():
    assert layer_parameters(toy(qk_norm=True), 0).attention_replicated == 2 * 2


def test_latent_attention_by_hand():
    latent = {"q_lora_rank": 5, "kv_lora_rank": 3, "qk_nope_head_dim": 4, "qk_rope_head_dim": 2, "v_head_dim": 7}
    layer = layer_parameters(toy(latent_attention=latent), 0)
    down = 8 * 5 + 5 + 8 * (3 + 2) + 3
    up_and_out = 5 * 4 * (4 + 2) + 3 * 4 * (4 + 7) + 4 * 7 * 8
    assert (layer.attention_replicated, layer.attention_q_out, layer.attention_kv) == (down, up_and_out, 0)


def test_without_query_latent_queries_are_projected_directly():
    latent = LatentAttention(kv_lora_rank=3, qk_nope_head_dim=4, qk_rope_head_dim=2, v_head_dim=7)
    layer = layer_parameters(toy(latent_attention=latent), 0)
    assert layer.attention_replicated == 8 * (3 + 2) + 3
    assert layer.attention_q_out == 8 * 4 * (4 + 2) + 3 * 4 * (4 + 7) + 4 * 7 * 8


def test_moe_layer_by_hand():
    experts = {
        "num_experts": 4,
        "top_k": 2,
        "ffn_hidden": 3,
        "shared_ffn_hidden": 5,
        "shared_expert_gate": True,
        "router_bias": True,
        "first_dense_layers": 1,
    }
    model = toy(experts=experts, mlp_bias=True)
    dense, moe = layer_parameters(model, 0), layer_parameters(model, 1)
    assert (dense.experts, dense.router, dense.shared) == (0, 0, 0)
    assert moe.dense_mlp == 0
    assert moe.router == 4 * (8 + 1)
    assert moe.experts_sharded == 4 * (3 * 8 * 3 + 2 * 3)
    assert moe.experts_replicated == 4 * 8
    assert moe.shared_sharded == 3 * 8 * 5 + 2 * 5
    assert moe.shared_replicated == 8 + 8
    found = parameters(model)
    assert found.active == found.total - moe.experts // 2


def test_layer_stride_places_an_moe_layer_last_in_each_stride():
    model = toy(num_layers=6, experts={"num_experts": 2, "top_k": 1, "ffn_hidden": 3, "layer_stride": 3})
    assert [layer_parameters(model, layer).experts > 0 for layer in range(6)] == [False, False, True] * 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_kv_heads": 3}, "num_heads = 4 is no multiple of num_kv_heads = 3"),
        ({"experts": {"num_experts": 2, "top_k": 3, "ffn_hidden": 3}}, "top_k = 3 exceeds num_experts = 2"),
        (
            {"experts": {"num_experts": 2, "top_k": 1, "ffn_hidden": 3, "shared_expert_gate": True}},
            "needs a shared_ffn_hidden",
        ),
    ],
)
def test_a_shape_that_contradicts_itself_is_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        toy(**changes)


@pytest.mark.parametrize("field", ["qk_norm", "qkv_bias"])
def test_latent_attention_refuses_what_belongs_to_the_other_attention(field):
    latent = {"kv_lora_rank": 3, "qk_nope_head_dim": 4, "qk_rope_head_dim": 2, "v_head_dim": 7}
    with pytest.raises(ValidationError, match="belong to attention without latent_attention"):
        toy(latent_attention=latent, **{field: True})


def test_experts_without_shared_expert_have_none():
    model = toy(experts=Experts(num_experts=2, top_k=1, ffn_hidden=3))
    assert parameters(model).shared == 0
