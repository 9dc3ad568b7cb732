"""What holds for every collective algorithm, over a grid of clusters and groups.

Each algorithm is also played message by message: the data must arrive, and its loads must be those messages' bytes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import yaml

from sim.cost.collectives import ALGORITHMS, OPS, Pattern
from sim.cost.collectives.edges import even_groups
from sim.cost.collectives.pat import shards_by_distance
from sim.cost.collectives.ring import ring_orders
from sim.cost.collectives.tree import tree_parents
from sim.cost.lines import Way, lone_line, protocols_of
from sim.cost.network_time import lone_call, lone_time_s
from sim.spec.network import Algorithms, Network
from sim.spec.topology import FABRICS, Fabric


def cluster(name: str, **overrides: object) -> Fabric:
    fields = yaml.safe_load((Path(__file__).parents[2] / "topologies" / f"{name}.yaml").read_text())
    return FABRICS[fields.pop("fabric")](**fields | overrides).build()


def sharp(name: str, **overrides: object) -> Fabric:
    """The cluster with switches that reduce."""
    nccl = yaml.safe_load((Path(__file__).parents[2] / "topologies" / f"{name}.yaml").read_text())["nccl"]
    return cluster(name, nccl=nccl | {"sharp": True}, **overrides)


H100 = "single-node-h100"
RAILS = {"gpus_per_node": 4, "nodes_per_unit": 2}
PLACES = {
    "pair": (cluster(H100), [[0, 1]]),
    "three of a node": (cluster(H100), [[5, 2, 3]]),
    "node": (cluster(H100), [list(range(8))]),
    "two halves of a node": (cluster(H100), [[0, 2, 4, 6], [7, 5, 3, 1]]),
    "two nodes": (cluster("dgx-h100", nodes=2, **RAILS), [list(range(8))]),
    "three nodes": (cluster("dgx-h100", nodes=3, **RAILS), [list(range(12))]),
    "five nodes of two, from the last": (cluster("dgx-h100", nodes=5, gpus_per_node=2), [list(range(10))[::-1]]),
    "rails of four nodes": (cluster("dgx-h100", nodes=4, **RAILS), [list(range(rail, 16, 4)) for rail in range(4)]),
    "pairs on seven nodes": (cluster("dgx-a100", nodes=7, **RAILS), [[4 * n + i for n in range(7) for i in (1, 2)]]),
    "uneven": (cluster("dgx-h100", nodes=3, **RAILS), [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]),
    "one off its node": (cluster("dgx-h100", nodes=2, **RAILS), [[0, 1, 2, 3, 4]]),
    "shared NICs": (cluster("fat-tree-a100-4nic", nodes=4, nodes_per_leaf=2), [list(range(32))]),
    "two racks": (cluster("gb200-nvl72", trays_per_rack=2), [list(range(16))]),
    "sharp": (sharp("dgx-h100", nodes=5, nodes_per_unit=2, gpus_per_node=4), [list(range(20))]),
    "sharp without nvls": (sharp("dgx-a100", nodes=5, nodes_per_unit=2, gpus_per_node=4), [list(range(20))]),
    "sharp on one rail": (sharp("dgx-a100", nodes=4, **RAILS), [list(range(rail, 16, 4)) for rail in range(4)]),
    "sharp on shared NICs": (sharp("fat-tree-a100-4nic", nodes=4, nodes_per_leaf=2), [list(range(32))]),
}


def combinations() -> Iterator[tuple[str, str, str]]:
    for place, (fabric, groups) in PLACES.items():
        for name, algorithm in ALGORITHMS.items():
            if algorithm.applies(np.array(groups), fabric):
                yield from ((place, name, op) for op in sorted(algorithm.ops))


@dataclass(frozen=True)
class Case:
    name: str
    op: str
    fabric: Fabric
    members: np.ndarray

    @property
    def pattern(self) -> Pattern:
        return ALGORITHMS[self.name].pattern(self.op, self.members, self.fabric)

    def time_s(self, nbytes: float) -> np.ndarray:
        return lone_time_s(self.pattern, nbytes, self.fabric)


@pytest.fixture(params=sorted(combinations()), ids=" ".join)
def case(request: pytest.FixtureRequest) -> Case:
    place, name, op = request.param
    fabric, groups = PLACES[place]
    return Case(name, op, fabric, np.array(groups))


# Messages of one group, in rounds: all of a round are sent before any is received.


@dataclass(frozen=True)
class Message:
    source: int
    target: int
    chunks: tuple[object, ...]
    reduces: bool


@dataclass(frozen=True)
class InSwitch:
    """A switch adds what its sources hold of the chunks and multicasts the sum.

    is_network: a tree of switches between nodes, whose links are those between any two of its members.
    """

    sources: tuple[int, ...]
    targets: tuple[int, ...]
    chunks: tuple[object, ...]
    is_network: bool = False


Rounds = list[list[Message | InSwitch]]


def scatter_rounds(order: list[int], shards: list[tuple[object, ...]]) -> Rounds:
    """Ring reduce_scatter: position i ends with shard i + 1."""
    n = len(order)
    return [
        [Message(order[i], order[(i + 1) % n], shards[(i - turn) % n], reduces=True) for i in range(n)]
        for turn in range(n - 1)
    ]


def gather_rounds(order: list[int], shards: list[tuple[object, ...]]) -> Rounds:
    """Ring all_gather: position i starts with shard i + 1."""
    n = len(order)
    return [
        [Message(order[i], order[(i + 1) % n], shards[(i + 1 - turn) % n], reduces=False) for i in range(n)]
        for turn in range(n - 1)
    ]


def together(parts: list[Rounds]) -> Rounds:
    """Rings that run at the same time."""
    rounds = max(len(part) for part in parts)
    return [[message for part in parts if turn < len(part) for message in part[turn]] for turn in range(rounds)]


def ring_rounds(op: str, members: list[int], fabric: Fabric) -> tuple[Rounds, dict[object, float]]:
    (even,) = even_groups(np.array([members]), fabric)
    orders = ring_orders(even.blocks)[0].tolist()
    parts = []
    sizes: dict[object, float] = {}
    for ring, order in enumerate(orders):
        shards = [((ring, shard),) for shard in range(len(order))]
        sizes |= {shard[0]: 1 / len(orders) / len(order) for shard in shards}
        if op == "broadcast":
            everything = tuple(shard[0] for shard in shards)
            start = order.index(members[0])
            way = order[start:] + order[:start]
            hops = pairwise(way)
            parts.append([[Message(source, target, everything, reduces=False)] for source, target in hops])
        else:
            scatter = scatter_rounds(order, shards) if op != "all_gather" else []
            gather = gather_rounds(order, shards) if op != "reduce_scatter" else []
            parts.append(scatter + gather)
    return together(parts), sizes


def hierarchical_rounds(op: str, members: list[int], fabric: Fabric) -> tuple[Rounds, dict[object, float]]:
    (even,) = even_groups(np.array([members]), fabric)
    blocks = even.blocks[0]
    num_nodes, per_node = blocks.shape
    sizes: dict[object, float] = {(c, j): 1 / per_node / num_nodes for c in range(per_node) for j in range(num_nodes)}
    inside = [tuple((c, j) for j in range(num_nodes)) for c in range(per_node)]
    nodes = blocks.tolist()
    rails = blocks.T.tolist()
    # After the scatter inside the nodes, position c has shard c + 1.
    between = [[(((c + 1) % per_node, j),) for j in range(num_nodes)] for c in range(per_node)]
    rounds: Rounds = []
    if op != "all_gather":
        rounds += together([scatter_rounds(node, inside) for node in nodes])
        rounds += together([scatter_rounds(rail, between[c]) for c, rail in enumerate(rails)])
    if op != "reduce_scatter":
        rounds += together([gather_rounds(rail, between[c]) for c, rail in enumerate(rails)])
        rounds += together([gather_rounds(node, inside) for node in nodes])
    return rounds, sizes


def tree_rounds(op: str, members: list[int], fabric: Fabric) -> tuple[Rounds, dict[object, float]]:
    """From the roots down; an all_reduce first sends the same messages backwards, reducing."""
    (even,) = even_groups(np.array([members]), fabric)
    nodes = even.blocks[0].tolist()
    per_node = len(nodes[0])
    root = members[0]
    if op == "broadcast":
        first = next(j for j, node in enumerate(nodes) if root in node)
        at = nodes[first].index(root)
        nodes = [node[at:] + node[:at] for node in nodes[first:] + nodes[:first]]
    down: Rounds = []
    for channel in range(per_node):
        chains = [node[channel:] + node[:channel] for node in nodes]
        heads = [chain[0] for chain in chains]
        for tree, parents in enumerate(tree_parents(len(nodes)).tolist()):
            hops: list[tuple[int, int]] = []
            if op == "broadcast":
                chains[0] = nodes[0]
                top = parents.index(-1)
                hops += pairwise(nodes[0])
                hops += [(heads[0], heads[top])] if top != 0 else []
                parents[top], parents[0] = 0, -1
            reached, last = {0 if op == "broadcast" else parents.index(-1)}, set()
            while reached != last:
                last = set(reached)
                for child, parent in enumerate(parents):
                    if parent in last and child not in last:
                        hops += [(heads[parent], heads[child])] if (heads[parent], heads[child]) not in hops else []
                        reached.add(child)
            skipped = chains[0] if op == "broadcast" else None
            for chain in chains:
                hops += pairwise(chain) if chain is not skipped else []
            down += [[Message(source, target, ((channel, tree),), reduces=False)] for source, target in hops]
    up = [[Message(m.target, m.source, m.chunks, reduces=True) for m in messages] for messages in reversed(down)]
    sizes: dict[object, float] = {(channel, tree): 0.5 / per_node for channel in range(per_node) for tree in range(2)}
    return (down if op == "broadcast" else up + down), sizes


def pairwise_rounds(op: str, members: list[int], fabric: Fabric) -> tuple[Rounds, dict[object, float]]:  # noqa: ARG001
    pairs = [(source, target) for source in members for target in members]
    messages = [Message(source, target, ((source, target),), reduces=False) for source, target in pairs]
    return [[m for m in messages if m.source != m.target]], dict.fromkeys(pairs, 1 / len(members))


def neighbour_rounds(op: str, members: list[int], fabric: Fabric) -> tuple[Rounds, dict[object, float]]:  # noqa: ARG001
    ring = pairwise([*members, members[0]])
    return [[Message(source, target, (source,), reduces=False) for source, target in ring]], dict.fromkeys(members, 1.0)


def switch_rounds(nodes: list[list[int]], shards: list[tuple[object, ...]]) -> tuple[Rounds, Rounds]:
    """Every member of a node gets the sum of its shard; and every shard goes from there to all members of the node."""
    adds = [InSwitch(tuple(node), (node[c],), shard) for node in nodes for c, shard in enumerate(shards)]
    copies = [InSwitch((node[c],), tuple(node), shard) for node in nodes for c, shard in enumerate(shards)]
    return [adds], [copies]


def nvls_rounds(op: str, members: list[int], fabric: Fabric) -> tuple[Rounds, dict[object, float]]:  # noqa: ARG001
    adds, copies = switch_rounds([members], [(shard,) for shard in range(len(members))])
    rounds = {"all_gather": copies, "reduce_scatter": adds}.get(op, adds + copies)
    return rounds, dict.fromkeys(range(len(members)), 1 / len(members))


def collnet_rounds(op: str, members: list[int], fabric: Fabric) -> tuple[Rounds, dict[object, float]]:  # noqa: ARG001
    (even,) = even_groups(np.array([members]), fabric)
    nodes = even.blocks[0].tolist()
    k = len(nodes[0])
    between: Rounds = [[InSwitch(rail := tuple(n[c] for n in nodes), rail, (c,), is_network=True) for c in range(k)]]
    if fabric.links.nccl.nvlink.nvls is not None and k > 1:
        before, after = switch_rounds(nodes, [(c,) for c in range(k)])
    else:
        pairs = [(node, c, d) for node in nodes for c in range(k) for d in range(k) if c != d]
        before = [[Message(node[d], node[c], (c,), reduces=True) for node, c, d in pairs]]
        after = [[Message(node[c], node[d], (c,), reduces=False) for node, c, d in pairs]]
    return before + between + after, dict.fromkeys(range(k), 1 / k)


def nvls_tree_rounds(op: str, members: list[int], fabric: Fabric) -> tuple[Rounds, dict[object, float]]:  # noqa: ARG001
    (even,) = even_groups(np.array([members]), fabric)
    nodes = even.blocks[0].tolist()
    per_node = len(nodes[0])
    adds, copies = switch_rounds(nodes, [((c, 0), (c, 1)) for c in range(per_node)])
    down: Rounds = []
    for tree, parents in enumerate(tree_parents(len(nodes)).tolist()):
        for channel in range(per_node):
            reached = [parents.index(-1)]
            for parent in reached:
                children = [child for child, above in enumerate(parents) if above == parent]
                reached += children
                down += [
                    [Message(nodes[parent][channel], nodes[child][channel], ((channel, tree),), reduces=False)]
                    for child in children
                ]
    up = [[Message(m.target, m.source, m.chunks, reduces=True) for m in messages] for messages in reversed(down)]
    sizes: dict[object, float] = {(channel, tree): 0.5 / per_node for channel in range(per_node) for tree in range(2)}
    return adds + up + down + copies, sizes


def halving_doubling_rounds(op: str, members: list[int], fabric: Fabric) -> tuple[Rounds, dict[object, float]]:  # noqa: ARG001
    """Halving keeps the shards that agree with one's own place in the bits seen so far; doubling gives them back."""
    n = len(members)
    distances = [1 << bit for bit in range(n.bit_length() - 1)]
    doubling: Rounds = [
        [
            Message(members[i], members[i ^ d], tuple(j for j in range(n) if (i ^ j) < d), reduces=False)
            for i in range(n)
        ]
        for d in distances
    ]
    halving: Rounds = [[Message(m.target, m.source, m.chunks, reduces=True) for m in step] for step in doubling[::-1]]
    rounds = {"all_gather": doubling, "reduce_scatter": halving}.get(op, halving + doubling)
    return rounds, dict.fromkeys(range(n), 1 / n)


