"""A kernel starts when its host has issued it, and a host that is fast enough is never noticed."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import assume, given, seed, settings
from hypothesis import strategies as st

from sim.cost.host import HostCosts, issue_s, launches, lead_s
from sim.cost.kernels import Gemm, Stream
from sim.engine.play import play
from sim.engine.timeline import Timeline
from sim.errors import SimError
from sim.program.lower import Fidelity, lower
from sim.program.operations import Compute
from sim.program.table import SCHEDULES
from sim.results.idle import Releases, idle, pipeline_window
from sim.results.result import Result
from sim.results.summarise import summarise
from sim.spec.conditions import built_fabric
from sim.spec.scenario import Scenario

Make = Callable[[dict[str, object]], Scenario]
Playing = Callable[..., Timeline]

SLOW = HostCosts(kernel_s=30e-6, collective_s=60e-6, graph_s=None)
"""Slower than the kernels of the small model."""

MIDDLING = HostCosts(kernel_s=6e-6, collective_s=20e-6, graph_s=None)
"""Slower than some of its kernels."""

CASES: dict[str, dict[str, object]] = {
    "tensor": {"layout.tp": 4, "layout.sequence_parallel": True, "layout.pp": 2},
    "pipeline": {"layout.pp": 4, "layout.zero": 1},
    "interleaved": {"layout.pp": 2, "layout.vpp": 2, "layout.schedule": "interleaved_1f1b", "layout.tp": 2},
    "zero 3": {"layout.zero": 3, "layout.tp": 2},
    "slow GPU": {"layout.tp": 2, "layout.pp": 2, "conditions.gpus": {3: 0.5}},
    "jitter": {"layout.tp": 2, "conditions.jitter": {"per_operation": 0.1}},
}


def played(scenario: Scenario, host: HostCosts | None, fidelity: Fidelity = "fused") -> Timeline:
    program = lower(scenario, built_fabric(scenario), fidelity)
    return play(program, scenario.gpu, slows_compute=scenario.training.overlap.compute_slowdown, host=host)


def result(scenario: Scenario, host: HostCosts | None, fidelity: Fidelity = "fused") -> Result:
    return summarise(played(scenario, host, fidelity), scenario, "test")


def issued(timeline: Timeline, host: HostCosts) -> list[float]:
    """Of each node, when the last of its hosts has issued it so that no kernel of it waits, one launch after the
    other."""
    program = timeline.program
    found = [0.0] * len(program.node)
    for rank in program.ranks:
        now_s = 0.0
        for slot in range(rank.first, rank.end):
            payload = program.payloads[program.payload[slot]]
            if isinstance(payload, Compute) and host.graph_s is None:
                lead_s, began_s, before_s = 0.0, now_s, 0.0
                for kernel, time_s in zip(payload.kernels, timeline.kernel_s[program.payload[slot]], strict=True):
                    for _ in range(launches(kernel)):
                        now_s += host.kernel_s
                        lead_s = max(lead_s, now_s - began_s - before_s)
                        before_s += time_s / launches(kernel) * program.pace[slot]
                ready_s = began_s + lead_s
            else:
                now_s += host.graph_s if isinstance(payload, Compute) else host.collective_s
                ready_s = now_s
            found[program.node[slot]] = max(found[program.node[slot]], ready_s)
    return found


@given(
    st.lists(st.tuples(st.floats(0.0, 5.0), st.integers(1, 3)), min_size=1, max_size=6),
    st.floats(0.0, 4.0),
    st.floats(0.0, 20.0),
    st.sampled_from([1.0, 1.5]),
)
def test_kernels_back_to_back_end_when_kernels_that_start_as_soon_as_they_can_do(
    drawn: list[tuple[float, int]], launch_s: float, free_s: float, pace: float
) -> None:
    kernels = tuple(Stream("norm", 1.0, launches=count) for _, count in drawn)
    times_s = tuple(time_s for time_s, _ in drawn)
    now_s, issue = free_s, 0.0
    for time_s, count in drawn:
        for _ in range(count):
            issue += launch_s
            now_s = max(now_s, issue) + time_s * pace / count
    host = HostCosts(launch_s, 0.0, None)
    start_s = max(free_s, float(lead_s(kernels, times_s, np.array([pace]), host)[0]))
    assert start_s + sum(times_s) * pace == pytest.approx(now_s, rel=1e-12, abs=1e-12)
    assert issue_s(kernels, host) == pytest.approx(issue)


def test_a_graph_is_one_launch_whatever_it_holds() -> None:
    kernels = (Gemm("qkv", 512, 512, 512, "bf16"), Stream("norm", 1.0), Stream("gelu", 1.0))
    host = HostCosts(kernel_s=5.0, collective_s=0.0, graph_s=7.0)
    assert issue_s(kernels, host) == 7.0
    assert lead_s(kernels, (1.0, 1.0, 1.0), np.ones(2), host).tolist() == [7.0, 7.0]


@pytest.mark.parametrize(("kernel_s", "launch_s"), [(1.0, 0.25), (1.0, 1.0), (0.25, 1.0)])
@pytest.mark.parametrize("parts", [1, 4])
def test_equal_kernels_of_one_rank_take_the_longer_of_kernels_and_launches(
    playing: Playing, kernel_s: float, launch_s: float, parts: int
) -> None:
    """N kernels of d and launches of h: the first launch and N d, or N h and the last kernel."""
    m = 8
    table = SCHEDULES["1f1b"].table(1, 1, m)
    timeline = playing(
        table, 1, parts * kernel_s, parts * kernel_s, parts=parts, host=HostCosts(launch_s, launch_s, None)
    )
    count = 2 * m * parts
    assert timeline.step_s == pytest.approx(max(launch_s + count * kernel_s, count * launch_s + kernel_s), rel=1e-12)
    causes = idle(timeline, Releases(timeline), 0, pipeline_window(timeline)).seconds()
    assert causes.pop("host_launch") == pytest.approx(timeline.step_s - count * kernel_s, rel=1e-9)
    assert sum(causes.values()) == 0.0


def test_hosts_of_all_stages_issue_at_the_same_time(playing: Playing) -> None:
    """Every stage's last backward is its 2 m-th launch; from there on they follow each other up the pipeline."""
    p, m, launch_s = 4, 8, 100.0
    timeline = playing(SCHEDULES["gpipe"].table(p, 1, m), 1, 1.0, 1.0, host=HostCosts(launch_s, 0.0, None))
    assert timeline.step_s == pytest.approx(2 * m * launch_s + p * 1.0, rel=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_a_host_that_is_free_changes_no_byte(small: Make, case: str) -> None:
    scenario = small(CASES[case])
    free, none = (played(scenario, host) for host in (HostCosts(0.0, 0.0, None), None))
    assert free.start_s.tobytes() == none.start_s.tobytes()
    assert free.end_s.tobytes() == none.end_s.tobytes()
    assert free.played == none.played
    assert summarise(free, scenario, "test") == summarise(none, scenario, "test")


@pytest.mark.parametrize("host", [MIDDLING, SLOW, HostCosts(30e-6, 60e-6, 10e-6), HostCosts(1e-6, 400e-6, None)])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("fidelity", ["full", "fused"])
def test_operations_start_when_they_are_issued_and_what_they_come_after_is_done(
    small: Make, case: str, fidelity: Fidelity, host: HostCosts
) -> None:
    """Also those that are played as if they had no host, because it cannot hold them up."""
    timeline = played(small(CASES[case]), host, fidelity)
    program = timeline.program
    ready_s = np.array(issued(timeline, host))
    assert np.count_nonzero(timeline.release_s) > 0
    np.maximum.at(ready_s, program.target, timeline.end_s[program.source])
    nodes = program.nodes()
    assert timeline.start_s[nodes] == pytest.approx(ready_s[nodes], rel=1e-11, abs=1e-11 * timeline.step_s)


def test_large_kernels_wait_for_the_first_launch_only(small: Make) -> None:
    scenario = small({"model.hidden": 8192, "model.num_heads": 64, "model.ffn_hidden": 32768, "training.seq_len": 4096})
    host = HostCosts(kernel_s=2e-6, collective_s=2e-6, graph_s=None)
    timeline, free = played(scenario, host), played(scenario, None)
    assert timeline.step_s == pytest.approx(free.step_s + 2e-6, rel=1e-12)
    assert timeline.played == free.played
    assert np.count_nonzero(timeline.release_s) < 10


@pytest.mark.parametrize("changes", [{"layout.tp": 4}, {"layout.tp": 2, "layout.zero": 3}, CASES["tensor"]])
def test_a_step_that_is_bound_by_launches_takes_what_its_host_needs(small: Make, changes: dict[str, object]) -> None:
    host = HostCosts(kernel_s=1e-3, collective_s=1e-3, graph_s=None)
    timeline = played(small(changes), host)
    program = timeline.program
    slowest_s = max(
        sum(
            host.kernel_s * sum(map(launches, item.kernels)) if isinstance(item, Compute) else host.collective_s
            for item in (program.payloads[number] for number in program.payload[rank.first : rank.end].tolist())
        )
        for rank in program.ranks
    )
    last_s = max(time for times in timeline.kernel_s for time in times)
    assert slowest_s < timeline.step_s < slowest_s + 2 * last_s
    causes = summarise(timeline, small(changes), "test").breakdown_s
    # What a stage waits for because the one before it waits for its host, is bubble.
    assert causes["host_launch"] + causes["bubble"] > 0.9 * timeline.step_s
    assert (causes["bubble"] > 0) == ("layout.pp" in changes)


def test_graphs_take_launches_off_the_host(small: Make) -> None:
    scenario = small(CASES["tensor"])
    plain = result(scenario, SLOW)
    graphs = result(scenario, HostCosts(SLOW.kernel_s, SLOW.collective_s, graph_s=SLOW.kernel_s))
    free = result(scenario, None)
    assert free.step_time_s < graphs.step_time_s < plain.step_time_s
    assert graphs.breakdown_s["host_launch"] < plain.breakdown_s["host_launch"]


def test_a_collective_that_its_host_issues_late_leaves_its_own_time_exposed(small: Make) -> None:
    """Nothing else changes: what the step is longer by is the host's."""
    scenario = small(
        {"layout.tp": 8, "training.overlap.tensor": False, "training.overlap.grad_reduce": False}
        | {"training.overlap.compute_slowdown": False}
    )
    free, late = result(scenario, None), result(scenario, HostCosts(1e-9, 1e-3, None))
    host_s = late.breakdown_s.pop("host_launch")
    assert host_s > free.step_time_s
    assert late.step_time_s - host_s == pytest.approx(free.step_time_s, rel=1e-9)
    for cause, seconds in free.breakdown_s.items():
        assert late.breakdown_s[cause] == pytest.approx(seconds, rel=1e-9, abs=1e-12 * late.step_time_s), cause


@st.composite
def changes(draw: st.DrawFn) -> dict[str, object]:
    tp, cp, pp = draw(st.sampled_from([1, 2, 4])), draw(st.sampled_from([1, 2])), draw(st.sampled_from([1, 2, 4]))
    schedule = draw(st.sampled_from(["gpipe", "1f1b", "interleaved_1f1b"] if pp > 1 else ["gpipe", "1f1b"]))
    vpp = 2 if schedule == "interleaved_1f1b" else 1
    made: dict[str, object] = {
        "topology": {"use": draw(st.sampled_from(["dgx-h100", "fat-tree-a100-4nic"])), "nodes": 2},
        "model.num_layers": 8 if pp * vpp == 8 else 4,
        "layout.tp": tp,
        "layout.cp": cp,
        "layout.pp": pp,
        "layout.sequence_parallel": tp > 1 and draw(st.booleans()),
        "layout.zero": draw(st.integers(0, 3)),
        "layout.schedule": schedule,
        "layout.vpp": vpp,
        "layout.order": "-".join(draw(st.sampled_from(list(itertools.permutations(("tp", "cp", "ep", "dp", "pp")))))),
        "training.global_batch": 16 // (tp * cp * pp) * 4,
        "training.recompute": draw(st.sampled_from(["none", "full"])),
        "training.overlap.grad_reduce": draw(st.booleans()),
        "training.overlap.tensor": draw(st.booleans()),
        "training.overlap.compute_slowdown": draw(st.booleans()),
    }
    if draw(st.booleans()):
        made["conditions.gpus"] = {draw(st.integers(0, 15)): draw(st.sampled_from([0.5, 0.9]))}
    elif draw(st.booleans()):
        made["conditions.jitter"] = {draw(st.sampled_from(["per_rank", "per_operation"])): 0.05}
    return made


HOSTS = st.builds(
    HostCosts,
    st.sampled_from([2e-6, 8e-6, 30e-6, 120e-6]),
    st.sampled_from([5e-6, 20e-6, 60e-6]),
    st.sampled_from([None, None, 10e-6]),
)


def test_every_fidelity_gives_the_same_with_a_host(small: Make) -> None:
    had: Counter[str] = Counter()

    @seed(0)
    @settings(max_examples=80, deadline=None, database=None)
    @given(changes(), HOSTS)
    def compare(changes: dict[str, object], host: HostCosts) -> None:
        try:
            scenario = small(changes)
        except SimError:
            assume(False)
        full, folded, fused = (result(scenario, host, each) for each in ("full", "folded", "fused"))
        close = {"rel": 1e-9, "abs": 1e-9 * full.step_time_s}
        for other in (folded, fused):
            assert other.step_time_s == pytest.approx(full.step_time_s, rel=1e-9)
            for cause in full.breakdown_s | other.breakdown_s:
                found = other.breakdown_s.get(cause, 0.0)
                assert found == pytest.approx(full.breakdown_s.get(cause, 0.0), **close), cause
        for causes in full.breakdown_s_by_rank.values():
            assert sum(causes.values()) == pytest.approx(full.step_time_s, rel=1e-9)
            assert min(causes.values()) >= 0
        had["drawn"] += 1
        had["folded"] += folded.simulated_ranks < full.num_gpus
        had["fused"] += fused.simulated_operations < folded.simulated_operations
        had["bound by launches"] += full.breakdown_s["host_launch"] > 0.1 * full.step_time_s
        had["slowed"] += "compute_slowdown" in full.breakdown_s

    compare()
    assert had["drawn"] >= 80
    assert all(had[what] > had["drawn"] / 10 for what in ("folded", "bound by launches", "slowed")), had
    assert had["fused"] > 0, had
