"""Figures, groups, features and intervals of a scoreboard, on rows whose errors are chosen."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest

from sim.errors import SimError
from sim.report.scoreboard import write_scoreboard
from sim.validation.case import Case, Maker
from sim.validation.intervals import Residual, coverage, interval, interval_of, residuals_of
from sim.validation.play import Cache, Played, key_of, play_all
from sim.validation.published import PublishedRun
from sim.validation.residuals import explained
from sim.validation.scoreboard import Scoreboard, scoreboard
from sim.validation.vtrain import read_vtrain

CaseWith: TypeAlias = Callable[..., Case]
RunWith: TypeAlias = Callable[..., PublishedRun]
BoardOf: TypeAlias = Callable[[dict[str, float]], Scoreboard]

HEAD = (
    "# GPUs,global batch,micro batch,hidden size,attention heads,# layers,sequence length,tensor parallelism,"
    "data parallelism,pipeline parallelism,iteration time (ms)"
)


@pytest.fixture
def board_of(case_with: CaseWith) -> Callable[[dict[str, float]], Scoreboard]:
    """A scoreboard with chosen errors."""
    return lambda errors: board(case_with, errors)


def board(case_with: CaseWith, errors: dict[str, float]) -> Scoreboard:
    """Rows of TP 2 (even ones) and 4 with chosen errors, %, and one that is skipped."""
    outcomes = []
    for number, (name, error) in enumerate(errors.items()):
        case = case_with(case_id=name, TP="4" if number % 2 else "2", peak_mem_gb="40", mem_definition="GB")
        played = Played(
            2.5 * (1 + error / 100), {"gemm": 2.0}, {}, 44e9, 42e9, 40e9, True, 16 * 990e12, 16 * 990e12, "", 0.0
        )  # fmt: skip
        outcomes.append((case, played))
    outcomes.append((case_with(case_id="none", TP=""), None))
    return scoreboard(outcomes)


def test_figures_are_of_the_chosen_errors(board_of: BoardOf):
    content = board_of({"a": 10.0, "b": -2.0, "c": -6.0}).to_dict()
    assert (content["n"], content["n_skipped"]) == (3, 1)
    assert content["mape"] == pytest.approx(6.0)
    assert content["median_ape"] == pytest.approx(6.0)
    assert content["bias"] == pytest.approx(2 / 3, abs=1e-6)
    assert content["p90"] == pytest.approx(9.2)
    assert [row["case_id"] for row in content["rows"]] == ["a", "b", "c"]
    assert content["rows"][0]["error"] == pytest.approx(10.0)
    assert content["rows"][0]["predicted_s"] == pytest.approx(2.75)
    assert content["skipped"][0]["reason"] == "the layout not stated (TP)"
    assert content["peak_memory"]["mape"] == pytest.approx(5.0)
    json.dumps(content, allow_nan=False)


def test_groups_hold_every_row_once_and_count_what_was_skipped(board_of: BoardOf):
    content = board_of({"a": 10.0, "b": -2.0, "c": -6.0}).to_dict()
    for column, groups in content["groups"].items():
        assert sum(group["n"] for group in groups.values()) == 3, column
    assert content["groups"]["size"]["9-64"]["n_skipped"] == 1


def test_the_constant_mfu_of_the_other_rows_predicts_like_rows_exactly(board_of: BoardOf):
    board = board_of({"a": 10.0, "b": -2.0})
    assert board.table["constant_mfu_error"].tolist() == pytest.approx([0.0, 0.0])


def test_a_feature_that_makes_the_error_explains_all_of_it(board_of: BoardOf):
    board = board_of({f"r{number}": 10.0 if number % 2 else -10.0 for number in range(10)})
    first = explained(board.table)[0]
    assert first.name == "tp"
    assert first.explained_frac == pytest.approx(1.0)
    assert first.rank_correlation == pytest.approx(1.0)
    assert first.bins == (("2", 5, pytest.approx(-10.0)), ("4", 5, pytest.approx(10.0)))


def test_the_report_has_every_row_and_the_same_bytes_twice(board_of: BoardOf, tmp_path: Path):
    board = board_of({f"r{number}": 3.0 * number - 10 for number in range(10)})
    pages = [write_scoreboard(board, tmp_path / name, "mine") for name in ("one", "two")]
    text = pages[0].read_text(encoding="utf-8")
    assert all(f"<td>r{number}</td>" in text for number in range(10))
    assert text == pages[1].read_text(encoding="utf-8")
    assert len((tmp_path / "one" / "rows.csv").read_text(encoding="utf-8").splitlines()) == 11


def test_rows_that_differ_in_name_alone_are_played_once_and_a_cache_is_never_played_again(
    run_with: RunWith, tmp_path: Path
):
    runs = [run_with(case_id=name, layers="4", num_gpus="8", global_batch="4") for name in ("one", "two")]
    told: list[str] = []
    cache = Cache(tmp_path / "runs.jsonl")
    outcomes = play_all(runs, cache=cache, jobs=1, told=told.append)
    assert len(told) == 1
    first, second = (played for _, played in outcomes)
    assert first == second
    assert first is not None
    assert sum(first.breakdown_s.values()) == pytest.approx(first.step_time_s)
    with (tmp_path / "runs.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"key": "cut o')
    again = play_all(runs, cache=Cache(tmp_path / "runs.jsonl"), jobs=1, told=told.append)
    assert len(told) == 1
    assert [played for _, played in again] == [first, first]


def test_a_key_tells_scenarios_apart_by_what_takes_time(case_with: CaseWith):
    one, same, other = (
        case_with(**cells).scenario for cells in ({}, {"case_id": "x", "model": "Y"}, {"micro_batch": "2"})
    )
    assert one is not None
    assert same is not None
    assert other is not None
    assert key_of(one) == key_of(same) != key_of(other)


def residuals(
    ratios: list[float], source: str = "s", stack: str = "megatron-core", gpu: str = "h100"
) -> list[Residual]:
    return [Residual(f"{source}{i}", source, stack, gpu, "dense", 64, ratio) for i, ratio in enumerate(ratios)]


def test_an_interval_is_the_quantiles_of_comparable_rows():
    rows = residuals([math.exp(x) for x in np.linspace(-0.2, 0.2, 19)])
    found = interval("megatron-core", "h100", "dense", 64, rows)
    assert found is not None
    assert (found.circle, found.num_rows) == (0, 19)
    # Rank (19 + 1) x 0.1 = 2 of 19 even steps from -0.2: -0.2 + 0.4 / 18.
    assert found.low_frac == pytest.approx(math.exp(-0.2 + 0.4 / 18))
    assert found.high_frac == pytest.approx(math.exp(0.2 - 0.4 / 18))


def test_an_interval_widens_where_fewer_things_agree():
    rows = residuals([math.exp(x) for x in np.linspace(-0.2, 0.2, 19)])
    widths = []
    for about in (
        ("megatron-core", "h100", 64),
        ("megatron-core", "b200", 64),
        ("fsdp", "h100", 64),
        ("fsdp", "b200", 64),
    ):
        found = interval(about[0], about[1], "dense", about[2], rows)
        assert found is not None
        widths.append(found.high_frac - found.low_frac)
    assert widths == sorted(set(widths))
    assert interval("megatron-core", "h100", "moe", 64, rows) is None


def test_coverage_is_of_sources_that_were_left_out():
    same = [math.exp(x) for x in np.linspace(-0.2, 0.2, 21)]
    held = coverage(residuals(same, "one") + residuals(same, "two"))
    assert held is not None
    assert held.num_rows == 42
    assert held.covered_frac == pytest.approx(17 / 21)
    off = coverage(residuals(same, "one") + residuals([3 * ratio for ratio in same], "two"))
    assert off is not None
    assert off.covered_frac == 0
    assert coverage(residuals(same, "one")) is None


def test_residuals_are_measured_over_predicted_and_a_scenario_finds_its_own(case_with: CaseWith, board_of: BoardOf):
    board = board_of({f"r{number}": 25.0 for number in range(12)})
    found = residuals_of(board)
    assert [each.ratio for each in found] == pytest.approx([0.8] * 12)
    scenario = case_with().scenario
    assert scenario is not None
    around = interval_of(scenario, found)
    assert around is not None
    assert (around.low_frac, around.high_frac, around.circle) == (pytest.approx(0.8), pytest.approx(0.8), 0)


def test_rows_of_vtrain_are_steps_of_megatron_deepspeed(maker: Maker, tmp_path: Path):
    path = tmp_path / "multi.csv"
    path.write_text(f"{HEAD}\n64,512,8,3072,32,30,2048,1,64,1,3566.5\n8,8,2,2048,16,20,1024,4,1,2,160.6\n", "utf-8")
    multi, single = read_vtrain(path)
    assert (multi.cells["tier"], single.cells["tier"]) == ("A", "composed")
    case = maker.case(multi)
    assert case.scenario is not None, case.reason
    assert case.measured_s == pytest.approx(3.5665)
    training = case.scenario.training
    assert (case.stack, training.recompute, training.precision) == ("megatron-deepspeed", "full", "fp16")
    assert training.overlap.grad_reduce is False
    assert (case.scenario.topology.nics_per_node, case.scenario.topology.nic.bytes_per_s) == (4, 25e9)


def test_a_row_of_vtrain_whose_axes_do_not_multiply_is_refused(tmp_path: Path):
    path = tmp_path / "multi.csv"
    path.write_text(f"{HEAD}\n64,512,8,3072,32,30,2048,1,32,1,3566.5\n", "utf-8")
    with pytest.raises(SimError, match="tp \\* dp \\* pp = 1 \\* 32 \\* 1, but the row has 64 GPUs"):
        read_vtrain(path)