def pat_rounds(op: str, members: list[int], fabric: Fabric) -> tuple[Rounds, dict[object, float]]:  # noqa: ARG001
    n = len(members)
    gather: Rounds = [
        [
            Message(members[i], members[(i + d) % n], tuple((i + d - o) % n for o in offsets), reduces=False)
            for i in range(n)
        ]
        for d, offsets in shards_by_distance(n).items()
    ]
    scatter: Rounds = [[Message(m.target, m.source, m.chunks, reduces=True) for m in step] for step in gather[::-1]]
    return gather if op == "all_gather" else scatter, dict.fromkeys(range(n), 1 / n)


def two_level_rounds(op: str, members: list[int], fabric: Fabric) -> tuple[Rounds, dict[object, float]]:  # noqa: ARG001
    (even,) = even_groups(np.array([members]), fabric)
    nodes = even.blocks[0].tolist()
    places = [(a, p) for a in range(len(nodes)) for p in range(len(nodes[0]))]
    over_rails = [
        Message(nodes[a][p], nodes[b][p], tuple((nodes[a][p], target) for target in nodes[b]), reduces=False)
        for a, p in places
        for b in range(len(nodes))
        if a != b
    ]
    over_nvlink = [
        Message(nodes[b][p], nodes[b][q], tuple((node[p], nodes[b][q]) for node in nodes), reduces=False)
        for b, p in places
        for q in range(len(nodes[0]))
        if p != q
    ]
    pairs = [(source, target) for source in members for target in members]
    return [over_rails, over_nvlink], dict.fromkeys(pairs, 1 / len(members))


