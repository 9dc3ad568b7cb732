from __future__ import annotations

from pathlib import Path

import sim
from sim.simulation import Simulation
from sim.study.compare import Failure, compare

SCENARIO = """\
model: llama2-7b
gpu: h100-sxm
topology: single-node-h100
layout: {tp: 2, sequence_parallel: true, pp: 2, dp: 2, zero: 1, schedule: 1f1b}
training: {seq_len: 4096, global_batch: 8, micro_batch: 1, precision: bf16, recompute: full}
variants: {good: {}, bad: {network: {algorithms: {all_gather: hierarchical}}}, better: {training: {recompute: none}}}
"""


def test_what_cannot_be_played_keeps_its_reason_and_its_place(tmp_path: Path):
    path = tmp_path / "three.yaml"
    path.write_text(SCENARIO)
    good, bad, better = compare(sim.load_all(str(path)))
    assert isinstance(good, Simulation)
    assert isinstance(bad, Failure)
    assert isinstance(better, Simulation)
    assert bad.scenario.title == "three/bad"
    assert "hierarchical does not run in these groups" in str(bad.error)
    assert better.result.step_time_s < good.result.step_time_s
