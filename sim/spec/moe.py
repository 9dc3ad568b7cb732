"""How tokens reach experts: who gets how many, what is dropped, over how many nodes, and in which format."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Discriminator, Field, Tag

from sim.spec.model import Experts
from sim.spec.quantity import Count, Spec
from sim.spec.topology import Floats

_EXPERT_LOAD = 2
"""Purpose of the generator that draws loads of experts, beside those of `sim.spec.conditions`."""

FILL_ROUNDS = 64
"""Each round of `_at_most` caps one expert more or ends; as many as there are experts are never needed in practice."""

Share = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Dirichlet(Spec):
    """Loads drawn from a symmetric Dirichlet distribution: even for a large concentration, one expert for a small."""

    distribution: Literal["dirichlet"]
    concentration: Positive


class Zipf(Spec):
    """The i-th busiest expert has a load in proportion to i^-exponent; which one that is, is drawn."""

    distribution: Literal["zipf"]
    exponent: Annotated[float, Field(ge=0, allow_inf_nan=False)]


def _kind_of_load(value: Any) -> str | None:
    if isinstance(value, str):
        return "balanced"
    if isinstance(value, (tuple, list)):
        return "list"
    kind = value.get("distribution") if isinstance(value, dict) else getattr(value, "distribution", None)
    return kind if kind in ("dirichlet", "zipf") else None


Load = Annotated[
    Annotated[Literal["balanced"], Tag("balanced")]
    | Annotated[tuple[Share, ...], Field(strict=False), Tag("list")]
    | Annotated[Dirichlet, Tag("dirichlet")]
    | Annotated[Zipf, Tag("zipf")],
    Discriminator(
        _kind_of_load,
        custom_error_type="expert_load",
        custom_error_message="allowed balanced, a list with the relative load of each expert, "
        "{distribution: dirichlet, concentration: x} or {distribution: zipf, exponent: x}",
    ),
]


class Moe(Spec):
    """Routing of an MoE layer's tokens; every layer and micro-batch alike.

    load: of the experts. capacity_factor: an expert takes at most this multiple of an even share from each rank, and
    drops the rest; without it, none is dropped. pad_to_capacity: every expert gets exactly as many, filled up with
    zeros. node_limit: nodes that a token's experts lie on, at most; the model's own routing by groups where not given.
    dispatch: format in which tokens (backward, gradients) travel to the experts; what comes back is in 16 bits.
    """

    load: Load = "balanced"
    capacity_factor: Positive | None = None
    pad_to_capacity: bool = False
    node_limit: Count | None = None
    dispatch: Literal["bf16", "fp8"] = "bf16"


def expert_shares(moe: Moe, experts: Experts, seed: int) -> Floats:
    """Share of all copies of tokens that the router gives to each expert: (num_experts,), sum 1.

    A token goes to an expert once, so that none has more than 1 / top_k; what a draw gives beyond is spread over the
    others in proportion.

    >>> expert_shares(Moe(load=(3.0, 1.0, 2.0, 2.0)), Experts(num_experts=4, top_k=2, ffn_hidden=8), seed=0).tolist()
    [0.375, 0.125, 0.25, 0.25]
    """
    size = experts.num_experts
    generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_EXPERT_LOAD,)))
    match moe.load:
        case "balanced":
            return np.full(size, 1 / size)
        case Dirichlet(concentration=concentration):
            # Gamma variates over their sum, as a Dirichlet draw is defined.
            loads = generator.standard_gamma(concentration, size) + np.finfo(float).tiny
            return _at_most(loads / loads.sum(), 1 / experts.top_k)
        case Zipf(exponent=exponent):
            loads = generator.permutation(np.arange(1, size + 1, dtype=np.float64) ** -exponent)
            return _at_most(loads / loads.sum(), 1 / experts.top_k)
        case given:
            assert isinstance(given, tuple)
            loads = np.array(given, dtype=np.float64)
            shares: Floats = loads / loads.sum()
            return shares


def _at_most(shares: Floats, most: float) -> Floats:
    """Shares with those above `most` cut, and what was cut given to the others in proportion. (n,), sum kept at 1."""
    is_full = np.zeros(len(shares), dtype=bool)
    for _ in range(FILL_ROUNDS):
        left = 1 - most * is_full.sum()
        others = shares[~is_full].sum()
        filled: Floats = np.where(is_full, most, shares * (left / others if others > 0 else 0.0))
        over = ~is_full & (filled > most * (1 + 1e-12))
        if not over.any():
            return filled
        is_full |= over
    return np.minimum(filled, most)


def is_even(moe: Moe) -> bool:
    """Whether every expert is asked for as often as the others, whatever the seed."""
    match moe.load:
        case "balanced":
            return True
        case tuple() as given:
            return len(set(given)) == 1
        case Zipf(exponent=exponent):
            return exponent == 0
        case _:
            return False


def is_drawn(moe: Moe) -> bool:
    """Whether the loads come from the seed."""
    return isinstance(moe.load, (Dirichlet, Zipf)) and not is_even(moe)
