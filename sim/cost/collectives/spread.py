"""An all_to_all of a mixture of experts: how much goes to whom, and how often a token crosses to a node."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import comb, prod

import numpy as np

from sim.cost.collectives import Pattern
from sim.cost.collectives.edges import Edges, even_groups, joined, loads
from sim.cost.collectives.pairwise import Pairwise
from sim.errors import SimError
from sim.spec.topology import Fabric, Floats, Ints


@dataclass(frozen=True)
class Spread:
    """What every member of a group sends to each place of it, alike for all senders.

    shares: of the top_k copies of the sender's tokens, what goes to each place; their sum is below 1 where an expert
    drops tokens and above where it is filled up.  num_groups, group_limit: a token's experts lie in at most
    `group_limit` of `num_groups` groups of neighbours.  node_limit: the same of nodes, instead.
    is_combine: copies come back the same ways.
    """

    shares: tuple[float, ...]
    top_k: int
    num_experts: int
    num_groups: int = 1
    group_limit: int = 1
    node_limit: int | None = None
    is_combine: bool = False

    @property
    def back(self) -> Spread:
        """The other way: combine after dispatch, and the gradient of either."""
        return replace(self, is_combine=not self.is_combine)

    @property
    def is_even(self) -> bool:
        """Whether every place gets exactly its part."""
        return set(self.shares) == {1 / len(self.shares)}


def reached(spread: Spread, share: float, num_parts: int) -> float:
    """Expected number of a token's copies that are the first to a part of the experts: the probability that it has one
    there. share: of the part, of all copies. num_parts: how many such parts all experts are cut into.

    Of E experts in G groups of which M are taken, k are chosen evenly. A part with j taken groups, each choice of them
    as likely (hypergeometric), is missed by all k with C(E M / G - e_j, k) / C(E M / G, k), e_j its experts among
    those that can be chosen. Where loads are uneven, a part with a share w of them counts as E w experts. Source:
    arXiv 2412.19437 section 2.1.2 for the rule; counting. Error: exact for even loads and independent tokens; the
    router of a trained model prefers some pairs of experts. Parts that neither divide groups nor are made of whole ones
    are counted without the limit.

    >>> round(reached(Spread((0.125,) * 8, top_k=8, num_experts=256), 1 / 8, 8), 4)
    0.6618
    """
    size, top_k, groups, limit = spread.num_experts, spread.top_k, spread.num_groups, spread.group_limit
    if groups % num_parts and num_parts % groups:
        groups = limit = 1
    candidates = size * limit / groups
    held = min(share, 1.0) * size
    if num_parts >= groups:
        found = limit / groups * _is_hit(held, candidates, top_k)
    else:
        inside = groups // num_parts
        ways = comb(groups, limit)
        found = sum(
            comb(inside, taken)
            * comb(groups - inside, limit - taken)
            / ways
            * _is_hit(held * taken / inside, candidates, top_k)
            for taken in range(1, min(inside, limit) + 1)
        )
    return float(min(found, top_k * share))


def _is_hit(held: float, candidates: float, top_k: int) -> float:
    """Probability that one of `top_k` different experts out of `candidates` is among `held`."""
    return 1 - prod(max(candidates - held - i, 0.0) / (candidates - i) for i in range(top_k))


def spread_pattern(algorithm: str, spread: Spread, members: Ints, fabric: Fabric) -> Pattern:
    """Loads and latency of each group, (groups, places), for each byte of all copies that a member sends.

    Raises SimError where a limit of nodes leaves fewer experts than a token needs.
    """
    assert members.shape[1] == len(spread.shares)
    if algorithm == "two_level":
        return _two_level(spread, members, fabric)
    assert algorithm == "pairwise", algorithm
    pairwise = Pairwise()
    if spread.is_even:
        return pairwise.pattern("all_to_all", members, fabric)
    return pairwise.pattern_of(_pairs(spread), members, fabric)


def _pairs(spread: Spread) -> Edges:
    """Every copy goes for itself: the share of its target's place."""
    source, target = np.nonzero(~np.eye(len(spread.shares), dtype=bool))
    return _directed(spread, Edges(source, target, np.array(spread.shares)[target]))


def _directed(spread: Spread, edges: Edges) -> Edges:
    return Edges(edges.target, edges.source, edges.bytes_per_byte) if spread.is_combine else edges