ROUNDS = {
    "collnet": collnet_rounds,
    "halving_doubling": halving_doubling_rounds,
    "pat": pat_rounds,
    "two_level": two_level_rounds,
    "nvls": nvls_rounds,
    "nvls_tree": nvls_tree_rounds,
    "ring": ring_rounds,
    "hierarchical": hierarchical_rounds,
    "tree": tree_rounds,
    "pairwise": pairwise_rounds,
    "neighbour": neighbour_rounds,
}


def start(op: str, members: list[int], chunks: set[object], rounds: Rounds) -> dict[tuple[int, object], frozenset[int]]:
    """Whose data each member holds of each chunk before the collective."""
    own = {(member, chunk): frozenset({member}) for member in members for chunk in chunks}
    match op:
        case "all_reduce" | "reduce_scatter":
            return own
        case "broadcast":
            return {(members[0], chunk): frozenset({members[0]}) for chunk in chunks}
        case "all_to_all":
            return {place: whose for place, whose in own.items() if place[1][0] == place[0]}
        case "ring_shift":
            return {place: whose for place, whose in own.items() if place[1] == place[0]}
    # all_gather: a shard starts at the one member that never receives it.
    messages = [message for step in rounds for message in step]
    received = {(target, chunk) for message in messages for target in receivers(message) for chunk in message.chunks}
    return {place: whose for place, whose in own.items() if place not in received}


