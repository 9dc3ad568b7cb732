"""Kernels slow down while communication runs on their GPU, and by as much as it takes from them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from sim.cost.slowdown import slowdown_factor
from sim.engine.timeline import Timeline
from sim.program.lower import Fidelity
from sim.program.operations import Collective, Compute, Send
from sim.results.idle import compute_slots
from sim.simulation import run
from sim.spec.gpu import Gpu
from sim.spec.scenario import Scenario
from sim.spec.topology import Floats, Ints

CASES: list[dict[str, object]] = [
    {"layout.tp": 4, "layout.sequence_parallel": True, "layout.pp": 2, "training.overlap.pipeline": True},
    {"layout.pp": 4, "layout.zero": 1, "training.overlap.grad_reduce": True, "training.overlap.pipeline": True},
    {"layout.zero": 3, "layout.tp": 2},
    {"layout.pp": 2, "layout.vpp": 2, "layout.schedule": "interleaved_1f1b", "layout.tp": 2, "layout.zero": 2},
    {"layout.tp": 2, "layout.pp": 2, "conditions.gpus": {3: 0.5}},
    {"layout.tp": 2, "conditions.jitter": {"per_operation": 0.1}},
]


def factors(timeline: Timeline, gpu: Gpu) -> dict[str, float]:
    """Factor of each kind of communication."""
    found = {}
    for payload in timeline.program.payloads:
        if isinstance(payload, Collective):
            found[payload.kind] = slowdown_factor(payload.op, gpu)
        elif isinstance(payload, Send):
            found[payload.kind] = slowdown_factor("send", gpu)
    return found


def communication_slots(timeline: Timeline, rank: int, kind: str) -> Ints:
    program = timeline.program
    own = np.flatnonzero((program.rank == rank) | (program.receiver == rank))
    is_kind = np.array([getattr(payload, "kind", "") == kind for payload in program.payloads])
    chosen: Ints = own[is_kind[program.payload[own]]]
    return chosen


def work_s(timeline: Timeline, rank: int, gpu: Gpu) -> tuple[Floats, Floats]:
    """Work of each kernel of a rank, s: from the rates that the communication in the timeline implies, and alone."""
    program, slots = timeline.program, compute_slots(timeline, rank)
    rows = {kind: communication_slots(timeline, rank, kind) for kind in factors(timeline, gpu)}
    moments = np.unique(np.concatenate([timeline.start_s, timeline.end_s]))
    middle = (moments[1:] + moments[:-1]) / 2
    rate = np.ones(len(middle))
    for kind, factor in factors(timeline, gpu).items():
        runs = np.zeros(len(middle), dtype=bool)
        for slot in rows[kind].tolist():
            runs[np.searchsorted(middle, timeline.start_s[slot]) : np.searchsorted(middle, timeline.end_s[slot])] = True
        rate[runs] /= factor
    done = np.concatenate([[0.0], np.cumsum(rate * np.diff(moments))])
    found = np.interp(timeline.end_s[slots], moments, done) - np.interp(timeline.start_s[slots], moments, done)
    alone = np.array([sum(times) for times in timeline.kernel_s])[program.payload[slots]] * program.pace[slots]
    return found, alone


@pytest.mark.parametrize("fidelity", ["full", "folded", "fused"])
@pytest.mark.parametrize("changes", CASES)
def test_the_integral_of_its_rate_is_the_work_of_a_kernel(
    small: Callable[..., Scenario], changes: dict[str, object], fidelity: Fidelity
) -> None:
    scenario = small(changes)
    timeline = run(scenario, fidelity).timeline
    slowed = 0
    for rank in range(min(len(timeline.program.ranks), 4)):
        found, alone = work_s(timeline, rank, scenario.gpu)
        assert found == pytest.approx(alone, rel=1e-9, abs=1e-12 * timeline.step_s)
        slots = compute_slots(timeline, rank)
        took = timeline.end_s[slots] - timeline.start_s[slots]
        slowed += int((took > alone * (1 + 1e-9)).sum())
    assert slowed > 0


@pytest.mark.parametrize("changes", CASES)
def test_the_breakdown_says_what_it_costs(small: Callable[..., Scenario], changes: dict[str, object]) -> None:
    slow = run(small(changes)).result
    fast = run(small({**changes, "training.overlap.compute_slowdown": False})).result
    assert "compute_slowdown" not in fast.breakdown_s
    assert 0 < slow.breakdown_s["compute_slowdown"] < slow.step_time_s
    for cause in ("gemm", "attention", "memory_bound"):
        assert slow.breakdown_s[cause] == pytest.approx(fast.breakdown_s[cause], rel=1e-12)


def test_a_gpu_whose_kernels_are_not_slowed_loses_nothing(small: Callable[..., Scenario]) -> None:
    none = {"collective": 1.0, "all_to_all": 1.0, "send": 1.0}
    changes = {"layout.tp": 4, "layout.pp": 2}
    free = run(small({**changes, "gpu.slowdown": none})).result
    off = run(small({**changes, "training.overlap.compute_slowdown": False})).result
    assert free.step_time_s == off.step_time_s
    assert free.breakdown_s == off.breakdown_s


def test_a_stronger_prior_costs_more(small: Callable[..., Scenario]) -> None:
    times = [
        run(small({"layout.pp": 2, "layout.tp": 4, "gpu.slowdown.collective": factor})).result.step_time_s
        for factor in (1.0, 1.1, 1.3, 2.0)
    ]
    assert times == sorted(times)
    assert times[0] < times[-1]


def test_exposed_communication_slows_nothing(small: Callable[..., Scenario]) -> None:
    """Without overlap in tensor parallelism no kernel runs beside communication, but for the reduction at the end."""
    changes = {"layout.tp": 8, "layout.dp": 2, "training.overlap.tensor": False, "training.overlap.grad_reduce": False}
    result = run(small(changes)).result
    assert "compute_slowdown" not in result.breakdown_s
    assert all(isinstance(payload, Compute | Collective) for payload in run(small(changes)).timeline.program.payloads)
