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
training: {seq_len: 2048, global_batch: 2240, micro_batch: 1, precision: fp16, recompute: selective}
"""
PUBLISHED_S = 39.15 - 37.83
"""arXiv 2205.05198 section 6.3: data parallelism of 8 without overlap takes the step from 37.83 to 39.15 s."""


def test_the_reduction_of_530b_gradients_after_the_backward_pass(tmp_path: Path) -> None:
    """7.6 GB of fp32 gradients take 0.6 s in a ring over eight nodes, at the 23 GB/s of a rail that all_reduce reaches.

    The rest of the published 1.32 s is waiting for the slowest among eight times the GPUs (`stack.pace`).
    """
    path = tmp_path / "gpt-530b.yaml"
    path.write_text(GPT_530B)
    with_replicas = simulate(load(path, {}))
    alone = simulate(load(path, {"topology.nodes": 35, "training.global_batch": 280}))
    assert with_replicas.step_time_s - alone.step_time_s == pytest.approx(PUBLISHED_S, rel=0.15)
    assert alone.step_time_s == pytest.approx(37.83, rel=0.05)