def receivers(message: Message | InSwitch) -> tuple[int, ...]:
    """Who did not hold the data before the message. A switch copies to its source, too."""
    if isinstance(message, InSwitch):
        return tuple(target for target in message.targets if target not in message.sources)
    return (message.target,)


def played(op: str, members: list[int], chunks: set[object], rounds: Rounds) -> dict[tuple[int, object], frozenset]:
    held = dict(start(op, members, chunks, rounds))
    for step in rounds:
        messages = [message for message in step if isinstance(message, Message)]
        summed = [(m, chunk, added(held, m, chunk)) for m in step if isinstance(m, InSwitch) for chunk in m.chunks]
        for in_switch, chunk, data in summed:
            held |= {(target, chunk): data for target in in_switch.targets}
        arriving = [(m, chunk, held[m.source, chunk]) for m in messages for chunk in m.chunks]
        for message, chunk, data in arriving:
            place = (message.target, chunk)
            if message.reduces:
                assert not held[place] & data, f"{place} adds the data of {held[place] & data} twice"
                held[place] |= data
            else:
                held[place] = data
    return held


def added(held: dict[tuple[int, object], frozenset[int]], message: InSwitch, chunk: object) -> frozenset[int]:
    parts = [held[source, chunk] for source in message.sources]
    assert sum(map(len, parts)) == len(frozenset.union(*parts)), f"a switch adds {chunk} twice"
    return frozenset.union(*parts)


