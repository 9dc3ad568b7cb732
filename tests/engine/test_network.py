"""Flows that share links: rates over time, conservation of bytes, and what a deadlock says."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import simpy

from sim.cost.collectives import ALGORITHMS
from sim.engine.network import SharedNetwork, lone_rates, rivals
from sim.engine.play import play
from sim.engine.timeline import Timeline
from sim.errors import SimError
from sim.program.flows import Flows, FlowType, members_of
from sim.program.lower import lower
from sim.program.operations import Collective
from sim.program.table import from_text
from sim.results.links import link_bytes
from sim.spec.scenario import Scenario

Make = Callable[[dict[str, object]], Scenario]


def flows(rows: list[tuple[int, int, float]], capacity: list[float]) -> Flows:
    """Flows of one rank each on a stream of their own, so that any two may run together."""
    flow, link, load = zip(*rows, strict=True)
    count = max(flow) + 1
    return Flows(
        types=(FlowType("tp", "all_reduce", "tp", "ring"),),
        type=np.zeros(count, dtype=np.int64),
        latency_s=np.zeros(count),
        work_per_byte=np.ones(count),
        limit_per_s=np.full(count, np.inf),
        row_flow=np.array(flow, dtype=np.int64),
        row_link=np.array(link, dtype=np.int64),
        row_load=np.array(load),
        member_flow=np.arange(count),
        member_rank=np.arange(count),
        member_role=np.zeros(count, dtype=np.int64),
        link_bytes_per_s=np.array(capacity),
        link_count=np.ones(len(capacity), dtype=np.int64),
        link_tier=np.zeros(len(capacity), dtype=np.int64),
        tiers=("wire",),
    )


def ends(shared: Flows, starts: list[tuple[float, int, float]]) -> dict[int, float]:
    """Start flows (when, flow, work) and note when each ends."""
    env = simpy.Environment()
    network = SharedNetwork(env, shared, rivals(shared))
    ended: dict[int, float] = {}
    network.on_end = lambda flow: ended.__setitem__(flow, env.now)

    def starting(when: float, flow: int, work: float) -> simpy.events.ProcessGenerator:
        yield env.timeout(when)
        network.start(flow, work, flow)

    for when, flow, work in starts:
        env.process(starting(when, flow, work))
    env.run()
    assert network.moved.tolist() == pytest.approx([work for _, _, work in sorted(starts, key=lambda s: s[1])])
    return ended


def test_a_lone_flow_takes_its_bytes_over_the_rate() -> None:
    assert ends(flows([(0, 0, 1.0)], [10.0]), [(0.0, 0, 50.0)]) == {0: 5.0}


def test_a_flow_that_joins_halves_the_rate_and_gives_it_back_when_it_ends() -> None:
    # Link of 10. Flow 0 alone for 2 s moves 20; then both at 5: flow 1 needs 20 / 5 = 4 s; flow 0 moves 20 more,
    # and its last 10 alone in 1 s.
    shared = flows([(0, 0, 1.0), (1, 0, 1.0)], [10.0])
    assert ends(shared, [(0.0, 0, 50.0), (2.0, 1, 20.0)]) == {1: pytest.approx(6.0), 0: pytest.approx(7.0)}


def test_eight_rings_through_one_nic_take_eight_times_as_long_as_one() -> None:
    shared = flows([(ring, 0, 1.0) for ring in range(8)], [10.0])
    assert ends(shared, [(0.0, ring, 10.0) for ring in range(8)]) == {ring: pytest.approx(8.0) for ring in range(8)}


def test_flows_on_different_links_do_not_meet() -> None:
    assert rivals(flows([(0, 0, 1.0), (1, 1, 1.0)], [10.0, 10.0])) == [(), ()]


def test_flows_of_one_stream_of_a_rank_never_run_together() -> None:
    shared = flows([(0, 0, 1.0), (1, 0, 1.0)], [10.0])
    one_rank = Flows(**(vars(shared) | {"member_rank": np.zeros(2, dtype=np.int64)}))
    assert rivals(one_rank) == [(), ()]


def test_a_lone_rate_is_that_of_the_slowest_link() -> None:
    assert lone_rates(flows([(0, 0, 1.0), (0, 1, 0.5)], [10.0, 2.0])).tolist() == [4.0]


WIRE_BYTES_PER_BYTE = {"simple": 1.0, "ll128": 128 / 120, "ll": 2.0}
"""NCCL's low-latency protocols send flags beside the data: 8 of 128 bytes, and 4 of 8."""