def _two_level(spread: Spread, members: Ints, fabric: Fabric) -> Pattern:
    """Groups whose places lie on nodes in the same way have the same messages."""
    (even,) = even_groups(members, fabric)
    order = np.argsort(fabric.node_of(members), axis=1, kind="stable")
    found = []
    for places in np.unique(order, axis=0):
        rows = np.flatnonzero((order == places).all(axis=1))
        found.append((rows, _of_places(spread, places.reshape(even.blocks.shape[1:]), members[rows], fabric)))
    latency_s = np.empty(len(members))
    for rows, part in found:
        latency_s[rows] = part.latency_s
    return Pattern(
        np.concatenate([rows[part.group] for rows, part in found]),
        np.concatenate([part.link for _, part in found]),
        np.concatenate([part.bytes_per_byte for _, part in found]),
        latency_s,
    )


def _of_places(spread: Spread, places: Ints, members: Ints, fabric: Fabric) -> Pattern:
    """places: (nodes, members of a node)."""
    inside, between = (_directed(spread, edges) for edges in dispatch_edges(spread, places))
    edges = joined([inside, between])
    load = loads(edges, members, fabric)
    latency_s = load.edge_latency_s[:, : len(inside)].max(axis=1)
    latency_s = latency_s + load.edge_latency_s[:, len(inside) :].max(axis=1, initial=0.0)
    return Pattern(load.group, load.link, load.bytes_per_byte, latency_s)


def dispatch_edges(spread: Spread, places: Ints) -> tuple[Edges, Edges]:
    """Messages inside nodes and between them, as DeepEP sends: a token crosses once to a node that one of its experts
    is on, to the member of the sender's own position, which hands it on once to each member that needs it. Combine goes
    back the same ways, with sums of a node's outputs. places: (nodes, members of a node), places of the group.

    Source: deepseek-ai/DeepEP, csrc/kernels/internode.cu; DeepSeek-V3, arXiv 2412.19437 section 3.2.2.
    """
    num_nodes, per_node = places.shape
    spread = on_nodes(spread, num_nodes)
    shares = np.array(spread.shares)
    to_node = np.array([reached(spread, w, num_nodes) for w in shares[places].sum(axis=1)]) / spread.top_k
    to_place = _by_distinct(spread, shares) / spread.top_k
    node, one, other = (axis.ravel() for axis in np.indices((num_nodes, per_node, per_node)))
    is_other = one != other
    source, target = places[node, one][is_other], places[node, other][is_other]
    # A member hands on what came from the member of its position on every node, and its own.
    inside = Edges(source, target, num_nodes * to_place[target])
    start, position, end = (axis.ravel() for axis in np.indices((num_nodes, per_node, num_nodes)))
    is_remote = start != end
    between = Edges(places[start, position][is_remote], places[end, position][is_remote], to_node[end[is_remote]])
    return inside, between


def _by_distinct(spread: Spread, shares: Floats) -> Floats:
    """`reached` of each place, computed once for each share."""
    found, number = np.unique(shares, return_inverse=True)
    each = np.array([reached(spread, float(share), len(shares)) for share in found])
    by_place: Floats = each[number]
    return by_place


def on_nodes(spread: Spread, num_nodes: int) -> Spread:
    """With a limit of nodes, nodes are the groups. Raises SimError where fewer experts are left than a token needs."""
    if spread.node_limit is None or num_nodes == 1:
        return spread
    limit = min(spread.node_limit, num_nodes)
    reach = limit * spread.num_experts // num_nodes
    if reach < spread.top_k:
        raise SimError(
            f"training.moe.node_limit = {spread.node_limit} of {num_nodes} nodes leaves {reach} of "
            f"{spread.num_experts} experts, but top_k = {spread.top_k}"
        )
    return replace(spread, num_groups=num_nodes, group_limit=limit)


def sent_bytes(spread: Spread, num_nodes: int) -> Iterator[tuple[str, float]]:
    """What a member sends with `two_level` for each byte of all its copies, a mean over senders: (level, share)."""
    size = len(spread.shares)
    places = np.arange(size).reshape(num_nodes, size // num_nodes)
    for name, edges in zip(("inside nodes", "between nodes"), dispatch_edges(spread, places), strict=True):
        yield name, float(edges.bytes_per_byte.sum()) / size


def handled_per_byte(spread: Spread, num_nodes: int) -> float:
    """Bytes that the kernel of the busiest member moves for each byte of all its copies: its own tokens once, and all
    that it sends and hands on or, the other way, receives."""
    size = len(spread.shares)
    places = np.arange(size).reshape(num_nodes, size // num_nodes)
    edges = joined(list(dispatch_edges(spread, places)))
    sent = np.bincount(edges.source, weights=edges.bytes_per_byte, minlength=size)
    received = np.bincount(edges.target, weights=edges.bytes_per_byte, minlength=size)
    return float(max(sent.max(), received.max())) + 1 / spread.top_k