def reference(case: Case, group: int) -> tuple[Rounds, dict[object, float], list[int]]:
    members = case.members[group].tolist()
    rounds, sizes = ROUNDS[case.name](case.op, members, case.fabric)
    return rounds, sizes, members


def test_every_algorithm_is_played():
    assert set(ROUNDS) == set(ALGORITHMS)


def test_every_collective_has_an_algorithm_for_any_groups():
    covered = {op for place, _, op in combinations() if place == "uneven"}
    assert covered == set(OPS)


def test_every_member_ends_with_the_data(case):
    for group in range(len(case.members)):
        rounds, sizes, members = reference(case, group)
        assert sum(sizes.values()) == pytest.approx(len(members) if case.op in ("all_to_all", "ring_shift") else 1)
        held = played(case.op, members, set(sizes), rounds)
        everyone = frozenset(members)
        match case.op:
            case "all_reduce":
                assert held == {(member, chunk): everyone for member in members for chunk in sizes}
            case "reduce_scatter":
                reduced = defaultdict(float)
                for (member, chunk), whose in held.items():
                    reduced[member] += sizes[chunk] if whose == everyone else 0
                assert reduced == pytest.approx(dict.fromkeys(members, 1 / len(members)))
            case "all_gather":
                sources = {chunk: {held[member, chunk] for member in members} for chunk in sizes}
                assert all(len(whose) == 1 for whose in sources.values())
                assert frozenset.union(*(whose for (whose,) in sources.values())) == everyone
            case "broadcast":
                assert held == {(member, chunk): frozenset({members[0]}) for member in members for chunk in sizes}
            case "all_to_all":
                assert {chunk for member, chunk in held if chunk[1] == member} == set(sizes)
            case "ring_shift":
                before = dict(zip(members, [members[-1], *members], strict=False))
                assert set(held) == {(member, chunk) for member in members for chunk in (member, before[member])}


