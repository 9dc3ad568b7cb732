"""A sweep of a small model on one node, whose points play in milliseconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import sim
from sim.spec.load import Point

SCENARIO = """\
model: llama2-7b
gpu: h100-sxm
topology: single-node-h100
layout: {tp: 2, sequence_parallel: true, pp: 2, dp: 2, zero: 1, schedule: 1f1b}
training: {seq_len: 4096, global_batch: 8, micro_batch: 1, precision: bf16, recompute: full}
"""
THREE = "sweep: {product: {training.micro_batch: [1, 3, 4]}}\n"
"""Two that can be played, and one between them that cannot."""


@pytest.fixture
def points(tmp_path: Path) -> Callable[[str], list[Point]]:
    """Points of the small scenario with a `sweep:`."""

    def load(swept: str = THREE) -> list[Point]:
        path = tmp_path / "sweep.yaml"
        path.write_text(SCENARIO + swept)
        return sim.load_points(str(path))

    return load
