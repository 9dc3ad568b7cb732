"""`sim validate KIND` and `sim calibrate`, as a user runs them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from sim.calibrate.entry import read_entry
from sim.calibrate.kind import KINDS
from sim.calibrate.shipped import FOLDER
from sim.cli import calibrate, validate
from sim.cli.group import Group

app = typer.Typer(cls=Group, pretty_exceptions_enable=False, rich_markup_mode=None)
app.command("calibrate")(calibrate.command)
app.add_typer(validate.app, name="validate")

GEMMS = """\
kernel_source,gemm_dtype,m,n,k,latency_ms
torch,bfloat16,4096,4096,4096,0.18
torch,bfloat16,8192,8192,8192,1.5
torch,bfloat16,16,4096,4096,0.02
torch,int8,4096,4096,4096,0.1
"""
NORMS = FOLDER / "memory_bound__a100-80gb-pcie__neusight-test-ln.csv.gz"


@pytest.fixture
def invoke() -> Callable[..., Result]:
    def command(*arguments: object, code: int = 0) -> Result:
        result = CliRunner().invoke(app, [str(each) for each in arguments], catch_exceptions=False)
        assert result.exit_code == code, result.stderr
        return result

    return command


@pytest.fixture
def gemms(tmp_path: Path) -> Path:
    path = tmp_path / "gemm__h100_sxm__mine.csv"
    path.write_text(GEMMS)
    return path


def test_every_kind_has_a_command() -> None:
    assert list(validate.KINDS) == sorted(KINDS, key=list(validate.KINDS).index)
    assert {command.name for command in validate.app.registered_commands} == set(validate.EXAMPLES)


def test_a_file_is_validated_on_the_gpu_that_its_name_says(invoke, gemms: Path) -> None:
    output = invoke("validate", "gemm", gemms).stdout
    assert output.startswith(f"h100-sxm, gemm: {gemms}")
    assert "m, n, k >= 512" in output
    assert "(2 rows)" in output
    assert "skipped: 1 row, " in output
    assert "furthest off" in output


def test_json_alone_is_printed_for_a_dash(invoke, gemms: Path) -> None:
    content = json.loads(invoke("validate", "gemm", gemms, "--json", "-").stdout)
    assert (content["gpu"], content["kind"], content["n"], content["n_skipped"]) == ("h100-sxm", "gemm", 2, 1)
    assert 0 <= content["mape"] < 30
    assert {group["region"] for group in content["groups"]} == {"m, n, k >= 512", "m <= 64"}
    assert content["files"][0]["mape"] == content["mape"]


def test_the_gpu_can_be_said(invoke, gemms: Path) -> None:
    content = json.loads(invoke("validate", "gemm", gemms, "--gpu", "a100-80gb-sxm", "--json", "-").stdout)
    assert content["gpu"] == "a100-80gb-sxm"
    assert content["bias"] > 50


def test_several_files_are_shown_each_and_together(invoke, gemms: Path) -> None:
    output = invoke("validate", "gemm", gemms, gemms).stdout
    assert "all 2 together" in output
    assert "(4 rows)" in output


def test_a_report_has_every_row_and_a_picture(invoke, gemms: Path, tmp_path: Path) -> None:
    invoke("validate", "gemm", gemms, "--report", tmp_path / "out")
    assert len((tmp_path / "out" / "gemm.csv").read_text().splitlines()) == 4
    assert (tmp_path / "out" / "figures" / "gemm.svg").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpu", "h101"], "unknown gpu"),
        (["--json", ""], "cannot write"),
    ],
)
def test_a_mistake_is_named(invoke, gemms: Path, arguments: list[str], message: str) -> None:
    assert message in invoke("validate", "gemm", gemms, *arguments, code=2).stderr


LAUNCHES = """\
operation,device,calls,kernels_per_call,host_us_per_call
eager,NVIDIA H100 80GB HBM3,20000,1,4.5
eager_linear_forward_backward,NVIDIA H100 80GB HBM3,2000,3,42
graph_of_one_kernel,NVIDIA H100 80GB HBM3,20000,1,6
"""


def test_launches_alone_print_the_host_and_leave_the_gpu_as_it_is(invoke, tmp_path: Path) -> None:
    launches, out = tmp_path / "launch.csv", tmp_path / "mine.yaml"
    launches.write_text(LAUNCHES)
    output = invoke("calibrate", "h100-sxm", launches, "--out", out).stdout
    assert output.startswith("time of the host\n")
    assert "stack:\n  host: {kernel: 14 us, graph: 6 us}\n" in output
    assert read_entry(out) == read_entry(_shipped("h100-sxm"))


def test_launches_of_another_gpu_are_refused(invoke, tmp_path: Path) -> None:
    launches = tmp_path / "launch.csv"
    launches.write_text(LAUNCHES)
    assert "no row was measured on b200-sxm" in invoke("calibrate", "b200-sxm", launches, code=2).stderr


def test_sustained_products_are_validated_at_the_clock_of_a_run(invoke, tmp_path: Path) -> None:
    path = tmp_path / "gemm_sustained__h100_sxm__mine.csv"
    path.write_text("kernel_source,gemm_dtype,m,n,k,sustained_ms\ntorch.mm,bfloat16,8192,8192,8192,1.6\n")
    content = json.loads(invoke("validate", "gemm_sustained", path, "--json", "-").stdout)
    # 1.1e12 FLOP in 1.6 ms are 687 TFLOP/s, what H100 holds.
    assert content["n"] == 1
    assert content["mape"] < 10


def test_a_file_of_another_kind_is_refused(invoke, gemms: Path) -> None:
    assert "no table of moe" in invoke("validate", "moe", gemms, code=2).stderr


def test_calibrate_writes_a_file_that_loads_and_changes_only_what_was_fitted(invoke, tmp_path: Path) -> None:
    out = tmp_path / "mine.yaml"
    output = invoke("calibrate", "a100-80gb-pcie", NORMS, "--out", out).stdout
    assert "memory_bound.norm.hbm_frac" in output
    before, after = read_entry(_shipped("a100-80gb-pcie")), read_entry(out)
    assert "neusight-test-ln" in after.sources["memory_bound.norm"]
    changed = {key for key, value in before.tree.items() if after.tree[key] != value}
    assert changed <= {"memory_bound", "sources", "estimated"}
    assert after.tree["memory_bound"]["softmax"] == before.tree["memory_bound"]["softmax"]


def _shipped(name: str) -> Path:
    return FOLDER.parent / "gpus" / f"{name}.yaml"


def test_calibrate_fits_to_what_ships_where_no_file_is_given(invoke) -> None:
    output = invoke("calibrate", "v100-sxm2").stdout
    assert "in sample" in output
    assert "out of sample" in output


def test_check_says_that_the_catalogue_is_what_the_fits_give(invoke) -> None:
    assert "1 files are what the fits give" in invoke("calibrate", "v100-sxm2", "--check").stdout


def test_rows_are_thinned_into_a_file_of_the_catalogue(invoke, tmp_path: Path) -> None:
    invoke("calibrate", "a100-80gb-pcie", NORMS, "--thinned", tmp_path)
    written = tmp_path / "memory_bound__a100-80gb-pcie__neusight-test-ln.csv.gz"
    assert written.read_bytes() == NORMS.read_bytes()


@pytest.mark.parametrize(
    "arguments",
    [["calibrate"], ["calibrate", "h100-sxm", "--all"], ["calibrate", "h100-sxm", str(NORMS), "--check"]],
)
def test_arguments_that_exclude_each_other_are_refused(invoke, arguments: list[str]) -> None:
    invoke(*arguments, code=2)


def test_a_gpu_that_nobody_measured_needs_files(invoke) -> None:
    assert "no measurement of this GPU ships" in invoke("calibrate", "tpu-v4", code=2).stderr


def test_measurements_of_another_gpu_are_refused(invoke) -> None:
    assert "no row was measured on b200-sxm" in invoke("calibrate", "b200-sxm", NORMS, code=2).stderr


def test_examples_are_command_lines_that_are_understood() -> None:
    group = typer.main.get_group(app)
    for example in (*calibrate.EXAMPLES, *(line for lines in validate.EXAMPLES.values() for line in lines)):
        _, name, *arguments = example.split()
        with group.commands[name].make_context(name, arguments, resilient_parsing=True) as context:
            assert context.command.name == name
