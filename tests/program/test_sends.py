"""Sends of the pipeline: what waits for them, and who shares their links."""

from collections.abc import Callable

import numpy as np
import pytest

from sim.engine.network import lone_rates
from sim.engine.timeline import Timeline
from sim.program.operations import Send
from sim.results.idle import compute_slots
from sim.simulation import run
from sim.spec.scenario import Scenario

Make = Callable[[dict[str, object]], Scenario]
PIPELINE = {"layout.pp": 4, "topology.nodes": 1, "training.global_batch": 16}
CHUNKS = {"layout.pp": 2, "layout.vpp": 2, "topology.nodes": 1, "layout.schedule": "interleaved_1f1b"}


def send_slots(timeline: Timeline, rank: int) -> list[int]:
    program = timeline.program
    bounds = program.ranks[rank]
    return [
        slot for slot in range(bounds.first, bounds.end) if isinstance(program.payloads[program.payload[slot]], Send)
    ]


def num_passed(timeline: Timeline) -> int:
    """Sends that their rank did not wait for before it computed on."""
    count = 0
    for rank in range(len(timeline.program.ranks)):
        computes = compute_slots(timeline, rank)
        for slot in send_slots(timeline, rank):
            after = computes[computes > slot]
            count += int(timeline.start_s[after[0]] < timeline.end_s[slot] * (1 - 1e-12))
    return count


@pytest.mark.parametrize("fidelity", ["full", "folded", "fused"])
@pytest.mark.parametrize("schedule", ["1f1b", "gpipe", "zb_h1"])
def test_where_sends_do_not_overlap_the_next_pass_starts_when_they_are_through(
    small: Make, schedule: str, fidelity: str
) -> None:
    changes = PIPELINE | {"layout.schedule": schedule}
    waits = run(small(changes | {"training.overlap.pipeline": False}), fidelity).timeline
    passes = run(small(changes | {"training.overlap.pipeline": True}), fidelity).timeline
    assert num_passed(waits) == 0
    assert num_passed(passes) > 0
    assert waits.step_s > passes.step_s


def test_left_out_it_is_as_the_stack_has_it_for_the_schedule(small: Make) -> None:
    """Megatron-LM overlaps sends with interleaving only; DualPipe's are overlapped."""

    def waits(changes: dict[str, object]) -> bool:
        return num_passed(run(small(changes), "folded").timeline) == 0

    assert waits(PIPELINE)
    assert not waits(CHUNKS)
    assert not waits(PIPELINE | {"stack.use": "deepseek-v3"})
    assert not waits(PIPELINE | {"stack.blocking_sends": ["gpipe"]})
    assert waits(CHUNKS | {"training.overlap.pipeline": False})


def test_of_two_stages_that_wait_each_forward_pass_follows_a_send(small: Make) -> None:
    """GPipe on two stages: the first runs F and its send in turn, m times; its last send ends with the last of them."""
    changes = {"layout.pp": 2, "topology.nodes": 1, "layout.dp": 4, "training.global_batch": 16}
    changes |= {"layout.schedule": "gpipe", "training.overlap.compute_slowdown": False}
    timeline = run(small(changes | {"training.overlap.pipeline": False}), "full").timeline
    first = next(index for index, rank in enumerate(timeline.program.ranks) if rank.pp_rank == 0)
    sends, computes = send_slots(timeline, first), compute_slots(timeline, first)
    assert len(sends) == 4
    forward_s = float(timeline.end_s[computes[0]] - timeline.start_s[computes[0]])
    send_s = float(timeline.end_s[sends[0]] - timeline.start_s[sends[0]])
    assert timeline.end_s[sends[-1]] - timeline.start_s[computes[0]] == pytest.approx(4 * (forward_s + send_s))


@pytest.mark.parametrize(("topology", "share"), [("fat-tree-a100-4nic", 2), ("dgx-h100", 1)])
def test_neighbours_whose_pipelines_leave_through_one_nic_send_at_half_rate(
    small: Make, topology: str, share: int
) -> None:
    """Eight pipelines of two stages on two nodes: with four NICs a node two of them share each."""
    changes = {"topology": {"use": topology, "nodes": 2}, "layout.pp": 2, "training.overlap.compute_slowdown": False}
    timeline = run(small(changes), "full").timeline
    program = timeline.program
    rate, flows = lone_rates(program.flows), program.flows
    forward = [slot for rank in range(8) for slot in send_slots(timeline, rank)[:1]]
    took = timeline.end_s[forward] - timeline.start_s[forward]
    flow = program.flow[forward]
    nbytes = np.array([program.payloads[program.payload[slot]].nbytes for slot in forward])
    moved_s = nbytes * flows.work_per_byte[flow] / rate[flow]
    assert took == pytest.approx(flows.latency_s[flow] + share * moved_s, rel=1e-9)
