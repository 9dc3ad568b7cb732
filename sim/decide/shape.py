"""A dense transformer of a given size: Llama's proportions with widths that parallel axes can divide."""

from __future__ import annotations

import math
from collections.abc import Iterator

from sim.spec.model import Model
from sim.spec.parameters import parameters

HEAD_DIM = 128
KV_HEADS = 8
FFN_OVER_HIDDEN = (2.5, 4.5)
FFN_STEP = 128
VOCAB = 128_256
LAYERS_STEP = 4
LARGE_HIDDEN = 4096
HIDDEN_STEPS = (512, 1024)
"""Of widths below LARGE_HIDDEN, and from it on."""
HIDDEN_BY_LAYER = (64, 160)
"""Hidden over layers: 128 in Llama-3.1-8B, 102 in 70B, 130 in 405B (arXiv 2407.21783, table 3); small models are
deeper for their width (Qwen2.5-0.5B 37, Llama-3.2-3B 110)."""
USUAL, USUAL_FFN = 110, 3.5
NEAR = 0.01
"""Of shapes within this share of the size, the one with the most usual proportion is taken."""
SOURCE = "proportions of Llama 3 (arXiv 2407.21783, table 3): feed-forward about 3.5 x hidden, heads of 128, 8 KV heads"


def shape_of(size: float, seq_len: int, largest: float = math.inf) -> Model:
    """The dense model whose parameters are nearest to `size`, with `largest` at most.

    Raises ValueError where the nearest is more than 10 % off (below 0.3B: the embedding alone is as large).
    """
    candidates = [
        model
        for hidden in _widths()
        for layers in range(LAYERS_STEP, 161, LAYERS_STEP)
        if HIDDEN_BY_LAYER[0] <= hidden / layers <= HIDDEN_BY_LAYER[1]
        for model in _fitting(hidden, layers, seq_len, size)
        if parameters(model).total <= largest
    ]
    off = {model.name: abs(parameters(model).total / size - 1) for model in candidates}
    near = [model for model in candidates if off[model.name] < NEAR] or candidates
    if not off:
        raise ValueError(f"no shape has at most {largest:.3g} parameters; give a model")
    best = min(near, key=_oddness) if near is not candidates else min(near, key=lambda model: off[model.name])
    found = parameters(best).total
    if abs(found / size - 1) > 0.10:
        raise ValueError(f"no shape within 10 % of {size:.3g} parameters (nearest {found:.3g}); give a model")
    return best


def _oddness(model: Model) -> float:
    """Distance of hidden over layers from the usual one."""
    depth, width = model.hidden / model.num_layers / USUAL, model.ffn_hidden / model.hidden / USUAL_FFN
    return abs(math.log(depth)) + abs(math.log(width))


def _widths() -> list[int]:
    small, large = HIDDEN_STEPS
    return [*range(1024, LARGE_HIDDEN, small), *range(LARGE_HIDDEN, 24_577, large)]


def _fitting(hidden: int, layers: int, seq_len: int, size: float) -> Iterator[Model]:
    """The model of this width and depth whose feed-forward makes up the size; none where that is out of proportion."""
    least = _model(hidden, layers, FFN_STEP, seq_len)
    rest = size - parameters(least).total
    ffn = FFN_STEP * (1 + math.floor(rest / (3 * hidden * layers * FFN_STEP)))
    if FFN_OVER_HIDDEN[0] <= ffn / hidden <= FFN_OVER_HIDDEN[1]:
        yield _model(hidden, layers, ffn, seq_len)


def _model(hidden: int, layers: int, ffn: int, seq_len: int) -> Model:
    heads = hidden // HEAD_DIM
    return Model(
        name=f"dense-{layers}x{hidden}",
        num_layers=layers,
        hidden=hidden,
        num_heads=heads,
        num_kv_heads=math.gcd(heads, KV_HEADS),
        head_dim=HEAD_DIM,
        ffn_hidden=ffn,
        gated_mlp=True,
        vocab=VOCAB,
        tied_embeddings=hidden < LARGE_HIDDEN,
        max_seq_len=seq_len,
    )
