"""`sim run`: what is printed, what is written, and that a second run writes the same bytes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import sim

KEYS = [
    "scenario",
    "step_time_s",
    "tokens_per_s",
    "tokens_per_s_per_gpu",
    "model_flop_per_s_per_gpu",
    "mfu",
    "mfu_causal",
    "hfu",
    "bubble_fraction",
    "bubble_fraction_steady",
    "bubble_fraction_closed_form",
    "overlap_fraction",
    "overlap_fraction_by_kind",
    "exposed_s_by_kind",
    "breakdown_s",
    "memory",
    "num_gpus",
    "simulated_ranks",
    "operations",
    "simulated_operations",
    "fidelity",
    "version",
]


def test_run_prints_the_step_time_and_the_verdict(invoke: Callable, small: str):
    output = invoke("run", small).stdout
    result = sim.simulate(sim.load(small))
    assert f"{result.step_time_s:.3f} s" in output
    assert "fits" in output


def test_json_on_stdout_is_all_that_is_on_stdout(invoke: Callable, small: str):
    done = invoke("run", small, "--json", "-")
    assert set(KEYS) <= set(json.loads(done.stdout))
    assert done.stderr == ""


def test_json_holds_what_python_returns(invoke: Callable, small: str):
    found = json.loads(invoke("run", small, "--json", "-").stdout)
    result = sim.simulate(sim.load(small))
    assert found.pop("step_time_interval")["num_rows"] > 0
    assert found == json.loads(json.dumps(result.to_dict()))
    assert found["step_time_s"] == result.step_time_s


def test_breakdown_adds_up_to_the_step(invoke: Callable, small: str):
    found = json.loads(invoke("run", small, "--json", "-").stdout)
    assert sum(found["breakdown_s"].values()) == pytest.approx(found["step_time_s"], rel=1e-9)


def test_json_file_has_the_bytes_of_stdout(invoke: Callable, small: str, tmp_path: Path):
    target = tmp_path / "result.json"
    invoke("run", small, "--json", str(target))
    assert target.read_text() == invoke("run", small, "--json", "-").stdout


def test_a_report_and_a_json_on_stdout_do_not_mix(invoke: Callable, small: str, tmp_path: Path):
    done = invoke("run", small, "--json", "-", "--report", str(tmp_path / "report"))
    json.loads(done.stdout)
    assert (tmp_path / "report" / "index.html").is_file()
    assert "index.html" in done.stderr


def test_set_overrides_a_value_of_the_file(invoke: Callable, small: str):
    found = json.loads(
        invoke("run", small, "--set", "layout.zero=0", "--set", "training.global_batch=16", "--json", "-").stdout
    )
    assert found["scenario"]["layout"]["zero"] == 0
    assert found["scenario"]["training"]["global_batch"] == 16


def test_every_fidelity_takes_the_same_time_and_plays_as_many_ranks_as_it_says(invoke: Callable, small: str):
    fused, folded, full = (
        json.loads(invoke("run", small, "--fidelity", fidelity, "--json", "-").stdout)
        for fidelity in ("fused", "folded", "full")
    )
    assert full["simulated_ranks"] == full["num_gpus"] == 8
    assert folded["simulated_ranks"] == fused["simulated_ranks"] < 8
    for result in (fused, folded):
        assert result["step_time_s"] == pytest.approx(full["step_time_s"], rel=1e-9)


def test_a_run_without_report_imports_neither_pandas_nor_matplotlib(small: str, python: Callable):
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from sim.cli import app\n"
        f"assert CliRunner().invoke(app, ['run', {small!r}]).exit_code == 0\n"
        "print(*sorted({'pandas', 'matplotlib', 'networkx', 'jinja2'} & set(sys.modules)))"
    )
    done = python("-c", code)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")


def test_json_and_traces_have_the_same_bytes_under_another_hash_seed(small: str, tmp_path: Path, python: Callable):
    written = []
    for seed in ("1", "2"):
        folder = tmp_path / seed
        done = python("-m", "sim", "run", small, "--json", "-", "--trace", str(folder), PYTHONHASHSEED=seed)
        assert done.returncode == 0, done.stderr
        written.append((done.stdout, {path.name: path.read_bytes() for path in sorted(folder.iterdir())}))
    assert written[0][1]
    assert written[0] == written[1]


def test_json_without_a_file_prints(small: str, invoke: Callable):
    alone, dash = invoke("run", small, "--json").stdout, invoke("run", small, "--json", "-").stdout
    assert json.loads(alone) == json.loads(dash)
    assert json.loads(invoke("run", small, "--json", "--fidelity", "folded").stdout)["fidelity"] == "folded"