def test_loads_are_the_bytes_of_the_messages_on_their_routes(case):
    loads = np.zeros((len(case.members), len(case.fabric.links)))
    for group in range(len(case.members)):
        rounds, sizes, _ = reference(case, group)
        for message in (message for messages in rounds for message in messages):
            if isinstance(message, InSwitch):
                size = sum(sizes[chunk] for chunk in message.chunks)
                links = case.fabric.links
                if message.is_network:
                    loads[group] += size * tree_shares(message.sources, case.fabric)
                    continue
                loads[group, np.isin(links.source, message.sources) & (links.tier == 0)] += size
                loads[group, np.isin(links.target, message.targets) & (links.tier == 0)] += size
                continue
            routes = case.fabric.routes(np.array([message.source]), np.array([message.target]))
            loads[group, routes.link] += routes.share * sum(sizes[chunk] for chunk in message.chunks)
    pattern = case.pattern
    found = np.zeros_like(loads)
    found[pattern.group, pattern.link] = pattern.bytes_per_byte
    assert found == pytest.approx(loads, rel=1e-9)


def tree_shares(members: tuple[int, ...], fabric: Fabric) -> np.ndarray:
    """Share of a message on each link when every link between two members carries it once, (links,)."""
    pairs = np.array([(source, target) for source in members for target in members if source != target])
    routes = fabric.routes(pairs[:, 0], pairs[:, 1])
    share = np.zeros(len(fabric.links))
    np.maximum.at(share, routes.link, routes.share)
    return share


def test_each_group_and_link_stands_once_with_bytes_on_it(case):
    pattern = case.pattern
    assert len(set(zip(pattern.group.tolist(), pattern.link.tolist(), strict=True))) == len(pattern.link)
    assert (pattern.bytes_per_byte > 0).all()
    assert pattern.latency_s.shape == (len(case.members),)


def test_groups_at_once_are_each_group_alone(case):
    whole = case.pattern
    for group, members in enumerate(case.members):
        if not ALGORITHMS[case.name].applies(members[None], case.fabric):
            continue
        alone = ALGORITHMS[case.name].pattern(case.op, members[None], case.fabric)
        rows = whole.group == group
        assert dict(zip(whole.link[rows].tolist(), whole.bytes_per_byte[rows].tolist(), strict=True)) == pytest.approx(
            dict(zip(alone.link.tolist(), alone.bytes_per_byte.tolist(), strict=True))
        )
        assert whole.latency_s[group] == pytest.approx(alone.latency_s[0])


SUMMED = {"all_gather": -1, "reduce_scatter": 1}
"""What n members pass up to the switches less what comes down, over n - 1: copies made, or parts added."""


