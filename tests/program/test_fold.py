"""Folding finds the coarsest stable partition: that of a plain refinement, on drawn layouts, fabrics and flows."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sim.program.flows import Flows, FlowType, flows
from sim.program.fold import Folding, fold
from sim.program.operations import PP_BACKWARD, PP_FORWARD
from sim.spec.colours import number, partition
from sim.spec.layout import Layout, coordinates, num_ranks
from sim.spec.topology import FABRICS, Fabric

GB = 1e9
NETWORK: dict[str, Any] = {
    "nvlink": {"bandwidth": 100 * GB, "efficiency": 0.5, "latency": 1e-6},
    "nic": {"bandwidth": 20 * GB, "efficiency": 0.5, "latency": 4e-6},
    "pcie": {"bandwidth": 60 * GB, "efficiency": 0.5, "latency": 2e-6},
    "spine": {"count": 2, "oversubscription": 2, "efficiency": 0.5, "latency": 0.5e-6},
}
HOPS = (FlowType(PP_FORWARD, "send", "pp", "send"), FlowType(PP_BACKWARD, "send", "pp", "send"))
GROUPS = {
    "tp": FlowType("tp", "all_gather", "tp", "ring"),
    "cp": FlowType("cp", "all_to_all", "cp", "pairwise"),
    "dp": FlowType("dp_reduce", "reduce_scatter", "dp_cp", "ring"),
    "pp": FlowType("embedding", "all_reduce", "embedding", "ring"),
}
NORM = FlowType("grad_norm", "all_reduce", "world", "ring", is_control=True)


def draw_fabric(rng: np.random.Generator) -> Fabric:
    """8 to 48 GPUs; the last leaf is full or not."""
    gpus_per_node = int(rng.choice([2, 4]))
    nodes = int(rng.choice([4, 6, 12]))
    match rng.integers(3):
        case 0:
            shape = {"nodes": nodes, "gpus_per_node": gpus_per_node, "nodes_per_unit": int(rng.integers(1, 5))}
            family = "rail_optimized"
        case 1:
            shape = {"nodes": nodes, "gpus_per_node": gpus_per_node}
            shape |= {"nics_per_node": 2, "nodes_per_leaf": int(rng.integers(1, 5))}
            family = "fat_tree"
        case _:
            shape = {"racks": nodes // 2, "trays_per_rack": 2, "gpus_per_tray": gpus_per_node, "racks_per_unit": 2}
            family = "nvl72"
    nested = [f"{port}.{key}" for port, fields in NETWORK.items() for key in fields]
    flat = [key for key in shape if key not in ("nodes", "racks")]
    fields = {"name": family, **NETWORK, **shape}
    return FABRICS[family](sources=dict.fromkeys([*flat, *nested], "this test"), **fields).build()


def draw_layout(rng: np.random.Generator, num_gpus: int) -> Layout:
    """Any sizes of the axes, in any order."""
    sizes = {}
    left = num_gpus
    for axis in rng.permutation(["tp", "cp", "pp"]).tolist():
        sizes[axis] = int(rng.choice([size for size in range(1, 9) if left % size == 0]))
        left //= sizes[axis]
    order = "-".join(rng.permutation(["tp", "cp", "ep", "dp", "pp"]).tolist())
    return Layout(**sizes, dp=left, vpp=int(rng.integers(1, 3)), order=order, schedule="1f1b")


def draw_flows(rng: np.random.Generator) -> tuple[np.ndarray, Flows]:
    """Programs of the ranks, and all flows of a drawn layout; some draws have a slow rank or slow links."""
    fabric = draw_fabric(rng)
    layout = draw_layout(rng, fabric.num_gpus)
    sizes = {"tp": layout.tp, "cp": layout.cp, "dp": layout.dp * layout.cp, "pp": layout.pp}
    types = [kind for axis, kind in GROUPS.items() if sizes[axis] > 1]
    types += [*(HOPS if layout.pp > 1 else ()), NORM]
    found = flows(types, layout, fabric)
    program = coordinates(layout, "pp")
    if rng.random() < 0.3:
        program[rng.integers(num_ranks(layout))] = layout.pp
    if rng.random() < 0.3:
        rate = found.link_bytes_per_s.copy()
        rate[rng.integers(0, len(rate), 2)] /= 2
        found = replace(found, link_bytes_per_s=rate)
    return program, found


def in_order(signatures: Sequence[Hashable]) -> list[int]:
    """Class numbers in the order of the first members."""
    numbers: dict[Hashable, int] = {}
    return [numbers.setdefault(signature, len(numbers)) for signature in signatures]


def bags(size: int, index: np.ndarray, entries: list[tuple[Hashable, ...]]) -> list[Hashable]:
    found: list[Counter] = [Counter() for _ in range(size)]
    for at, entry in zip(index.tolist(), entries, strict=True):
        found[at][entry] += 1
    return [frozenset(counter.items()) for counter in found]


def plain_refinement(program: np.ndarray, flows: Flows) -> tuple[list[int], list[int], list[int]]:
    """Classes of ranks, flows and links: all split at once by what they are joined to, until nothing splits."""
    role, load = flows.member_role.tolist(), [f"{value:.9e}" for value in flows.row_load.tolist()]
    columns = (flows.latency_s, flows.work_per_byte, flows.limit_per_s)
    texts = [[f"{value:.9e}" for value in column.tolist()] for column in columns]
    rank = in_order(program.tolist())
    flow = in_order(list(zip(flows.type.tolist(), *texts, strict=True)))
    link = in_order(list(zip(flows.link_bytes_per_s.tolist(), flows.link_tier.tolist(), strict=True)))
    while True:
        member = [(rank[at], which) for at, which in zip(flows.member_rank.tolist(), role, strict=True)]
        joined = [(flow[at], which) for at, which in zip(flows.member_flow.tolist(), role, strict=True)]
        crossed = [(link[at], each) for at, each in zip(flows.row_link.tolist(), load, strict=True)]
        carried = [(flow[at], each) for at, each in zip(flows.row_flow.tolist(), load, strict=True)]
        members = bags(len(flow), flows.member_flow, member)
        crossing = bags(len(flow), flows.row_flow, crossed)
        finer = (
            in_order(list(zip(rank, bags(len(rank), flows.member_rank, joined), strict=True))),
            in_order(list(zip(flow, members, crossing, strict=True))),
            in_order(list(zip(link, bags(len(link), flows.row_link, carried), strict=True))),
        )
        if finer == (rank, flow, link):
            return finer
        rank, flow, link = finer


def check_folding(found: Folding, program: np.ndarray, flows: Flows) -> None:
    """Classes and quotient are those of the plain refinement."""
    rank, flow, link = plain_refinement(program, flows)
    assert found.rank_class.tolist() == rank
    assert found.flow_class.tolist() == flow
    assert found.representative.tolist() == [rank.index(own) for own in range(max(rank) + 1)]
    assert found.multiplicity.tolist() == [rank.count(own) for own in range(max(rank) + 1)]
    assert found.flows.link_count.tolist() == [link.count(own) for own in range(max(link) + 1)]
    link_first = [link.index(own) for own in range(max(link) + 1)]
    flow_first = [flow.index(own) for own in range(max(flow) + 1)]
    assert found.flows.link_bytes_per_s.tolist() == flows.link_bytes_per_s[link_first].tolist()
    assert found.flows.type.tolist() == flows.type[flow_first].tolist()
    rows = list(zip(flows.row_flow.tolist(), flows.row_link.tolist(), flows.row_load.tolist(), strict=True))
    expected: dict[tuple[int, int], float] = defaultdict(float)
    for at, crossed, load in rows:
        if crossed in link_first:
            expected[flow[at], link[crossed]] += load
    quotient = zip(found.flows.row_flow.tolist(), found.flows.row_link.tolist(), strict=True)
    assert dict(zip(quotient, found.flows.row_load.tolist(), strict=True)) == pytest.approx(
        dict(sorted(expected.items()))
    )
    columns = (flows.member_flow.tolist(), flows.member_rank.tolist(), flows.member_role.tolist())
    member = {(flow[at], rank[who], role) for at, who, role in zip(*columns, strict=True) if at in flow_first}
    quotient = found.flows
    columns = (quotient.member_flow.tolist(), quotient.member_rank.tolist(), quotient.member_role.tolist())
    assert list(zip(*columns, strict=True)) == sorted(member)


def drawn_rows(rng: np.random.Generator) -> tuple[np.ndarray, Flows]:
    """Flows of two or three members over links at random, which no fabric has: few loads, parallel rows, bare links."""
    num_ranks_, num_flows, num_links = (int(size) for size in rng.integers(2, 14, 3))
    num_rows, num_members = int(rng.integers(0, 40)), int(rng.integers(1, 30))
    ones = np.ones(num_flows)
    return rng.integers(0, 2, num_ranks_), Flows(
        types=(HOPS[0], NORM),
        type=rng.integers(0, 2, num_flows),
        latency_s=rng.choice([1e-6, 2e-6], num_flows),
        work_per_byte=ones,
        limit_per_s=rng.choice([np.inf, 1e9], num_flows),
        row_flow=rng.integers(0, num_flows, num_rows),
        row_link=rng.integers(0, num_links, num_rows),
        row_load=rng.choice([1.0, 0.5, 1 / 3], num_rows),
        member_flow=rng.integers(0, num_flows, num_members),
        member_rank=rng.integers(0, num_ranks_, num_members),
        member_role=rng.integers(0, 2, num_members),
        link_bytes_per_s=rng.choice([1e9, 2e9], num_links),
        link_count=np.ones(num_links, dtype=np.int64),
        link_tier=rng.integers(0, 2, num_links),
        tiers=("nvlink", "nic"),
    )


@pytest.mark.parametrize("seed", range(60))
def test_folding_a_drawn_layout_is_a_plain_refinement(seed: int):
    program, drawn = draw_flows(np.random.default_rng(seed))
    check_folding(fold(program, drawn), program, drawn)


@pytest.mark.parametrize("seed", range(200))
def test_folding_drawn_flows_is_a_plain_refinement(seed: int):
    program, drawn = drawn_rows(np.random.default_rng(seed))
    check_folding(fold(program, drawn), program, drawn)


def ring_of_pairs(pairs: list[tuple[int, int]]) -> Flows:
    """A flow for each pair of ranks, over a link of its own."""
    size = len(pairs)
    each = np.arange(size)
    return Flows(
        types=(NORM,),
        type=np.zeros(size, dtype=np.int64),
        latency_s=np.ones(size),
        work_per_byte=np.ones(size),
        limit_per_s=np.full(size, np.inf),
        row_flow=each,
        row_link=each,
        row_load=np.ones(size),
        member_flow=np.repeat(each, 2),
        member_rank=np.array(pairs).ravel(),
        member_role=np.zeros(2 * size, dtype=np.int64),
        link_bytes_per_s=np.ones(size),
        link_count=np.ones(size, dtype=np.int64),
        link_tier=np.zeros(size, dtype=np.int64),
        tiers=("nvlink",),
    )


def test_one_cycle_of_six_and_two_of_three_cannot_be_told_apart():
    """Stable, though no symmetry maps one to the other: the classes have equal rates all the same."""
    six = [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 0)]
    threes = [(6, 7), (7, 8), (8, 6), (9, 10), (10, 11), (11, 9)]
    found = fold(np.zeros(12, dtype=np.int64), ring_of_pairs(six + threes))
    assert found.multiplicity.tolist() == [12]
    assert len(found.flows) == 1


def test_one_unlike_rank_splits_a_cycle_by_the_distance_to_it():
    program = np.array([0, 0, 0, 1, 0, 0, 0])
    found = fold(program, ring_of_pairs([(at, (at + 1) % 7) for at in range(7)]))
    assert found.rank_class.tolist() == [0, 1, 2, 3, 2, 1, 0]


def test_classes_are_numbered_in_the_order_of_their_first_members():
    found = partition(np.array([7, 3, 7, 9, 3]), np.array([0, 0, 0, 0, 1]))
    assert found.number.tolist() == [0, 1, 0, 2, 3]
    assert found.first.tolist() == [0, 1, 3, 4]
    assert found.counts().tolist() == [2, 1, 1, 1]


@pytest.mark.parametrize("num_keys", [1, 50, 20_000])
def test_a_partition_of_many_things_is_that_of_their_keys(num_keys: int):
    """As many keys as things make the table of colours crowded."""
    keys = np.random.default_rng(num_keys).integers(-num_keys, num_keys, 20_000)
    assert partition(keys).number.tolist() == in_order(keys.tolist())


def test_a_number_is_told_apart_beyond_rounding():
    values = np.array([1.0, 1.0 + 1e-14, 1.0 + 1e-9, 0.0, np.inf, 1e-30])
    keys = number(values).tolist()
    assert keys[0] == keys[1]
    assert len(set(keys)) == 5
