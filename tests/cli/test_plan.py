"""`sim plan`: what it prints, writes and refuses."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest

PLAN = """\
# How is a small model trained on one node?
model: {name: small, num_layers: 4, hidden: 512, num_heads: 4, num_kv_heads: 4, head_dim: 128, ffn_hidden: 2048,
  gated_mlp: true, vocab: 32000, tied_embeddings: false, max_seq_len: 1024}
gpu: h100-sxm
topology: {use: single-node-h100, gpus_per_node: 4}
law: epoch
budget: {flop: 1e18}
price: lambda-h100
deployment: {tokens: 1e10, prompt_share: 0.5}
training: {seq_len: 1024, global_batch: 16}
data: {sources: {web: {tokens: 1e9}}}
"""


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("plan") / "small.yaml"
    path.write_text(PLAN)
    return str(path)


def test_six_answers_and_a_summary_are_printed(plan: str, invoke: Callable):
    output = invoke("plan", plan).stdout
    for number in range(1, 7):
        assert f"\n{number}. " in output
    assert "GPU-hours" in output.splitlines()[-1] or "GPU-hours" in output.splitlines()[-2]


def test_explain_prints_formulas_with_their_numbers_and_sources(plan: str, invoke: Callable):
    output = invoke("plan", plan, "--explain").stdout
    assert "training compute = 6 N D" in output
    assert "[arXiv 1910.02054, figure 1 and section 7]" in output
    assert "M (1 + W0(-e^(-1 - C / M)))" in output


def test_json_and_report_hold_the_same_answers(plan: str, invoke: Callable, tmp_path: Path):
    printed = invoke("plan", plan, "--json", "-", "--report", str(tmp_path)).stdout
    assert (tmp_path / "plan.json").read_text() == printed
    assert [answer["number"] for answer in json.loads(printed)["answers"]] == [1, 2, 3, 4, 5, 6]
    page = (tmp_path / "index.html").read_text()
    for name in ("strategies", "laws", "ranking", "zero", "repeats", "intervals"):
        assert f'id="figure-{name}"' in page
        assert (tmp_path / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    with (tmp_path / "tables" / "laws.csv").open() as file:
        assert next(csv.DictReader(file))["law"] == "de_vries"


def test_a_value_is_overridden_and_the_rest_follows(plan: str, invoke: Callable):
    settings = ["--set", "given.tokens=1e9", "--set", "given.layout={tp: 2, pp: 2}", "--set", "given.zero=0"]
    answers = json.loads(invoke("plan", plan, *settings, "--json", "-").stdout)["answers"]
    assert [answer["is_given"] for answer in answers[1:4]] == [True, True, True]
    assert answers[1]["values"]["tokens"] == 1e9
    assert answers[2]["values"]["layout"] == "given: tp2-pp2-dp1 zero1 mb1"
    assert answers[3]["values"]["zero"] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "deployment.tokens=-1"], "deployment.tokens: out of range (got -1"),
        (["--set", "law=kaplan"], "unknown scaling law (got 'kaplan', allowed de_vries"),
        (["--set", "given.checkpoint_interval=0 s"], "given.checkpoint_interval: out of range"),
        (["--set", "data.long_context={tokens: 1e15, seq_len: 2048, cp: 2, global_batch: 8}"], "up to all of them"),
    ],
)
def test_a_mistake_is_a_line_and_exit_code_2(plan: str, invoke: Callable, arguments: list[str], message: str):
    assert message in invoke("plan", plan, *arguments, code=2).stderr


def test_a_plan_or_published_is_needed(plan: str, invoke: Callable):
    invoke("plan", code=2)
    invoke("plan", plan, "--published", code=2)
