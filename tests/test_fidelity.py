"""Playing one of each class of ranks, and runs of operations at once, gives what playing everything gives."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import assume, given, seed, settings
from hypothesis import strategies as st

from sim.errors import SimError
from sim.results.result import Result
from sim.simulation import simulate
from sim.spec.scenario import Scenario

DRAWS = int(os.environ.get("DRAWS", "500"))
"""Steps that are drawn: `make fidelity` draws 5,000."""

ENOUGH = 50
"""Draws of a condition among which a placement that splits a stage must be; few draws may miss it."""

CONDITIONS = ("data sheet", "slow GPUs", "bad cables", "slow GPUs and bad cables", "busy links", "jitter")
"""What a cluster is like; each has its part of the draws."""

ORDERS = ["-".join(axes) for axes in itertools.permutations(("tp", "cp", "ep", "dp", "pp"))]
FABRICS: dict[str, dict[str, object]] = {
    "dgx-h100": {},  # a NIC and a rail for each GPU
    "fat-tree-a100-4nic": {},  # a NIC for two GPUs
    "fat-tree-h100-2to1": {"nodes_per_leaf": 1},  # every hop between nodes goes over spines that carry half
}
CABLES = {
    "dgx-h100": ("gpu3-nvswitch0", "gpu5-nic5", "nic2-leaf2", "leaf1-spine0"),
    "fat-tree-a100-4nic": ("gpu3-nvswitch0", "gpu5-nic2", "nic1-leaf0"),
    "fat-tree-h100-2to1": ("gpu0-nvswitch0", "nic2-leaf0", "leaf0-spine0", "leaf0-spine1"),
}
"""Cables that there are with any number of nodes."""

ONE_CHUNK = ("gpipe", "1f1b", "zb_h1", "zb_h2", "zb_1p", "zb_2p")
TWO_CHUNKS = ("interleaved_1f1b", "interleaved_zb", "breadth_first", "zb_v", "dualpipe_v")

EXPERTS = {"num_experts": 4, "top_k": 2, "ffn_hidden": 1024}


@st.composite
def changes(draw: st.DrawFn, what: str) -> dict[str, object]:
    """A layout of 8 to 24 GPUs of a small model, on one of several fabrics. what: one of `CONDITIONS`."""
    topology = draw(st.sampled_from(list(FABRICS)))
    nodes = draw(st.sampled_from([1, 2, 3]))
    tp, cp, pp = draw(st.sampled_from([1, 2, 4])), draw(st.sampled_from([1, 2, 4])), draw(st.sampled_from([1, 2, 4]))
    gpus = 8 * nodes
    assume(gpus % (tp * cp * pp) == 0)
    dp = gpus // (tp * cp * pp)
    zero = draw(st.integers(0, 3))
    schedule = draw(st.sampled_from([*TWO_CHUNKS, *ONE_CHUNK, "dualpipe"] if pp > 1 else ONE_CHUNK))
    vpp = 2 if schedule in TWO_CHUNKS else 1
    batches = [2 * pp] if schedule.startswith("dualpipe") else [4] if vpp > 1 else [2, 4]
    made: dict[str, object] = {
        "topology": {"use": topology, "nodes": nodes, **FABRICS[topology]},
        "model.num_layers": 8 if pp * vpp == 8 else 4,
        "layout.tp": tp,
        **draw(sequence_over(cp)),
        "layout.pp": pp,
        "layout.sequence_parallel": tp > 1 and draw(st.booleans()),
        "layout.zero": zero,
        "layout.schedule": schedule,
        "layout.vpp": vpp,
        "layout.order": draw(st.sampled_from(ORDERS)),
        "training.global_batch": dp * draw(st.sampled_from(batches)),
        "training.recompute": draw(st.sampled_from(["none", "selective", "full"])),
        "training.overlap.grad_reduce": draw(st.booleans()),
        "training.overlap.tensor": draw(st.booleans()),
        "training.overlap.pipeline": draw(st.sampled_from([None, True, False])),
    }
    if tp > 1 and draw(st.booleans()):
        made |= {"layout.sequence_parallel": True, "training.overlap.tensor_chunks": draw(st.sampled_from([1, 4]))}
    if draw(st.booleans()):
        made |= {"model.experts": EXPERTS, "layout.sequence_parallel": tp > 1}
        ep, etp = draw(st.sampled_from([1, 2, 4])), draw(st.sampled_from([1, 2]))
        assume(tp * cp * dp % (ep * etp) == 0)
        made |= {"layout.ep": ep, "layout.etp": etp}
        may_pair = schedule == "interleaved_1f1b" or (schedule == "1f1b" and pp == 1)
        if ep > 1 and may_pair and made["training.recompute"] != "full" and zero < 3:
            made["training.overlap.expert"] = draw(st.booleans())
        if ep > 1:
            made["layout.order"] = draw(st.sampled_from([o for o in ORDERS if o.index("ep") < o.index("dp")]))
    if zero in (1, 2):
        made["training.overlap.param_gather"] = draw(st.booleans())
    if zero > 0:
        made |= draw(sharding(zero, dp * cp))
    if zero < 3:
        made["model.mtp_layers"] = draw(st.sampled_from([0, 0, 1, 2]))
    made |= draw(conditions(what, topology, gpus))
    assume("ring" not in str(made["layout.cp_method"]) or made["stack.use"] != "megatron-2021" or cp == 1)
    return made


@st.composite
def sequence_over(draw: st.DrawFn, cp: int) -> dict[str, object]:
    """How the sequence is split over cp ranks."""
    methods = ["all_gather", "ring", "ulysses", *(["ulysses_ring", "ulysses_all_gather"] if cp == 4 else [])]
    method = draw(st.sampled_from(methods))
    return {
        "layout.cp": cp,
        "layout.cp_method": method,
        "layout.cp_balance": draw(st.sampled_from(["zigzag", "none"])),
        "layout.cp_inner": 2 if method.startswith("ulysses_") else None,
    }


@st.composite
def sharding(draw: st.DrawFn, zero: int, ranks: int) -> dict[str, object]:
    """Shard groups, and what ZeRO-3 gathers and reduces; some of it is refused, and drawn again."""
    made: dict[str, object] = {}
    divisors = [size for size in range(2, ranks) if ranks % size == 0]
    if divisors and draw(st.integers(0, 2)) == 0:
        made["layout.shard"] = draw(st.sampled_from(divisors))
        made["training.grad_sync"] = draw(st.sampled_from({1: [None, "all_reduce"]}.get(zero, ["every", "two_hop"])))
    if zero == 3 and draw(st.booleans()):
        made["layout.reshard"] = draw(st.sampled_from([True, "step", *divisors]))
        made["training.gather_precision"] = draw(st.sampled_from([None, "int8", "fp32"]))
        if divisors and not made.get("layout.shard") and draw(st.booleans()):
            made |= {"training.reduce_precision": "int4", "layout.reduce_hop": draw(st.sampled_from(divisors))}
    return made


@st.composite
def conditions(draw: st.DrawFn, what: str, topology: str, gpus: int) -> dict[str, object]:
    """A slow GPU or two, a slow or broken cable or two, other traffic, or jitter; and what issues the kernels."""
    kernel, collective = draw(st.sampled_from([(0, 0), (0, 0), (2, 20), (10, 10)]))
    made: dict[str, object] = {
        "training.overlap.compute_slowdown": draw(st.integers(0, 3)) > 0,
        "training.cuda_graphs": draw(st.integers(0, 3)) == 0,
        "stack.use": draw(st.sampled_from(["megatron-core", "megatron-core", "megatron-2021", "fsdp"])),
        "stack.host": {"kernel": f"{kernel} us", "collective": f"{collective} us", "graph": f"{kernel} us"},
    }
    if "slow GPUs" in what:
        speeds = st.sampled_from([0.5, 0.8, 0.9])
        made["conditions.gpus"] = draw(st.dictionaries(st.integers(0, gpus - 1), speeds, min_size=1, max_size=2))
    if "bad cables" in what:
        cables, shares = st.sampled_from(CABLES[topology]), st.sampled_from([0.7, 0.3, 0.0])
        made["conditions.links"] = draw(st.dictionaries(cables, shares, min_size=1, max_size=2))
    if what == "busy links":
        busy = st.sampled_from((*CABLES[topology], "nvlink", "nic", "spine"))
        made["conditions.background"] = draw(
            st.dictionaries(busy, st.sampled_from([0.2, 0.5, 0.9]), min_size=1, max_size=3)
        )
    if what == "jitter":
        made["conditions.jitter"] = {draw(st.sampled_from(["per_rank", "per_operation"])): 0.05}
        made["seed"] = draw(st.integers(0, 3))
    return made


def assert_same(one: Result, other: Result) -> None:
    close = {"rel": 1e-9, "abs": 1e-9 * one.step_time_s}
    assert other.step_time_s == pytest.approx(one.step_time_s, rel=1e-9)
    for cause in one.breakdown_s | other.breakdown_s:
        assert other.breakdown_s.get(cause, 0.0) == pytest.approx(one.breakdown_s.get(cause, 0.0), **close), cause
    assert other.spending.gpu_j == pytest.approx(one.spending.gpu_j, rel=1e-9)
    assert other.bubble_fraction_steady == pytest.approx(one.bubble_fraction_steady, abs=1e-9)
    assert other.overlap_fraction_by_kind.keys() == one.overlap_fraction_by_kind.keys()
    for kind, fraction in one.overlap_fraction_by_kind.items():
        assert other.overlap_fraction_by_kind[kind] == pytest.approx(fraction, rel=1e-6, abs=1e-9), kind
    for tier, use in one.link_use.items():
        assert other.link_use[tier].bytes == pytest.approx(use.bytes, rel=1e-9)
        assert other.link_use[tier].num_links == use.num_links
        assert other.link_use[tier].max_use == pytest.approx(use.max_use, rel=1e-9)
    assert other.operations == one.operations
    assert other.memory == one.memory


@pytest.mark.parametrize("what", CONDITIONS)
def test_folded_and_fused_give_what_full_gives(small: Callable[..., Scenario], what: str) -> None:
    had: Counter[str] = Counter()

    @seed(0)
    @settings(max_examples=-(-DRAWS // len(CONDITIONS)), deadline=None, database=None)
    @given(changes(what))
    def compare(changes: dict[str, object]) -> None:
        try:
            scenario = small(changes)
        except SimError:
            assume(False)
        try:
            full = simulate(scenario, "full")
        except SimError as error:  # of a broken cable that only some algorithms need
            assume("no other way" not in str(error))
            raise
        folded, fused = simulate(scenario, "folded"), simulate(scenario, "fused")
        assert_same(full, folded)
        assert_same(full, fused)
        assert full.simulated_ranks == full.num_gpus
        assert fused.simulated_ranks == folded.simulated_ranks
        assert fused.simulated_operations <= folded.simulated_operations <= full.simulated_operations
        had["drawn"] += 1
        had["folded"] += folded.simulated_ranks < full.num_gpus
        had["several classes of a stage"] += scenario.layout.pp < folded.simulated_ranks < full.num_gpus
        had["fused"] += fused.simulated_operations < folded.simulated_operations
        had["slowed"] += "compute_slowdown" in full.breakdown_s
        had["shared NICs or spines"] += scenario.topology.name != "dgx-h100" and "nic" in full.link_use

    compare()
    assert had["drawn"] >= DRAWS // len(CONDITIONS)
    assert had["slowed"] > had["drawn"] / 5
    assert had["shared NICs or spines"] > 0
    if what == "jitter":
        assert had["folded"] == 0
    else:
        assert had["folded"] > had["drawn"] / 5
        assert had["several classes of a stage"] > 0 or had["drawn"] < ENOUGH
    if what == "data sheet":
        assert had["fused"] > had["drawn"] / 20


@pytest.mark.parametrize("schedule", [*ONE_CHUNK, *TWO_CHUNKS])
@pytest.mark.parametrize("overlaps", [True, False])
def test_ends_without_layers_are_played_alike(small: Callable[..., Scenario], schedule: str, *, overlaps: bool) -> None:
    """The first stage looks up embeddings, whose weight gradients a split backward pass has no kernel for."""
    scenario: Scenario = small(
        {"layout.pp": 4 if schedule in ONE_CHUNK else 2, "layout.vpp": 1 if schedule in ONE_CHUNK else 2}
        | {"layout.schedule": schedule, "layout.stage_layers": [0, 2, 2, 0], "layout.zero": 1}
        | {"training.overlap.grad_reduce": overlaps, "model.mtp_layers": 1}
    )
    full = simulate(scenario, "full")
    assert_same(full, simulate(scenario, "folded"))
    assert_same(full, simulate(scenario, "fused"))


@pytest.mark.parametrize(
    ("changes", "classes"),
    [
        ({"layout.tp": 8, "layout.sequence_parallel": True}, 1),
        ({"layout.tp": 4, "layout.pp": 2}, 2),
        ({"layout.pp": 4, "layout.zero": 3}, 4),
    ],
)
def test_ranks_of_a_stage_that_do_the_same_are_played_once(
    small: Callable[..., Scenario], changes: dict[str, object], classes: int
) -> None:
    scenario: Scenario = small(changes)
    folded, full = simulate(scenario, "folded"), simulate(scenario, "full")
    assert folded.simulated_ranks == classes < full.simulated_ranks == 16
    assert_same(full, folded)


def test_a_placement_that_straddles_nodes_splits_what_it_touches(small: Callable[..., Scenario]) -> None:
    """TP groups of 3 on nodes of 8 GPUs: some lie in a node, some in two, so stages have several classes."""
    scenario: Scenario = small(
        {"topology.nodes": 3, "layout.tp": 3, "layout.dp": 8, "model.num_heads": 9, "model.num_kv_heads": 9}
        | {"model.ffn_hidden": 4098, "model.hidden": 1152}
    )
    folded, full = simulate(scenario, "folded"), simulate(scenario, "full")
    assert folded.simulated_ranks > 1
    assert_same(full, folded)


def test_a_run_ends_where_a_collective_of_several_classes_leaves_it(small: Callable[..., Scenario]) -> None:
    """Data-parallel groups of 12 on nodes of 8: many classes join one reduction, which starts in the middle of the last
    backward block, after its very first operation on the second stage."""
    changes = {"topology.nodes": 3, "layout.pp": 2, "layout.schedule": "gpipe", "training.global_batch": 24}
    scenario: Scenario = small(changes)
    full = simulate(scenario, "full")
    assert 2 < simulate(scenario, "folded").simulated_ranks < 24
    assert_same(full, simulate(scenario, "fused"))


def test_weight_gradients_that_begin_with_communication_are_slowed_by_what_runs_beside(
    small: Callable[..., Scenario],
) -> None:
    """ZeRO-3 gathers ahead while a split backward pass gathers its tokens again under sequence parallelism."""
    scenario = small(
        {
            "layout.tp": 2,
            "layout.sequence_parallel": True,
            "layout.zero": 3,
            "layout.schedule": "zb_h2",
            "layout.order": "dp-cp-pp-ep-tp",
            "training.global_batch": 16,
            "training.overlap.grad_reduce": False,
            "training.overlap.tensor": False,
        }
    )
    assert_same(simulate(scenario, "full"), simulate(scenario, "fused"))
