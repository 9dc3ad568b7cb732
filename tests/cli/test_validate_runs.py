"""`sim validate runs` and the interval of `sim run`: what is printed and what JSON holds."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest

ROW = {
    "case_id": "mine", "source": "somebody", "gpu": "h100-sxm-80gb", "num_gpus": "8", "model": "Llama 3.1 8B",
    "kind": "dense", "layers": "2", "hidden": "4096", "heads": "32", "kv_heads": "8", "ffn_hidden": "14336",
    "gated_mlp": "1", "vocab": "128256", "tied_embeddings": "0", "seq_len": "4096", "TP": "2", "PP": "1",
    "shard": "zero1",
    "sequence_parallel": "1", "micro_batch": "1", "global_batch": "8", "precision": "bf16", "recompute": "none",
    "framework": "Megatron-Core", "year": "2024", "step_time_derived_s": "0.1", "tier": "A",
}  # fmt: skip


@pytest.fixture
def table(tmp_path: Path) -> str:
    """Two steps, one on a GPU that nobody knows."""
    path = tmp_path / "runs.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(ROW))
        writer.writeheader()
        writer.writerows([ROW, ROW | {"case_id": "other", "gpu": "abacus"}])
    return str(path)


def test_a_table_gives_errors_and_reasons(invoke: Callable, table: str, tmp_path: Path):
    cache, report = tmp_path / "cache.jsonl", tmp_path / "report"
    output = invoke("validate", "runs", table, "--cache", str(cache), "--report", str(report), "--jobs", "1").stdout
    assert "(1 row)" in output
    assert "unknown GPU abacus" in output
    assert (report / "scoreboard.html").is_file()
    assert len(cache.read_text(encoding="utf-8").splitlines()) == 1


def test_json_alone_is_all_that_is_printed_and_the_same_from_the_cache(invoke: Callable, table: str, tmp_path: Path):
    arguments = ("validate", "runs", table, "--cache", str(tmp_path / "cache.jsonl"), "--json", "-")
    first, second = (invoke(*arguments).stdout for _ in range(2))
    assert first == second
    content = json.loads(first)
    assert (content["n"], content["n_skipped"]) == (1, 1)
    row = content["rows"][0]
    assert row["case_id"] == "mine"
    assert row["error"] == pytest.approx(100 * (row["predicted_s"] / row["measured_s"] - 1))
    assert content["mape"] == pytest.approx(abs(row["error"]))


def test_residuals_are_written_as_the_shipped_ones_are(invoke: Callable, table: str, tmp_path: Path):
    path = tmp_path / "residuals.csv"
    invoke("validate", "runs", table, "--fresh", "--residuals", str(path))
    head, row = path.read_text(encoding="utf-8").splitlines()
    assert head == "case_id,source,stack,gpu,kind,num_gpus,ratio"
    assert row.startswith("mine,somebody,megatron-core,h100,dense,8,")


def test_run_prints_an_interval_with_the_step(invoke: Callable, small: str):
    assert "80 % interval: " in invoke("run", small).stdout
    content = json.loads(invoke("run", small, "--json", "-").stdout)
    around = content["step_time_interval"]
    assert 0 < around["low_s"] < around["high_s"]
    assert around["num_rows"] >= 12
    assert around["like"] == "dense models with megatron-core on h100, of like size"
