"""`sim show`, `sim list` and `sim schema`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from sim.cli.listing import What
from sim.cli.output import json_text


def section(output: str, title: str) -> list[str]:
    """Lines of one section of `sim show`."""
    body = output.split(f"{title}\n")[1].split("\n\n", maxsplit=1)[0]
    return [line.strip() for line in body.splitlines()]


def test_show_prints_the_equations_of_the_layout(small: str, invoke: Callable):
    lines = section(invoke("show", small).stdout, "ranks")
    assert any(line.endswith("tp * cp * dp * pp = 2 * 1 * 2 * 2 = 8") for line in lines)
    assert any(line.endswith("global_batch / (micro_batch * dp) = 8 / (1 * 2) = 4 on each pipeline") for line in lines)
    assert any(line.endswith("2 x 16") for line in lines)


def test_show_counts_parameters_exactly(small: str, invoke: Callable):
    lines = section(invoke("show", small).stdout, "parameters")
    assert "total 6,738,415,616" in [" ".join(line.split()) for line in lines]


def test_show_tells_equal_neighbours_of_a_pipeline_once(invoke: Callable):
    output = invoke("show", "llama3.1-405b_16384xh100_tp8-pp16-dp128").stdout
    assert any(line.endswith(" 0 126 x 1 0") for line in section(output, "ranks"))
    held = [line for line in section(output, "parameters") if line.startswith("on a GPU of pipeline rank")]
    assert [line.split(" (")[0].removeprefix("on a GPU of pipeline ") for line in held] == [
        "rank 0",
        "ranks 1 to 14",
        "rank 15",
    ]


def test_show_counts_both_conventions_of_model_flop(small: str, invoke: Callable):
    """Llama-2-7B at 4,096 tokens: 6 x 6,607,343,616 weights of products + 12 x 32 x 4,096 x 4,096 a token."""
    lines = [" ".join(line.split()) for line in section(invoke("show", small).stdout, "model FLOPs of a step")]
    scores = 12 * 32 * 4096 * 4096
    weights = 6 * (6_738_415_616 - 32000 * 4096 - 65 * 4096)
    assert f"all, full attention (mfu) {8 * 4096 * (weights + scores) / 1e15:.3g} PFLOP 100.0 %" in lines
    share = 100 * (weights + scores / 2) / (weights + scores)
    assert any(
        line.startswith("all, causal attention (mfu_causal)") and line.endswith(f"{share:.1f} %") for line in lines
    )


def test_show_lists_what_each_parallelism_sends(small: str, invoke: Callable):
    lines = section(invoke("show", small).stdout, "parallelism: what a step sends")
    kinds = [line.split()[0] for line in lines[1:]]
    assert list(dict.fromkeys(kinds)) == ["tp", "dp_reduce", "dp_gather", "grad_norm", "pp"]
    assert all("nvlink" in line for line, kind in zip(lines[1:], kinds, strict=True) if kind != "grad_norm")


def test_show_names_fields_without_effect(small: str, invoke: Callable):
    lines = section(invoke("show", small, "--set", "layout.dp=1", "--set", "layout.pp=4").stdout, "no effect here")
    assert any(line.startswith("training.overlap.grad_reduce") for line in lines)
    assert not any(line.startswith("training.overlap.tensor") for line in lines)


def test_show_prints_the_resolved_scenario(small: str, invoke: Callable):
    output = invoke("show", small).stdout
    assert "num_layers: 32" in output
    assert "zero: 1" in output


@pytest.mark.parametrize(
    ("what", "name", "fact"),
    [
        ("models", "deepseek-v3", "671.03 B"),
        ("gpus", "h100-sxm", "989 TFLOP/s"),
        ("topologies", "dgx-h100", "128"),
        ("stacks", "megatron-2021", "unfused"),
        ("scenarios", "llama2-70b_128xh100_layouts", "sim compare"),
        ("plans", "llama2-70b_128xh100", "on 128 H100"),
        ("schedules", "1f1b", "forward"),
        ("collectives", "ring", "all_reduce"),
        ("longruns", "opt-175b_992xa100", "56 days"),
        ("failures", "llama3", "3.79"),
        ("storage", "tectonic", "2 TB/s"),
        ("spikes", "palm", "roll_back_and_skip"),
        ("prices", "deepseek-h800", "2024-12"),
        ("power", "hgx-h100", "1.05 kW"),
    ],
)
def test_list_gives_each_name_a_line_with_its_facts(what: str, name: str, fact: str, invoke: Callable):
    line = next(line for line in invoke("list", what).stdout.splitlines() if line.split()[0] == name)
    assert fact in line


def test_everything_that_can_be_listed_is_tested_above():
    assert {what.value for what in What} == {
        "models",
        "gpus",
        "topologies",
        "scenarios",
        "plans",
        "stacks",
        "schedules",
        "collectives",
        "longruns",
        "failures",
        "storage",
        "spikes",
        "prices",
        "power",
    }


def test_list_survives_a_broken_topology_and_a_broken_scenario(
    invoke: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    for folder in ("topologies", "scenarios"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.yaml").write_text("fabric: [")
    monkeypatch.chdir(tmp_path)
    for what in ("topologies", "scenarios"):
        line = next(line for line in invoke("list", what).stdout.splitlines() if line.startswith("mine"))
        assert "cannot be read" in line


def test_schema_is_json_on_stdout_and_the_same_in_a_file(invoke: Callable, tmp_path: Path):
    text = invoke("schema").stdout
    assert set(json.loads(text)["properties"]) >= {"model", "gpu", "topology", "layout", "training"}
    invoke("schema", "--out", str(tmp_path / "schema.json"))
    assert (tmp_path / "schema.json").read_text() == text


def test_json_refuses_what_is_no_number():
    with pytest.raises(ValueError, match="JSON"):
        json_text(float("nan"))
