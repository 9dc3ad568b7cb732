"""The gradient reduction of a published run: GPT-530B on 2,240 A100 against the same pipeline on 280."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.simulation import load, simulate

GPT_530B = """\
model: gpt-530b
gpu: a100-80gb-sxm
topology: {use: dgx-a100, nodes: 280}
stack: megatron-2022-selective
layout: {tp: 8, sequence_parallel: true, pp: 35, vpp: 3, schedule: interleaved_1f1b}
training: {seq_len: 2048, global_batch: 280, micro_batch: 1, precision: fp16, recompute: selective}
"""
PUBLISHED_S = 39.15 - 37.83
"""arXiv 2205.05198 section 6.3: data parallelism of 8 without overlap takes the step from 37.83 to 39.15 s."""


def test_the_reduction_of_530b_gradients_after_the_backward_pass(tmp_path: Path) -> None:
    """An eighth of the micro-batches: how many there are does not matter to what comes after them.

    Error: half of the published difference. 7.6 GB of fp32 gradients take 0.6 s in a ring over eight nodes, at the 23
    GB/s of a rail that all_reduce reaches in nccl-tests; the other half has another cause, of which stragglers among
    eight times the GPUs, that the published difference includes, are one.
    """
    path = tmp_path / "gpt-530b.yaml"
    path.write_text(GPT_530B)
    with_replicas = simulate(load(path, {}))
    alone = simulate(load(path, {"topology.nodes": 35, "training.global_batch": 35}))
    more_s = with_replicas.step_time_s - alone.step_time_s
    first = with_replicas.memory[0]
    ring_s = 2 * 7 / 8 * first.gradients_bytes / (0.92 * 25e9)
    assert more_s == pytest.approx(ring_s, rel=0.15)
    assert 0.4 < more_s / PUBLISHED_S < 0.6
