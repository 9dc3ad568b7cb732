"""Results from files as points."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sim.errors import SimError
from sim.report.points import point_of, ranked, read_points, told_apart, varied
from sim.simulation import load_points
from sim.study.sweep import plan, sweep
from sim.study.table import answers, table, write

SWEEP = """\
# Which split is fastest?
extends: {base}
sweep:
  product:
    layout.tp: [1, 2, 16]
    training.micro_batch: [1, 2]
"""


@pytest.fixture(scope="session")
def json_file(simulations, tmp_path_factory):
    path = tmp_path_factory.mktemp("points") / "result.json"
    path.write_text(json.dumps([simulation.result.to_dict() for simulation in simulations]))
    return path


@pytest.fixture(scope="session")
def csv_file(tmp_path_factory):
    """The table of a sweep of six points, of which two cannot be: 16 ranks do not share 8 heads."""
    folder = tmp_path_factory.mktemp("sweep")
    file = folder / "tp.yaml"
    base = json.dumps(str(Path("tests/small.yaml").resolve()))
    file.write_text(SWEEP.format(base=base))
    points = load_points(file)
    rows = sorted(sweep(plan(points)), key=lambda row: row.index)
    write(table(rows, list(points[0].values)), folder / "sweep.csv")
    assert [row.result is None for row in rows] == [False] * 4 + [True] * 2
    return folder / "sweep.csv", rows


def test_a_point_from_json_has_the_numbers_of_the_result(simulations, json_file):
    points = read_points(json_file)
    assert points == [point_of(simulation.result) for simulation in simulations]
    for point, simulation in zip(points, simulations, strict=True):
        result = simulation.result
        for name, value in point.answers.items():
            assert value == getattr(result, name)
        assert {"usd_per_token", "tokens_per_j", "gpu_w", "mfu", "peak_bytes"} <= set(point.answers)
        assert point.fits == result.fits
        assert point.breakdown_s == result.breakdown_s
        assert point.settings["layout.tp"] == result.scenario.layout.tp
        assert point.settings["model"] == "small"


def test_a_point_from_a_sweep_has_the_numbers_of_the_result(csv_file):
    path, rows = csv_file
    points = read_points(path)
    played = [row for row in rows if row.result is not None]
    assert len(points) == len(played) == 4
    for point, row in zip(points, played, strict=True):
        assert point.settings["layout.tp"] == row.values["layout.tp"]
        assert point.settings["num_gpus"] == 16
        found = answers(row.result)
        assert point.answers["step_time_s"] == found["step_time_s"]
        assert point.answers["usd_per_token"] == found["usd_per_token"]
        assert point.fits is found["fits"]
    assert points[0].name == "tp=1 micro_batch=1"


def test_a_folder_is_all_of_its_results_and_nothing_else(json_file, csv_file, tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "result.json").write_bytes(json_file.read_bytes())
    (tmp_path / "sweep.csv").write_bytes(csv_file[0].read_bytes())
    (tmp_path / "summary.csv").write_text("name,step_time_s\na,1\n")
    (tmp_path / "other.json").write_text('{"a": 1}')
    assert len(read_points(tmp_path)) == 3 + 4


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "{", r"a\.json.*no JSON"),
        ("a.json", '{"a": 1}', r"a\.json.*no result of sim \(KeyError: 'scenario'\)"),
        ("a.json", "[3]", r"a\.json.*\[0\].*no result of sim"),
        ("a.csv", "x,y\n1,2\n", r"a\.csv:1.*column step_time_s is missing"),
        (
            "a.csv",
            "layout.tp,step_time_s,tokens_per_s,tokens_per_s_per_gpu,peak_bytes,fits,num_gpus,error\n1,x,1,1,1,True,8,\n",
            r"a\.csv:2.*wrong number.*'x'",
        ),
        (
            "a.csv",
            "layout.tp,step_time_s,tokens_per_s,tokens_per_s_per_gpu,peak_bytes,fits,num_gpus,error\n1,,1,1,1,True,8,\n",
            r"a\.csv:2.*step_time_s is missing",
        ),
    ],
)
def test_a_file_that_is_no_result_is_refused_at_its_place(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(SimError, match=message):
        read_points(tmp_path / name)


def test_a_folder_without_results_is_refused(tmp_path):
    with pytest.raises(SimError, match=r"no results in the folder"):
        read_points(tmp_path)


def test_what_does_not_fit_is_last_and_the_fastest_first(made):
    points = [
        point_of(made("slow", gemm=3.0)),
        point_of(made("big", peak=90.0, gemm=1.0)),
        point_of(made("fast", gemm=2.0)),
    ]
    speeds = [point.answers["tokens_per_s_per_gpu"] for point in points]
    assert len(set(speeds)) == 1  # `made` gives all the same rate, so names decide among those that fit
    assert [point.name for point in ranked(points)] == ["small/fast", "small/slow", "small/big"]
    assert told_apart(points) == ["slow", "big", "fast"]


def test_settings_that_differ_have_their_values_in_order(csv_file):
    found = varied(read_points(csv_file[0]))
    assert found == {"layout.tp": [1, 2], "training.micro_batch": [1, 2]}


def test_a_setting_that_follows_another_is_named_once(json_file):
    points = read_points(json_file)
    found = varied(points)
    patterns = {tuple(values.index(point.settings[path]) for point in points) for path, values in found.items()}
    assert len(patterns) == len(found) >= 3
