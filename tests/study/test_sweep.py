from __future__ import annotations

import io
from pathlib import Path

import sim
from sim.study.sweep import COLUMNS, cells, sweep, write_csv

SCENARIO = """\
model: llama2-7b
gpu: h100-sxm
topology: single-node-h100
layout: {tp: 2, sequence_parallel: true, pp: 2, dp: 2, zero: 1, schedule: 1f1b}
training: {seq_len: 4096, global_batch: 8, micro_batch: 1, precision: bf16, recompute: full}
sweep: {product: {training.micro_batch: [1, 3, 4]}}
"""


def points(folder: Path) -> list:
    path = folder / "sweep.yaml"
    path.write_text(SCENARIO)
    return sim.load_points(str(path))


def test_rows_stand_in_the_order_of_the_points_and_impossible_ones_say_why(tmp_path: Path):
    rows = list(sweep(points(tmp_path)))
    assert [row.values for row in rows] == [{"training.micro_batch": size} for size in (1, 3, 4)]
    assert [row.result is None for row in rows] == [False, True, False]
    assert "global_batch = 8 is no multiple of dp * micro_batch = 2 * 3 = 6" in rows[1].error


def test_cells_are_the_numbers_of_the_result(tmp_path: Path):
    row = next(sweep(points(tmp_path)))
    assert row.result is not None
    found = cells(row)
    assert list(found) == ["training.micro_batch", *COLUMNS, "error"]
    assert found["step_time_s"] == row.result.step_time_s
    assert found["peak_bytes"] == row.result.peak_bytes
    assert found["exposed_tp_s"] == row.result.exposed_s_by_kind["tp"]
    assert found["exposed_ep_s"] == ""


def test_a_swept_value_is_written_as_a_file_has_it(tmp_path: Path):
    path = tmp_path / "sweep.yaml"
    swept = "sweep: {points: [{layout.stage_layers: [15, 17], layout.dp: null, training.overlap: {tensor: false}}]}"
    path.write_text(SCENARIO.split("sweep:", maxsplit=1)[0] + swept)
    found = cells(next(sweep(sim.load_points(str(path)))))
    assert list(found.values())[:3] == ["[15, 17]", "null", '{"tensor": false}']
    assert found["error"] == ""


def test_every_column_is_filled_by_a_result_except_kinds_that_the_layout_lacks(tmp_path: Path):
    row = next(sweep(points(tmp_path)))
    empty = {name for name, value in cells(row).items() if value == ""}
    assert empty == {"exposed_cp_s", "exposed_ep_s", "exposed_etp_s", "exposed_embedding_s", "error"}


def test_rows_are_on_disk_before_the_next_point_is_played(tmp_path: Path):
    file = io.StringIO()
    rows = write_csv(sweep(points(tmp_path)), ["training.micro_batch"], file)
    next(rows)
    assert len(file.getvalue().splitlines()) == 2
    list(rows)
    assert len(file.getvalue().splitlines()) == 4
