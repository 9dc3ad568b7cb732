from __future__ import annotations

import csv
import json

import pytest
from pyarrow import parquet

from sim.study.store import Store
from sim.study.stored import selected, stored_table
from sim.study.sweep import plan, sweep
from sim.study.table import COLUMNS, table, write

PATHS = ["training.micro_batch"]


@pytest.fixture
def rows(points):
    return sorted(sweep(plan(points())), key=lambda row: row.index)


def read_csv(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_columns_begin_with_what_was_swept_and_the_answers(rows):
    found = table(rows, PATHS)
    assert list(found)[: len(COLUMNS) + 3] == [*PATHS, "status", *COLUMNS, "error"]
    assert found["training.micro_batch"] == [1, 3, 4]


def test_cells_are_the_numbers_of_the_result(rows):
    found = table(rows, PATHS)
    result = rows[0].result
    assert found["step_time_s"][0] == result["step_time_s"]
    assert found["peak_bytes"][0] == result["memory"]["peak_bytes"]
    assert found["fits"][0] is True
    assert found["exposed_tp_s"][0] == result["exposed_s_by_kind"]["tp"]
    assert found["exposed_ep_s"] == [None] * 3
    assert found["breakdown_s.gemm"][0] == result["breakdown_s"]["gemm"]
    causes = [name for name in found if name.startswith("breakdown_s.")]
    assert sum(found[name][0] for name in causes) == pytest.approx(result["step_time_s"], rel=1e-9)


def test_every_field_of_the_scenario_stands_in_si(rows):
    found = table(rows, PATHS)
    scenario = rows[0].scenario
    assert found["scenario.gpu.memory_bytes"][0] == scenario.gpu.memory_bytes
    assert found["scenario.layout.dp"] == [2, None, 2]
    assert found["scenario.training.micro_batch"] == [1, None, 4]
    assert not any("sources" in name for name in found)


def test_csv_and_parquet_say_the_same_and_parquet_keeps_types(rows, tmp_path):
    found = table(rows, PATHS)
    write(found, tmp_path / "x.csv")
    write(found, tmp_path / "x.parquet")
    lines, typed = read_csv(tmp_path / "x.csv"), parquet.read_table(tmp_path / "x.parquet").to_pydict()
    assert list(lines[0]) == list(typed) == list(found)
    assert typed["step_time_s"] == found["step_time_s"]
    assert typed["fits"] == [True, None, True]
    for name in found:
        assert [line[name] for line in lines] == ["" if value is None else str(value) for value in typed[name]]


def test_a_swept_value_is_written_as_a_file_has_it(points, tmp_path):
    swept = "sweep: {points: [{layout.stage_layers: [15, 17], layout.dp: null, training.overlap: {tensor: false}}]}\n"
    found = table(list(sweep(plan(points(swept)))), ["layout.stage_layers", "layout.dp", "training.overlap"])
    write(found, tmp_path / "x.csv")
    write(found, tmp_path / "x.parquet")
    assert list(read_csv(tmp_path / "x.csv")[0].values())[:3] == ["[15, 17]", "", '{"tensor": false}']
    typed = parquet.read_table(tmp_path / "x.parquet").to_pydict()
    assert typed["training.overlap"] == ['{"tensor": false}']


def test_values_of_several_types_are_text_in_parquet(tmp_path):
    write({"reshard": [True, "step", 4], "count": [1, 2.5, None]}, tmp_path / "x.parquet")
    typed = parquet.read_table(tmp_path / "x.parquet").to_pydict()
    assert typed == {"reshard": ["true", "step", "4"], "count": [1.0, 2.5, None]}


def test_a_table_that_cannot_be_written_leaves_the_one_before(tmp_path):
    path = tmp_path / "x.json"
    write({"a": [1]}, path)
    with pytest.raises(ValueError, match="JSON"):
        write({"a": [float("inf")]}, path)
    assert json.loads(path.read_text()) == [{"a": 1}]
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture
def stored(points, tmp_path):
    store = Store(tmp_path / "results.sqlite", print)
    list(sweep(plan(points()), store))
    list(sweep(plan(points("sweep: {product: {network.algorithms.all_gather: [hierarchical]}}\n")), store))
    yield list(store.rows())
    store.close()


@pytest.mark.parametrize(
    ("where", "num_rows"),
    [
        (None, 3),
        ("status == 'failed'", 1),
        ("mfu > 0", 2),
        ("training.micro_batch == 4", 1),
        ("gpu.memory_bytes > 1e9 and name == 'sweep' and is_current", 3),
        ("'hierarchical' in error", 1),
        ("layout.tp == 8", 0),
    ],
)
def test_stored_results_are_selected_by_fields_and_answers(stored, where, num_rows):
    assert len(selected(stored, where)) == num_rows


def test_a_condition_that_no_row_can_answer_is_a_mistake(stored):
    with pytest.raises(Exception, match=r"--where: no value at 'layout\.ttp'"):
        selected(stored, "layout.ttp == 1")


def test_a_table_of_stored_results_has_their_answers_and_fields(stored):
    found = stored_table(stored)
    assert found["status"] == ["done", "done", "failed"]
    assert found["scenario.training.micro_batch"] == [1, 4, 1]
    assert found["step_time_s"][2] is None
    assert all(value > 0 for value in found["step_time_s"][:2])
