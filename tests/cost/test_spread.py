"""What experts send: copies to places, tokens to nodes, and the loads of links that follow."""

from math import comb
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sim.cost.collectives import ALGORITHMS, Pattern
from sim.cost.collectives.spread import Spread, dispatch_edges, reached, sent_bytes, spread_pattern
from sim.errors import SimError
from sim.spec.topology import FABRICS, Fabric


def cluster(nodes: int) -> Fabric:
    fields = yaml.safe_load((Path(__file__).parents[2] / "topologies" / "dgx-h100.yaml").read_text())
    return FABRICS[fields.pop("fabric")](**fields | {"nodes": nodes}).build()


def by_link(pattern: Pattern) -> dict[int, float]:
    return dict(zip(pattern.link.tolist(), pattern.bytes_per_byte.tolist(), strict=True))


def even(places: int, top_k: int, experts: int, **others: int) -> Spread:
    return Spread((1 / places,) * places, top_k, experts, **others)


@pytest.mark.parametrize(("nodes", "top_k", "experts"), [(8, 8, 256), (4, 2, 8), (2, 1, 16), (4, 6, 64)])
def test_a_token_reaches_the_expected_number_of_distinct_nodes(nodes: int, top_k: int, experts: int) -> None:
    expected = nodes * (1 - comb(experts - experts // nodes, top_k) / comb(experts, top_k))
    assert nodes * reached(even(nodes, top_k, experts), 1 / nodes, nodes) == pytest.approx(expected)


def test_a_limit_of_nodes_is_the_same_count_among_the_nodes_that_are_chosen() -> None:
    limited = even(8, 8, 256, num_groups=8, group_limit=4)
    expected = 4 * (1 - comb(96, 8) / comb(128, 8))
    assert 8 * reached(limited, 1 / 8, 8) == pytest.approx(expected)
    assert expected < 8 * reached(even(8, 8, 256), 1 / 8, 8) < 8


def test_nodes_of_several_groups_and_groups_of_several_nodes_are_counted_by_drawing() -> None:
    spread = even(4, 4, 64, num_groups=8, group_limit=3)
    generator = np.random.default_rng(0)
    draws = 20_000
    found = dict.fromkeys((4, 16), 0)
    for _ in range(draws):
        chosen = generator.choice(8, 3, replace=False)
        candidates = (chosen[:, None] * 8 + np.arange(8)).ravel()
        taken = generator.choice(candidates, 4, replace=False)
        for parts in found:
            found[parts] += len(set((taken // (64 // parts)).tolist()))
    for parts, count in found.items():
        assert parts * reached(spread, 1 / parts, parts) == pytest.approx(count / draws, rel=0.01)


@given(share=st.floats(0, 1), parts=st.sampled_from([2, 4, 8, 16]))
def test_a_part_is_reached_by_no_more_tokens_than_copies_and_by_no_more_than_all(share: float, parts: int) -> None:
    found = reached(even(16, 4, 64), share, parts)
    assert 0 <= found <= min(1, 4 * share) + 1e-12


def test_one_expert_a_token_is_the_plain_two_level_all_to_all() -> None:
    fabric = cluster(2)
    members = np.arange(16).reshape(1, 16)
    plain = ALGORITHMS["two_level"].pattern("all_to_all", members, fabric)
    found = spread_pattern("two_level", even(16, 1, 64), members, fabric)
    assert by_link(found) == pytest.approx(by_link(plain))
    assert found.latency_s == pytest.approx(plain.latency_s)


@pytest.mark.parametrize(("algorithm", "nodes"), [("pairwise", 1), ("two_level", 1), ("two_level", 2)])
def test_combine_loads_the_links_of_dispatch_the_other_way(algorithm: str, nodes: int) -> None:
    fabric = cluster(2)
    members = np.arange(8 * nodes).reshape(1, 8 * nodes)
    shares = np.arange(1, 8 * nodes + 1)
    spread = Spread(tuple(shares / shares.sum()), 2, 64)
    there, back = (spread_pattern(algorithm, each, members, fabric) for each in (spread, spread.back))
    assert sorted(there.bytes_per_byte) == pytest.approx(sorted(back.bytes_per_byte))
    assert by_link(there) != pytest.approx(by_link(back))


def test_every_copy_arrives_with_pairwise_and_egress_is_even() -> None:
    fabric = cluster(1)
    shares = (0.4, 0.1, 0.1, 0.1, 0.1, 0.1, 0.05, 0.05)
    pattern = spread_pattern("pairwise", Spread(shares, 2, 8), np.arange(8).reshape(1, 8), fabric)
    loads = sorted(by_link(pattern).values())
    egress = [1 - share for share in shares]
    ingress = [7 * share for share in shares]
    assert loads == pytest.approx(sorted(egress + ingress))


def test_between_nodes_a_token_goes_once_to_each_node() -> None:
    sent = dict(sent_bytes(even(32, 8, 256), 4))
    to_node = 1 - comb(192, 8) / comb(256, 8)
    assert sent["between nodes"] == pytest.approx(3 * to_node / 8)
    to_rank = 1 - comb(248, 8) / comb(256, 8)
    assert sent["inside nodes"] == pytest.approx(4 * 7 * to_rank / 8)


def test_a_limit_of_nodes_takes_bytes_off_the_network() -> None:
    free, limited = (dict(sent_bytes(even(64, 8, 256, **limit), 8)) for limit in ({}, {"node_limit": 4}))
    assert limited["between nodes"] == pytest.approx(7 / 8 * 4 * (1 - comb(96, 8) / comb(128, 8)) / 8)
    assert limited["between nodes"] < free["between nodes"]


def test_a_limit_that_leaves_too_few_experts_is_refused() -> None:
    with pytest.raises(SimError, match="leaves 4 of 16 experts, but top_k = 8"):
        dispatch_edges(even(16, 8, 16, node_limit=1), np.arange(16).reshape(4, 4))
