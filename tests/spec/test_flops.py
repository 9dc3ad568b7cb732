from __future__ import annotations

from pathlib import Path

import pytest
import yaml

import sim
from sim.spec.flops import forward_flop_by_term, model_flop
from sim.spec.model import Model
from sim.spec.parameters import parameters

MODELS = Path(sim.__file__).parent / "catalog" / "models"
GPTS = ["gpt-22b", "gpt3-175b", "gpt-530b", "gpt-1t", "gpt2"]
GROUPED_QUERY = ["llama2-7b", "llama2-70b", "llama3.1-405b", "mixtral-8x7b", "qwen3-8b", "qwen3-30b-a3b"]


def catalogue(name: str) -> Model:
    return Model.model_validate(yaml.safe_load((MODELS / f"{name}.yaml").read_text()))


@pytest.mark.parametrize("name", GPTS)
def test_gpt_follows_the_closed_form_of_megatron(name):
    # 96 b s l h^2 (1 + s/6h + V/16lh) of arXiv 2104.04473 section 5.1 less the layers' second forward pass.
    model, s = catalogue(name), 1024
    h, layers, vocab = model.hidden, model.num_layers, model.vocab
    expected = 72 * s * layers * h**2 * (1 + s / (6 * h) + vocab / (12 * layers * h))
    assert model_flop(model, s, causal=False) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", GROUPED_QUERY)
def test_full_attention_is_palms_6n_plus_12lhqt_per_token(name):
    # arXiv 2204.02311 appendix B. N: weights of the products that a token meets, so no look-up and no norms.
    model, t = catalogue(name), 4096
    found = parameters(model)
    norms = found.norms + found.final_norm + (2 * model.head_dim * model.num_layers if model.qk_norm else 0)
    n = found.active - found.embedding - norms
    expected = (6 * n + 12 * model.num_layers * model.num_heads * model.head_dim * t) * t
    assert model_flop(model, t, causal=False) == pytest.approx(expected, rel=1e-12)


def test_deepseek_v3_has_6n_and_the_scores_of_its_own_head_dims():
    model, t = catalogue("deepseek-v3"), 4096
    found = parameters(model)
    latent_norms = 61 * (1536 + 512)
    router_bias = 58 * 256
    n = found.active - found.embedding - found.norms - found.final_norm - latent_norms - router_bias
    scores = 2 * t * t * 61 * 128 * ((128 + 64) + 128)
    assert forward_flop_by_term(model, t)["attention_scores"] == scores
    assert model_flop(model, t, causal=False) == pytest.approx(6 * n * t + 3 * scores, rel=1e-12)


@pytest.mark.parametrize("name", ["gpt2", "llama3.1-8b", "deepseek-v3"])
def test_causal_attention_leaves_out_half_of_the_scores(name):
    model = catalogue(name)
    scores = forward_flop_by_term(model, 1024)["attention_scores"]
    saved = model_flop(model, 1024, causal=False) - model_flop(model, 1024, causal=True)
    assert saved == pytest.approx(3 * scores / 2, rel=1e-9)


def test_scores_grow_with_the_square_of_the_sequence_and_all_else_with_the_sequence():
    model = catalogue("qwen3-30b-a3b")
    short, long = forward_flop_by_term(model, 1000), forward_flop_by_term(model, 3000)
    for term, flop in short.items():
        assert long[term] == flop * (9 if term == "attention_scores" else 3), term


def test_terms_of_a_dense_layer_by_hand():
    model = catalogue("llama2-7b")
    by_term = forward_flop_by_term(model, 1)
    assert by_term == {
        "qkv": 32 * 2 * 4096 * 3 * 4096,
        "attention_scores": 32 * 2 * 2 * 4096,
        "attention_out": 32 * 2 * 4096**2,
        "mlp": 32 * 2 * 3 * 4096 * 11008,
        "router": 0,
        "experts": 0,
        "shared": 0,
        "head": 2 * 32000 * 4096,
        "mtp_projection": 0,
    }


def test_terms_of_mixed_layers_by_hand():
    # 3 dense layers, 58 with 8 of 256 experts of width 2048 and one shared expert of the same.
    by_term = forward_flop_by_term(catalogue("deepseek-v3"), 1)
    assert by_term["mlp"] == 3 * 2 * 3 * 7168 * 18432
    assert by_term["router"] == 58 * 2 * 7168 * 256
    assert by_term["experts"] == 58 * 2 * 8 * 3 * 7168 * 2048
    assert by_term["shared"] == 58 * 2 * 3 * 7168 * 2048


def test_tying_the_head_saves_parameters_but_no_flop():
    own = catalogue("llama3.1-8b")
    tied = own.model_copy(update={"tied_embeddings": True})
    assert parameters(tied).total < parameters(own).total
    assert model_flop(tied, 128, causal=False) == model_flop(own, 128, causal=False)


def test_6n_leaves_out_22_percent_of_llama_3_1_8b_at_8192_tokens():
    model = catalogue("llama3.1-8b")
    scores = 3 * forward_flop_by_term(model, 8192)["attention_scores"]
    assert scores / model_flop(model, 8192, causal=False) == pytest.approx(0.222, abs=0.001)
