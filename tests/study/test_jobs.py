"""Two jobs on one cluster: what they share stretches by a known factor, what they do not share is as it is alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from sim.engine.timeline import Timeline
from sim.errors import SimError
from sim.program.operations import Collective
from sim.results.links import link_bytes
from sim.simulation import simulate
from sim.spec.scenario import Scenario
from sim.spec.topology import FABRICS, FabricSpec
from sim.study.jobs import Job, together

GB = 1e9
Make = Callable[[dict[str, object]], Scenario]


def tree(nics: int) -> FabricSpec:
    """Two nodes of four GPUs on one leaf; NICs are slow, all else is fast."""
    fields: dict[str, Any] = {
        "nvlink": {"bandwidth": 400 * GB, "efficiency": 1.0, "latency": 1e-6},
        "pcie": {"bandwidth": 400 * GB, "efficiency": 1.0, "latency": 1e-6},
        "nic": {"bandwidth": 20 * GB, "efficiency": 1.0, "latency": 1e-6},
        "spine": {"count": 1, "oversubscription": 1, "efficiency": 1.0, "latency": 1e-6},
    }
    shape = {"gpus_per_node": 4, "nics_per_node": nics, "nodes_per_leaf": 2}
    sources = dict.fromkeys([*shape, *(f"{port}.{key}" for port, of in fields.items() for key in of)], "this test")
    return FABRICS["fat_tree"](name="tree", nodes=2, sources=sources, **shape, **fields)


@pytest.fixture
def replicas(small: Make) -> Callable[..., Scenario]:
    """Two replicas of the small model, which reduce their gradients when all of them are there."""

    def made(**changes: object) -> Scenario:
        topology = {"use": "fat-tree-a100-4nic", "nodes": 2, "gpus_per_node": 1, "nics_per_node": 1}
        basis = {
            "topology": topology,
            "layout.zero": 0,
            "training.global_batch": 2,
            "training.overlap.grad_reduce": False,
        }
        return small(basis | changes)

    return made


def reduced_s(timeline: Timeline) -> tuple[float, float]:
    """Seconds of the gradients' all_reduces of rank 0, and the bytes that they move."""
    program = timeline.program
    own = np.arange(program.ranks[0].first, program.ranks[0].end)
    payloads = [program.payloads[payload] for payload in program.payload[own].tolist()]
    slots = [slot for slot, what in zip(own.tolist(), payloads, strict=True) if isinstance(what, Collective)]
    slots = [slot for slot in slots if program.payloads[program.payload[slot]].nbytes > 1e6]
    nbytes = sum(program.payloads[program.payload[slot]].nbytes for slot in slots)
    return float((timeline.end_s[slots] - timeline.start_s[slots]).sum()), float(nbytes)


def test_equal_jobs_that_share_a_nic_move_their_gradients_at_half_its_rate(replicas: Callable[..., Scenario]) -> None:
    """A ring of two moves one byte a byte each way: the second job adds bytes / 20 GB/s to the step of the first."""
    jobs = [Job(replicas(), (0, 4)), Job(replicas(), (1, 5))]
    shared, apart = together(jobs, tree(nics=1)), together(jobs, tree(nics=4))
    for beside, alone in zip(shared, apart, strict=True):
        (shared_s, nbytes), (alone_s, _) = reduced_s(beside.timeline), reduced_s(alone.timeline)
        assert nbytes > 1e8
        assert shared_s - alone_s == pytest.approx(nbytes / (20 * GB), rel=1e-9)
        added_s = beside.result.step_time_s - alone.result.step_time_s
        assert added_s == pytest.approx(nbytes / (20 * GB), rel=1e-9)


