from __future__ import annotations

import gzip
import itertools
import json
from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest

from sim.errors import SimError
from sim.report.trace import write_traces
from sim.results.idle import compute_slots
from sim.simulation import run

ALONE = {"layout.tp": 2, "layout.pp": 2, "training.overlap.compute_slowdown": False}
"""Nothing makes a kernel longer than alone."""


@pytest.fixture(scope="session")
def traces(simulations, tmp_path_factory):
    """The first simulation, and the trace of each of its ranks by rank."""
    paths = write_traces(simulations[0], tmp_path_factory.mktemp("traces"))
    texts = {path.name: gzip.decompress(path.read_bytes()).decode("ascii") for path in paths}
    return simulations[0], texts


def _documents(traces):
    simulation, texts = traces
    for rank in simulation.timeline.program.ranks:
        yield simulation, rank.rank, json.loads(texts[f"rank{rank.rank}.json.gz"])


def _kernels(document):
    return [event for event in document["traceEvents"] if event.get("cat") == "kernel"]


def test_there_is_one_file_for_each_simulated_rank(traces):
    simulation, texts = traces
    assert list(texts) == [f"rank{rank.rank}.json.gz" for rank in simulation.timeline.program.ranks]


def test_the_rank_stands_after_a_blank(traces):
    # HolisticTraceAnalysis finds the rank with a regular expression that needs it.
    simulation, texts = traces
    for rank in simulation.timeline.program.ranks:
        assert f'"rank": {rank.rank},' in texts[f"rank{rank.rank}.json.gz"][:2000]


def test_every_kernel_has_one_launch_with_its_correlation_no_later_than_it(traces):
    for _, _, document in _documents(traces):
        launches = {
            event["args"]["correlation"]: event
            for event in document["traceEvents"]
            if event.get("cat") == "cuda_runtime" and event["name"] == "cudaLaunchKernel"
        }
        kernels = _kernels(document)
        assert sorted(launches) == sorted(kernel["args"]["correlation"] for kernel in kernels)
        assert all(launches[kernel["args"]["correlation"]]["ts"] <= kernel["ts"] for kernel in kernels)


def test_slices_of_a_stream_do_not_overlap(traces):
    for _, _, document in _documents(traces):
        streams = defaultdict(list)
        for kernel in _kernels(document):
            assert isinstance(kernel["args"]["stream"], int)
            assert kernel["tid"] == kernel["args"]["stream"]
            streams[kernel["tid"]].append((round(kernel["ts"] * 1000), round(kernel["dur"] * 1000)))
        for slices in streams.values():
            for (start, length), (after, _) in itertools.pairwise(sorted(slices)):
                assert start + length <= after


def test_kernels_of_each_cause_last_as_long_as_the_result_says(traces):
    for simulation, rank, document in _documents(traces):
        lasted, number = Counter(), Counter()
        for kernel in _kernels(document):
            if "cause" in kernel["args"]:
                lasted[kernel["args"]["cause"]] += kernel["dur"] / 1e6
                number[kernel["args"]["cause"]] += 1
        causes = simulation.result.breakdown_s_by_rank[rank]
        for cause, seconds in lasted.items():
            assert seconds >= causes[cause] - 1e-9 * number[cause]
        alone = sum(causes[cause] for cause in lasted)
        slowdown = causes.get("compute_slowdown", 0.0)
        assert sum(lasted.values()) == pytest.approx(alone + slowdown, abs=1e-9 * number.total())
        assert {"gemm", "attention", "memory_bound", "optimizer"} <= set(lasted)


def _compute_ns(simulation, folder):
    """(start, length) of every kernel of rank 0's compute stream, in order, ns."""
    (path,) = write_traces(simulation, folder, [0])
    kernels = _kernels(json.loads(gzip.decompress(path.read_bytes())))
    spans = [(kernel["ts"], kernel["dur"]) for kernel in kernels if "cause" in kernel["args"]]
    return np.array(sorted((round(start * 1000), round(length * 1000)) for start, length in spans))


