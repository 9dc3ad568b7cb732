"""What the router gives to the experts of each rank: rows of their products, and who sends how much to whom."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sim.cost.collectives.spread import Spread
from sim.spec.layout import Layout
from sim.spec.model import Experts
from sim.spec.moe import Moe, expert_shares, is_even
from sim.spec.scenario import Scenario
from sim.spec.topology import Floats, Ints


@dataclass(frozen=True)
class Routed:
    """Experts of one rank, and the copies of tokens that reach and leave it, per micro-batch and MoE layer.

    groups: (rows, how many of its experts have so many).  copies: rows of all its experts.  sent_frac: copies that a
    rank sends for each of its tokens x top_k: below 1 where tokens are dropped, above where experts are filled up.
    spread: to whom they go.  dispatch: see `sim.spec.moe.Moe`.
    """

    groups: tuple[tuple[int, int], ...]
    copies: int
    sent_frac: float
    spread: Spread
    dispatch: Literal["bf16", "fp8"]
    is_shared_beside: bool


def is_uneven(scenario: Scenario) -> bool:
    """Whether ranks of an expert-parallel group have unlike work."""
    shares = place_shares(scenario)
    return len(shares) > 1 and not np.allclose(shares, shares[0], rtol=1e-12, atol=0)


def kept_shares(moe: Moe, experts: Experts, seed: int, tokens: int) -> Floats:
    """Copies that each expert works on, over all copies that the router gives: (num_experts,).

    Each rank sends an expert at most ceil(factor x tokens x top_k / num_experts) of its copies; with padding exactly as
    many. Source: Megatron-Core, megatron/core/transformer/moe/moe_utils.py, get_capacity. tokens: of a rank.
    """
    shares = expert_shares(moe, experts, seed)
    if moe.capacity_factor is None:
        return shares
    copies = tokens * experts.top_k
    most = math.ceil(moe.capacity_factor * copies / experts.num_experts) / copies
    return np.full(experts.num_experts, most) if moe.pad_to_capacity else np.minimum(shares, most)


def place_shares(scenario: Scenario) -> Floats:
    """Share of the copies that each rank along ep works on: (ep,). Experts stand on them in their order."""
    experts, layout = scenario.model.experts, scenario.layout
    if experts is None:
        return np.ones(1)
    shares: Floats = _kept(scenario).reshape(layout.ep, -1).sum(axis=1)
    return shares


def busiest_place(scenario: Scenario) -> int:
    """Where along ep a rank gets most copies."""
    return int(place_shares(scenario).argmax())


def _kept(scenario: Scenario) -> Floats:
    experts = scenario.model.experts
    assert experts is not None
    return kept_shares(scenario.training.moe, experts, scenario.seed, own_tokens(scenario))


def own_tokens(scenario: Scenario) -> int:
    """Tokens of a micro-batch that a rank routes: a share of cp and, with sequence parallelism, of tp."""
    layout, training = scenario.layout, scenario.training
    tokens = training.micro_batch * training.seq_len // layout.cp
    return tokens // layout.tp if layout.sequence_parallel else tokens


def routed(scenario: Scenario, place: int) -> Routed | None:
    """What reaches the experts of a rank at `place` along ep; None for a dense model.

    Of an ep x etp group's tokens x top_k copies each expert gets its share, in whole rows; where loads are even, one
    row at least.
    """
    experts, layout, moe = scenario.model.experts, scenario.layout, scenario.training.moe
    if experts is None:
        return None
    tokens = own_tokens(scenario)
    kept = _kept(scenario)
    rows = _rows(kept.reshape(layout.ep, -1)[place] * (tokens * experts.top_k * layout.ep * layout.etp))
    if is_even(moe):
        rows = np.maximum(rows, 1)
    groups = tuple(sorted(Counter(rows.tolist()).items(), reverse=True))
    return Routed(
        groups=groups,
        copies=int(rows.sum()),
        sent_frac=float(kept.sum()),
        spread=_spread(experts, moe, layout, kept),
        dispatch=moe.dispatch,
        is_shared_beside=scenario.training.overlap.shared_expert,
    )


def _rows(exact: Floats) -> Ints:
    # A share such as 1/3 of a whole number of copies may lie a hair beside a half.
    rows: Ints = np.rint(np.round(exact, 6)).astype(np.int64)
    return rows


def _spread(experts: Experts, moe: Moe, layout: Layout, kept: Floats) -> Spread:
    """Of the group along ep; equal shares are exactly equal, so that they are known as such."""
    shares = kept.reshape(layout.ep, -1).sum(axis=1)
    if np.allclose(shares, shares[0], rtol=1e-12, atol=0):
        shares = np.full(layout.ep, float(kept.sum()) / layout.ep)
    if math.isclose(shares.sum(), 1.0, rel_tol=1e-12) and len(set(shares.tolist())) == 1:
        shares = np.full(layout.ep, 1 / layout.ep)
    return Spread(
        shares=tuple(shares.tolist()),
        top_k=experts.top_k,
        num_experts=experts.num_experts,
        num_groups=experts.expert_groups,
        group_limit=experts.group_limit,
        node_limit=moe.node_limit,
    )