def test_bytes_into_a_switch_or_nic_are_bytes_out(case):
    pattern, links = case.pattern, case.fabric.links
    balance = np.zeros((len(case.members), len(case.fabric.node_names())))
    np.add.at(balance, (pattern.group, links.target[pattern.link]), pattern.bytes_per_byte)
    np.add.at(balance, (pattern.group, links.source[pattern.link]), -pattern.bytes_per_byte)
    if case.name == "nvls" and case.op != "all_reduce":
        n = case.members.shape[1]
        assert balance[:, case.fabric.num_gpus :].sum(axis=1) == pytest.approx((n - 1) * SUMMED[case.op])
        return
    assert balance[:, case.fabric.num_gpus :] == pytest.approx(0, abs=1e-12)


def test_no_time_beats_the_rate_at_which_a_member_sends(case):
    links = case.fabric.links
    injection = np.bincount(links.source, weights=links.bytes_per_s)[0]
    n = case.members.shape[1]
    least = {"all_reduce": 2 * (n - 1) / n, "broadcast": 1.0, "ring_shift": 1.0}.get(case.op, (n - 1) / n)
    is_reduced = case.op == "all_reduce" and (case.name.startswith("nvls") or case.name == "collnet")
    least = 1.0 if is_reduced else least  # the switch sends the sum back, not every other part
    nbytes = 1e9
    assert (case.time_s(nbytes) >= nbytes * least / injection * (1 - 1e-12)).all()


def test_no_time_beats_the_latency_to_the_farthest_member(case):
    for group, members in enumerate(case.members):
        source, target = np.repeat(members, len(members)), np.tile(members, len(members))
        if case.op == "broadcast":
            source, target = np.full(len(members), members[0]), members
        if case.op == "ring_shift":
            source, target = members, np.roll(members, -1)
        farthest_s = case.fabric.routes(source, target).latency_s.max()
        assert case.time_s(0)[group] >= farthest_s * (1 - 1e-12)


def test_twice_the_bytes_take_longer_but_at_most_twice_as_long(case):
    once, twice = case.time_s(1e7), case.time_s(2e7)
    assert (once < twice).all()
    assert (twice <= 2 * once).all()


@pytest.mark.parametrize("tier", ["nvlink", "nic"])
def test_a_lone_collective_is_never_slower_on_faster_links(tier):
    slow = {"nvlink": {"bandwidth": "200 GB/s", "efficiency": 0.82, "latency": "0.95 us"}, "nodes": 3} | RAILS
    slow |= {"nic": {"bandwidth": "100 Gbit/s", "efficiency": 0.96, "latency": "6 us"}}
    fast = slow | {tier: slow[tier] | {"bandwidth": "800 Gbit/s" if tier == "nic" else "900 GB/s"}}
    before, after = cluster("dgx-h100", **slow), cluster("dgx-h100", **fast)
    members = np.arange(12)[None]
    for name, algorithm in ALGORITHMS.items():
        for op in algorithm.ops:
            if algorithm.applies(members, before):
                slower, faster = (Case(name, op, fabric, members).time_s(1e9)[0] for fabric in (before, after))
                assert faster <= slower


def test_the_time_of_a_lone_call_never_falls_when_its_bytes_grow(case):
    sizes = 2.0 ** np.arange(8, 34, 0.5)
    network = Network(algorithms=Algorithms(**{case.op: case.name} if case.op in Algorithms.model_fields else {}))
    for chosen in (Network(), network):
        times = [lone_call(case.op, nbytes, case.members, case.fabric, chosen).time_s.max() for nbytes in sizes]
        assert (np.diff(times) > 0).all()


def test_no_call_is_faster_than_its_loads_and_its_latency(case):
    """Whatever the protocol, at 1 GB."""
    for protocol in protocols_of(case.name, case.fabric):
        latency_s, s_per_byte = lone_line(Way(case.name, protocol), case.op, case.members, case.fabric)
        assert (latency_s > 0).all()
        assert (1e9 * s_per_byte >= (case.time_s(1e9) - case.pattern.latency_s) * (1 - 1e-12)).all()