def test_kernels_of_an_operation_that_took_longer_take_longer_by_the_same_factor(small, tmp_path):
    simulation = run(small(ALONE))
    timeline = simulation.timeline
    sizes = np.array([len(times) for times in timeline.kernel_s])[timeline.program.payload]
    slots = compute_slots(timeline, 0)
    slot = slots[np.flatnonzero(sizes[slots] > 2)[1]]
    start_s, end_s = timeline.start_s[slot], timeline.end_s[slot]
    # Twice as long: all that comes later in the step comes later by as much.
    later_s = end_s - start_s
    after = replace(
        timeline,
        start_s=timeline.start_s + later_s * (timeline.start_s >= end_s),
        end_s=timeline.end_s + later_s * (timeline.end_s >= end_s),
        step_s=timeline.step_s + later_s,
    )
    before_ns = _compute_ns(simulation, tmp_path / "before")
    after_ns = _compute_ns(replace(simulation, timeline=after), tmp_path / "after")
    first = np.searchsorted(before_ns[:, 0], round(start_s * 1e9))
    mine = slice(first, first + sizes[slot])
    longer = after_ns[:, 1] - before_ns[:, 1]
    assert before_ns[mine, 1].min() > 1000
    assert longer[mine] == pytest.approx(before_ns[mine, 1], abs=3), "edges are whole ns"
    assert after_ns[mine][-1].sum() == round((end_s + later_s) * 1e9)
    assert np.abs(np.delete(longer, mine)).max() <= 1


def test_kernels_of_a_slow_gpu_take_as_much_longer_as_it_is_slow(small, tmp_path):
    fast, slow = run(small(ALONE)), run(small({**ALONE, "conditions.gpus": {0: 0.5}}))
    one, other = _compute_ns(fast, tmp_path / "fast"), _compute_ns(slow, tmp_path / "slow")
    assert other[:, 1] == pytest.approx(2 * one[:, 1], abs=3), "edges are whole ns"


def test_communication_is_named_as_nccl_names_it_and_nothing_else_is(traces):
    for _, _, document in _documents(traces):
        for kernel in _kernels(document):
            is_communication = "cause" not in kernel["args"]
            assert kernel["name"].startswith("nccl") is is_communication
            assert ("Kernel" in kernel["name"]) is is_communication


def test_what_is_sent_is_received_at_the_same_time(traces):
    ends = {}
    for _, rank, document in _documents(traces):
        for way in ("send", "recv"):
            mine = [kernel for kernel in _kernels(document) if kernel["name"].endswith(f"_{way}")]
            ends[rank, way] = sorted((kernel["ts"], kernel["dur"], kernel["args"]["bytes"]) for kernel in mine)
    first, last = sorted({rank for rank, _ in ends})
    # 32 sequences over dp = 4: 8 micro-batches go up and their gradients come down.
    assert len(ends[first, "send"]) == len(ends[last, "send"]) == 8
    assert ends[first, "send"] == ends[last, "recv"]
    assert ends[last, "send"] == ends[first, "recv"]


def test_the_step_is_annotated_from_its_start_to_its_end(traces):
    for simulation, _, document in _documents(traces):
        (step,) = [event for event in document["traceEvents"] if event["name"] == "ProfilerStep#0"]
        assert step["ts"] == 0
        assert step["dur"] == pytest.approx(simulation.result.step_time_s * 1e6, abs=1e-3)
        assert max(kernel["ts"] + kernel["dur"] for kernel in _kernels(document)) <= step["dur"] + 1e-3


def test_actions_of_the_schedule_are_annotated_in_order(traces):
    simulation, texts = traces
    rank = simulation.timeline.program.ranks[0]
    document = json.loads(texts[f"rank{rank.rank}.json.gz"])
    threads = {
        event["args"]["name"]: event["tid"] for event in document["traceEvents"] if event["name"] == "thread_name"
    }
    mine = [event for event in document["traceEvents"] if event["ph"] == "X" and event["tid"] == threads["schedule"]]
    assert [event["name"] for event in mine] == [str(action or "end of step") for action in rank.actions]


def test_two_runs_write_the_same_bytes(simulations, tmp_path):
    one = write_traces(simulations[0], tmp_path / "one")
    two = write_traces(simulations[0], tmp_path / "two")
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]
    assert one[0].read_bytes()[4:8] == bytes(4), "gzip stamps no time"


def test_chosen_ranks_only(simulations, tmp_path):
    rank = simulations[0].timeline.program.ranks[-1].rank
    assert [path.name for path in write_traces(simulations[0], tmp_path, [rank])] == [f"rank{rank}.json.gz"]


def test_a_rank_that_was_not_simulated_is_refused_with_those_that_were(simulations, tmp_path):
    with pytest.raises(SimError, match=r"no trace for rank 3: .* \(allowed 0, 8;"):
        write_traces(simulations[0], tmp_path, [3])
