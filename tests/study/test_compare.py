from __future__ import annotations

from pathlib import Path

import sim
from sim.simulation import Simulation
from sim.study.compare import Failure, compare, told_apart

SCENARIO = """\
model: llama2-7b
gpu: h100-sxm
topology: single-node-h100
layout: {tp: 2, sequence_parallel: true, pp: 2, dp: 2, zero: 1, schedule: 1f1b}
training: {seq_len: 4096, global_batch: 8, micro_batch: 1, precision: bf16, recompute: full}
variants: {good: {}, bad: {network: {algorithms: {all_gather: hierarchical}}}, better: {training: {recompute: none}}}
"""


def test_scenarios_with_one_title_are_told_apart_by_a_number(tmp_path: Path):
    loaded = []
    for folder, name in (("a", "three"), ("b", "three"), ("c", "three (2)"), ("d", "three"), ("e", "other")):
        (tmp_path / folder).mkdir()
        path = tmp_path / folder / f"{name}.yaml"
        path.write_text(SCENARIO.split("variants", maxsplit=1)[0])
        loaded.append(sim.load(str(path)))
    found = [scenario.title for scenario in told_apart(loaded)]
    assert found == ["three", "three (2)", "three (2) (2)", "three (3)", "other"]


def test_variants_of_files_with_one_name_keep_theirs(tmp_path: Path):
    path = tmp_path / "three.yaml"
    path.write_text(SCENARIO)
    found = [scenario.title for scenario in told_apart(sim.load_all(str(path)) * 2)]
    assert found == [f"{name}/{variant}" for name in ("three", "three (2)") for variant in ("good", "bad", "better")]


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
