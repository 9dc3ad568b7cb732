"""`sim search`, `sim whatif` and `sim placement`: what is printed and written, and how mistakes are told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import sim


def test_search_prints_the_counts_and_the_ranking_and_writes_the_best_as_a_scenario(
    invoke: Callable, small: str, tmp_path: Path
):
    best = tmp_path / "best.yaml"
    result = invoke(
        "search", small, "--axes", "tp=1:2,pp,zero=0:1", "--workers", "1", "--top", "2", "--save", str(best)
    )
    assert "legal layouts of" in result.stdout
    assert "The optimum is proven" in result.stdout
    rows = [line for line in result.stdout.splitlines() if line.startswith(("1 ", "2 ", "3 "))]
    assert rows[0].startswith("1 proven")
    assert len(rows) == 2
    assert best.read_text().startswith("# ")
    step_s = sim.simulate(sim.load(str(best))).step_time_s
    assert f"{step_s:.4g} s" in rows[0]


def test_search_as_json_has_every_count(invoke: Callable, small: str):
    options = ("--axes", "tp=1:2,zero=0:1", "--workers", "1", "--objective", "cost", "--price", "2", "--json", "-")
    found = json.loads(invoke("search", small, *options).stdout)
    assert found["is_proven"] is True
    assert found["legal"] >= found["num_played"] > 0
    best = found["ranking"][0]
    assert best["cost"] == 8 * best["step_s"] / 3600 * 2
    assert best["bound_s"] <= best["step_s"]


def test_a_search_in_which_nothing_fits_says_so(invoke: Callable, small: str):
    result = invoke("search", small, "--axes", "tp=2", "--workers", "1", "--constraint", "memory<0.001", code=2)
    assert "no layout fits in memory and meets the constraints" in result.stderr
    assert "1 by their memory" in result.stdout


def test_mistakes_of_a_search_name_what_is_allowed(invoke: Callable, small: str):
    assert "did you mean" in invoke("search", small, "--axes", "zeros", code=2).stderr
    assert "allowed such as memory<0.9" in invoke("search", small, "--constraint", "memory", code=2).stderr
    assert "--price" in invoke("search", small, "--objective", "cost", code=2).stderr


def test_whatif_prints_a_ranked_list_in_words_and_the_critical_path(invoke: Callable, small: str):
    output = invoke("whatif", small).stdout
    assert "A step takes " in output
    assert "10 % more FLOP/s: -" in output
    assert "GPU 0 at 0.9 of its speed: +" in output
    assert "on the critical path" in output


def test_whatif_as_json_adds_up(invoke: Callable, small: str):
    found = json.loads(invoke("whatif", small, "--json", "-").stdout)
    path = found["critical_path"]
    assert abs(sum(path["seconds_by_cause"].values()) - sum(path["seconds_by_pp_rank"].values())) < 1e-9
    assert {change["words"] for change in found["changes"]} >= {"NVLink twice as fast", "ZeRO-0 instead of 1"}


def test_placement_prints_every_order(invoke: Callable, small: str):
    lines = invoke("placement", small).stdout.splitlines()
    assert len(lines) == 1 + 6  # tp, dp and pp in every order
    assert sum("(the scenario's)" in line for line in lines) == 1