CASES: list[dict[str, object]] = [
    {"layout.tp": 4, "layout.pp": 2, "layout.sequence_parallel": True, "layout.zero": 1},
    {"layout.tp": 2, "layout.order": "dp-cp-ep-tp-pp", "layout.zero": 3},
    {"layout.cp": 2, "layout.pp": 2, "layout.schedule": "interleaved_1f1b", "layout.vpp": 2},
    {"topology": {"use": "fat-tree-a100-4nic", "nodes": 2}, "gpu": "a100-80gb-sxm", "layout.tp": 2},
]


@pytest.mark.parametrize("changes", CASES)
@pytest.mark.parametrize("fidelity", ["full", "fused"])
def test_links_carry_the_bytes_of_the_algorithms(small: Make, changes: dict[str, object], fidelity: str) -> None:
    """The integral of rates (engine) against size x bytes per byte of every call (cost), link tier by link tier."""
    scenario = small(changes)
    fabric = scenario.topology.build()
    timeline: Timeline = play(lower(scenario, fabric, fidelity), scenario.gpu)
    whole = lower(scenario, fabric, "full")
    expected = np.zeros(len(fabric.links))
    for node in whole.nodes().tolist():
        payload, flow = whole.payloads[whole.payload[node]], int(whole.flow[node])
        if flow < 0:
            continue
        kind = whole.flows.types[whole.flows.type[flow]]
        if isinstance(payload, Collective):
            members = members_of(scenario.layout, kind.group)
            ranks = set(whole.flows.member_rank[whole.flows.member_flow == flow].tolist())
            group = next(number for number, row in enumerate(members.tolist()) if set(row) == ranks)
            pattern = ALGORITHMS[kind.algorithm].pattern(kind.op, members[[group]], fabric)
            if not kind.is_control:
                wire_bytes = payload.nbytes * WIRE_BYTES_PER_BYTE[kind.protocol]
                np.add.at(expected, pattern.link, wire_bytes * pattern.bytes_per_byte)
        else:
            source, target = whole.ranks[whole.rank[node]].rank, int(whole.receiver[node])
            routes = fabric.routes(np.array([source]), np.array([target]))
            np.add.at(expected, routes.link, payload.nbytes * routes.share)
    carried = link_bytes(timeline) * timeline.program.flows.link_count
    for tier in range(len(fabric.links.tiers)):
        mine = carried[timeline.program.flows.link_tier == tier].sum()
        assert mine == pytest.approx(expected[fabric.links.tier == tier].sum(), rel=1e-9)
    if fidelity == "full":
        assert carried == pytest.approx(expected, rel=1e-9)


def test_a_deadlock_says_who_waits_for_whom(playing: Callable[..., Timeline]) -> None:
    """Rank 0 wants the gradient of micro-batch 0 before it sends micro-batch 1, which rank 1 wants first."""
    table = from_text("0F0 0B0 0F1 0B1\n1F1 1B1 1F0 1B0")
    with pytest.raises(SimError, match="deadlock") as caught:
        playing(table, 1, 1.0, 2.0)
    message = str(caught.value)
    assert "wait for each other" in message
    assert "rank 0 0B0: B" in message
    assert "rank 1 1F1: F" in message


UNMEASURED = {
    "fabric": "single_node",
    "name": "box",
    "gpus_per_node": 8,
    "nvlink": {"bandwidth": "450 GB/s", "efficiency": 0.82, "latency": "0.95 us"},
    "sources": dict.fromkeys(("gpus_per_node", "nvlink.bandwidth", "nvlink.efficiency", "nvlink.latency"), "this test"),
}
"""A node whose collectives nobody measured."""


def test_a_lone_call_takes_its_launch_its_steps_and_its_bytes(small: Make) -> None:
    """Ring all_reduce of 8 GPUs in a node: 14 us, 14 steps of 1.9 us, and 2 x 7/8 of 2 MiB at 16/17 of 82 % of
    450 GB/s."""
    scenario = small({"topology": UNMEASURED, "layout.tp": 8, "network.algorithms.all_reduce": "ring"})
    timeline = play(lower(scenario, scenario.topology.build(), "folded"), scenario.gpu)
    program = timeline.program
    activation = next(
        number
        for number, payload in enumerate(program.payloads)
        if isinstance(payload, Collective) and payload.kind == "tp" and payload.nbytes == 2 * 1024 * 1024
    )
    slots = np.flatnonzero(program.payload == activation)
    expected_s = 14e-6 + 14 * 1.9e-6 + 2 * 7 / 8 * 2**21 / (16 / 17 * 0.82 * 450e9)
    assert timeline.end_s[slots] - timeline.start_s[slots] == pytest.approx(np.full(len(slots), expected_s), rel=1e-9)
