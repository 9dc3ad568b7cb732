"""Every second has one cause, and overlap is what trace tools call overlap."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from sim.program.ranks import STREAM_INDEX
from sim.results.busy import communication
from sim.results.idle import compute_slots
from sim.simulation import Simulation, run
from sim.spec.scenario import Scenario

Make = Callable[[dict[str, object]], Scenario]

CASES: dict[str, dict[str, object]] = {
    "tensor": {"layout.tp": 8, "layout.sequence_parallel": True},
    "tensor across nodes": {"layout.tp": 8, "layout.order": "dp-cp-ep-tp-pp"},
    "pipeline": {"layout.pp": 4, "layout.zero": 1},
    "interleaved": {"layout.pp": 2, "layout.vpp": 2, "layout.schedule": "interleaved_1f1b"},
    "zero 3": {"layout.zero": 3, "training.recompute": "full"},
    "context": {"layout.cp": 4, "layout.tp": 2},
    "no overlap": {"layout.zero": 1, "training.overlap.grad_reduce": False, "training.overlap.param_gather": False},
    "shared NICs": {"topology": {"use": "fat-tree-a100-4nic", "nodes": 2}, "gpu": "a100-80gb-sxm", "layout.pp": 2},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("fidelity", ["full", "fused"])
def test_causes_add_up_to_the_step_on_every_rank(small: Make, case: str, fidelity: str) -> None:
    result = run(small(CASES[case]), fidelity).result
    assert sum(result.breakdown_s.values()) == pytest.approx(result.step_time_s, rel=1e-9)
    for causes in result.breakdown_s_by_rank.values():
        assert sum(causes.values()) == pytest.approx(result.step_time_s, rel=1e-9)
        assert min(causes.values()) >= 0
    assert sum(result.num_ranks_of.values()) == result.num_gpus


def overlap_by_sampling(simulation: Simulation, rank: int, kind: str) -> tuple[float, float]:
    """Time in which a kind runs, and in which compute runs too, from the elementary intervals of all operations."""
    timeline = simulation.timeline
    program = timeline.program
    bounds = program.ranks[rank]
    own = np.arange(bounds.first, bounds.end)
    compute = compute_slots(timeline, rank)
    mine = own[program.stream[own] == STREAM_INDEX[kind]]
    cuts = np.unique(np.concatenate([timeline.start_s[own], timeline.end_s[own]]))
    middle = (cuts[1:] + cuts[:-1]) / 2

    def runs(slots: np.ndarray) -> np.ndarray:
        starts, ends = timeline.start_s[slots][:, None], timeline.end_s[slots][:, None]
        return ((starts < middle) & (middle < ends)).any(axis=0)

    length = np.diff(cuts)
    return float(length[runs(mine)].sum()), float(length[runs(mine) & runs(compute)].sum())


@pytest.mark.parametrize(("case", "kind"), [("tensor", "tp"), ("zero 3", "dp_gather"), ("zero 3", "dp_reduce")])
def test_overlap_is_the_time_in_which_both_run(small: Make, case: str, kind: str) -> None:
    simulation = run(small(CASES[case]))
    running_s, overlapped_s = overlap_by_sampling(simulation, 0, kind)
    found = communication(simulation.timeline, 0)[kind]
    assert found.running_s == pytest.approx(running_s, rel=1e-9)
    assert found.overlapped_s == pytest.approx(overlapped_s, rel=1e-6, abs=1e-12)


def test_without_overlap_every_second_of_tensor_parallel_communication_is_exposed(small: Make) -> None:
    simulation = run(small({"layout.tp": 16, "model.num_heads": 16, "training.overlap.tensor": False}))
    running_s = communication(simulation.timeline, 0)["tp"].running_s
    assert simulation.result.exposed_s_by_kind["tp"] == pytest.approx(running_s, rel=1e-9)
    assert simulation.result.overlap_fraction_by_kind["tp"] == pytest.approx(0.0, abs=1e-12)


def test_overlap_hides_time_and_never_work(small: Make) -> None:
    """The same bytes, a shorter step, less exposed."""
    hidden = run(small({"layout.zero": 1})).result
    shown = run(small(CASES["no overlap"])).result
    assert hidden.link_use["nic"].bytes == pytest.approx(shown.link_use["nic"].bytes, rel=1e-9)
    assert hidden.step_time_s < shown.step_time_s
    assert hidden.exposed_s_by_kind["dp_reduce"] < shown.exposed_s_by_kind["dp_reduce"]


def test_mfu_counts_model_flops_and_hfu_what_is_recomputed(small: Make) -> None:
    plain = run(small({})).result
    weights = 4 * (2 * 1024 * 1024 + 2 * 1024 * 512 + 3 * 1024 * 4096) + 32000 * 1024
    # Forward and backward: 6 FLOPs for each weight and token, and 12 layers x heads x head dim x s for attention.
    flop = 32 * 1024 * (6 * weights + 12 * 4 * 1024 * 1024)
    assert plain.mfu == pytest.approx(flop / (16 * plain.step_time_s * 989e12), rel=1e-3)
    assert plain.hfu == plain.mfu
    assert plain.mfu_causal < plain.mfu
    full = run(small({"training.recompute": "full"})).result
    assert full.hfu / full.mfu == pytest.approx(
        (flop + 32 * 1024 * (2 * (weights - 32000 * 1024) + 4 * 4 * 1024 * 1024)) / flop
    )
    assert full.breakdown_s["recompute"] > 0


def test_hops_and_uneven_stages_add_to_the_published_bubble(small: Make) -> None:
    """The first stage's embedding, the last one's head and the latency of hops come on top of (p - 1) / m of ideal."""
    result = run(small({"layout.pp": 4, "model.vocab": 128, "training.seq_len": 4096})).result
    assert result.bubble_fraction_closed_form == pytest.approx(3 / (8 + 3))
    kernels = sum(result.breakdown_s.get(cause, 0.0) for cause in ("gemm", "attention", "memory_bound", "embedding"))
    assert 3 / 8 < result.breakdown_s["bubble"] / kernels < 3 / 8 * 1.3
    assert result.bubble_fraction_steady < result.bubble_fraction


def test_the_table_has_a_row_for_each_rank_and_cause(small: Make) -> None:
    result = run(small({"layout.pp": 2})).result
    frame = result.to_frame()
    assert set(frame.columns) == {"rank", "pp_rank", "num_ranks", "cause", "seconds", "share"}
    assert frame.groupby("rank")["share"].sum().to_numpy() == pytest.approx([1.0, 1.0])