def test_jobs_that_share_no_link_take_what_each_takes_alone(small: Make) -> None:
    topology = tree(nics=4)
    fields = {"fabric": "fat_tree", **topology.model_dump()}
    one = small({"topology": fields | {"nodes": 1}, "layout.tp": 2, "layout.zero": 1})
    other = small({"topology": fields | {"nodes": 1}, "layout.pp": 2, "training.recompute": "full"})
    played = together([Job(one, range(4)), Job(other, range(4, 8))], topology)
    for simulation, scenario in zip(played, (one, other), strict=True):
        alone = simulate(scenario, "full")
        assert simulation.result.step_time_s == pytest.approx(alone.step_time_s, rel=1e-9)
        assert simulation.result.breakdown_s == pytest.approx(alone.breakdown_s, rel=1e-9)
        assert simulation.result.operations == alone.operations
        assert simulation.result.simulated_operations == alone.simulated_operations


def test_a_job_has_the_network_to_itself_once_the_other_has_ended(replicas: Callable[..., Scenario]) -> None:
    """The second job has a quarter of the tokens, so that its gradients are through before the first job's begin."""
    jobs = [Job(replicas(**{"training.global_batch": 64}), (0, 4)), Job(replicas(), (1, 5))]
    long, short = together(jobs, tree(nics=1))
    alone, _ = together(jobs, tree(nics=4))
    assert short.result.step_time_s < long.result.step_time_s - reduced_s(long.timeline)[0]
    assert long.result.step_time_s == pytest.approx(alone.result.step_time_s, rel=1e-9)


def test_links_carry_the_bytes_of_both_jobs_and_none_above_its_capacity(replicas: Callable[..., Scenario]) -> None:
    played = together([Job(replicas(), (0, 4)), Job(replicas(), (1, 5))], tree(nics=1))
    carried = [link_bytes(simulation.timeline) for simulation in played]
    links = played[0].fabric.links
    nic = links.tier == links.tiers.index("nic")
    assert carried[0][nic].sum() == pytest.approx(carried[1][nic].sum(), rel=1e-9)
    step_s = max(simulation.timeline.step_s for simulation in played)
    assert ((carried[0] + carried[1]) / step_s <= links.bytes_per_s * (1 + 1e-9)).all()


def test_results_say_that_other_jobs_ran(replicas: Callable[..., Scenario]) -> None:
    (one, _) = together([Job(replicas(), (0, 4)), Job(replicas(), (1, 5))], tree(nics=1))
    assert "Played at once with 1 other job on tree, one step of each." in one.result.notes


@pytest.mark.parametrize(
    ("places", "changes", "message"),
    [
        ([(0, 4)], {}, r"too few jobs to play together \(got 1, allowed 2 or more\)"),
        ([(0, 4), (4, 5)], {}, r"GPUs hold one rank each \(got 4 twice\)"),
        ([(0, 4), (1, 8)], {}, r"no such GPU for small \(got 8, allowed 0 .. 7\)"),
        ([(0, 4), (1, 5, 6)], {}, r"small has 2 ranks \(got 3 GPUs, allowed 2\)"),
        ([(0, 4), (1, 5)], {"gpu": "a100-80gb-sxm"}, "gpu of small differs"),
        ([(0, 4), (1, 5)], {"stack.host.kernel": "5 us"}, "stack.host of small differs"),
        ([(0, 4), (1, 5)], {"training.overlap.compute_slowdown": False}, "compute_slowdown of small differs"),
        ([(0, 4), (1, 5)], {"conditions.background": {"nic": 0.5}}, "conditions.background of small"),
        ([(0, 4), (1, 5)], {"conditions.links": {"nic0-leaf0": 0.5}}, "conditions.links of small"),
    ],
)
def test_jobs_that_do_not_fit_are_refused(
    places: list[tuple[int, ...]], changes: dict[str, object], message: str, replicas: Callable[..., Scenario]
) -> None:
    scenarios = [replicas(), replicas(**changes)]
    with pytest.raises(SimError, match=message):
        together([Job(scenario, place) for scenario, place in zip(scenarios, places, strict=False)], tree(nics=1))
