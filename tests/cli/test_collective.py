"""`sim collective` and `sim validate collectives`, as a user runs them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from sim.calibrate.nccl_tests import read_log
from sim.cli import app

SWEEP = ("collective", "dgx-h100", "--op", "all_reduce", "--gpus", 16, "-b", "1K", "-e", "1G", "-f", 8)
COLUMNS = "nodes,gpus,gpus_per_node,system,nic,collective,size_bytes,time_us\n"


@pytest.fixture
def invoke() -> Callable[..., Result]:
    def command(*arguments: object, code: int = 0) -> Result:
        result = CliRunner().invoke(app, [str(each) for each in arguments], catch_exceptions=False)
        assert result.exit_code == code, result.stderr
        return result

    return command


@pytest.fixture
def measured(invoke, tmp_path: Path) -> Path:
    """What is simulated, measured to take a quarter longer."""
    sizes = json.loads(invoke(*SWEEP, "--json").stdout)["sizes"]
    rows = [f"2,16,8,HGX H100,8x400Gb IB,all_reduce,{each['nbytes']},{1.25e6 * each['time_s']!r}\n" for each in sizes]
    path = tmp_path / "sweep.csv"
    path.write_text(COLUMNS + "".join(rows))
    return path


def test_the_sweep_is_a_log_of_nccl_tests(invoke) -> None:
    log = read_log(invoke(*SWEEP).stdout, "stdout")
    sizes = json.loads(invoke(*SWEEP, "--json").stdout)["sizes"]
    assert log.op == "all_reduce"
    assert [each.nbytes for each in log.lines] == [1024 * 8**power for power in range(7)]
    assert [each.time_s for each in log.lines] == pytest.approx([each["time_s"] for each in sizes], rel=1e-3)


def test_bandwidths_follow_from_size_and_time(invoke) -> None:
    content = json.loads(invoke(*SWEEP, "--json").stdout)
    assert {key: content[key] for key in ("topology", "op", "gpus", "nodes")} == {
        "topology": "dgx-h100", "op": "all_reduce", "gpus": 16, "nodes": 2,
    }  # fmt: skip
    for each in content["sizes"]:
        assert each["algbw_GBps"] == pytest.approx(each["nbytes"] / each["time_s"] / 1e9)
        assert each["busbw_GBps"] == pytest.approx(each["algbw_GBps"] * 2 * 15 / 16)
        assert each["count"] * 4 == each["nbytes"]


def test_all_gather_counts_the_part_of_a_rank(invoke) -> None:
    sizes = json.loads(
        invoke(
            "collective", "dgx-h100", "--op", "all_gather", "-g", 8, "-b", 8, "-e", "1M", "-f", 2**17, "--json"
        ).stdout
    )["sizes"]
    assert [(each["nbytes"], each["count"]) for each in sizes] == [(0, 0), (2**20, 2**15)]


def test_values_of_topology_and_network_can_be_set(invoke) -> None:
    content = json.loads(
        invoke(
            "collective", "dgx-a100", "--set", "nodes=4", "--set", "network.algorithms.all_reduce=ring",
            "-b", "1K", "-e", "1K", "--json",
        ).stdout
    )  # fmt: skip
    assert (content["gpus"], content["nodes"], content["sizes"][0]["algorithm"]) == (32, 4, "ring")


def test_a_slower_link_takes_longer(invoke) -> None:
    one = ("collective", "dgx-a100", "-g", 16, "-b", "1G", "-e", "1G", "--json")
    fast, slow = (
        json.loads(invoke(*one, *more).stdout)["sizes"][0]["time_s"]
        for more in ((), ("--set", "nic.bandwidth=100 Gbit/s"))
    )
    assert 1.5 < slow / fast < 2.5


def test_measured_columns_stand_beside(invoke, measured: Path) -> None:
    output = invoke(*SWEEP, "--against", measured).stdout
    rows = [line for line in output.splitlines() if not line.startswith("#")]
    assert all(line.endswith("  -20%") for line in rows)
    assert "# off by 20.0 % over 7 measured sizes, from 1 MB 20.0 %" in output
    content = json.loads(invoke(*SWEEP, "--against", measured, "--json").stdout)
    assert (content["n"], content["mape"], content["mape_ge_1mb"]) == (7, pytest.approx(20.0), pytest.approx(20.0))


def test_a_size_that_was_not_measured_stays_blank(invoke, measured: Path) -> None:
    content = json.loads(invoke(*SWEEP[:-2], "-f", 64, "-e", "4G", "--against", measured, "--json").stdout)
    assert [each["measured_s"] is None for each in content["sizes"]] == [False, False, False, False]
    content = json.loads(invoke(*SWEEP[:-2], "-f", 2, "--against", measured, "--json").stdout)
    assert sum(each["measured_s"] is None for each in content["sizes"]) == 14


def test_our_own_output_is_a_measurement(invoke, tmp_path: Path) -> None:
    path = tmp_path / "all_reduce.log"
    path.write_text(invoke(*SWEEP).stdout)
    assert json.loads(invoke(*SWEEP, "--against", path, "--json").stdout)["mape"] < 0.1


def test_rows_of_several_systems_are_told_apart(invoke, measured: Path) -> None:
    text = measured.read_text()
    measured.write_text(text + text.removeprefix(COLUMNS).replace("HGX", "Dell"))
    assert "rows of several systems (got Dell H100, HGX H100" in invoke(*SWEEP, "--against", measured, code=2).stderr
    assert json.loads(invoke(*SWEEP, "--against", measured, "--system", "dell", "--json").stdout)["n"] == 7


def test_a_report_has_every_size_and_a_picture(invoke, measured: Path, tmp_path: Path) -> None:
    invoke(*SWEEP, "--against", measured, "--report", tmp_path / "report")
    table = pd.read_csv(tmp_path / "report" / "collective.csv")
    assert len(table) == 7
    assert {"busbw_GBps", "measured_busbw_GBps"} <= set(table.columns)
    svg = (tmp_path / "report" / "figures" / "collective.svg").read_text()
    assert "bus bandwidth, GB/s" in svg
    assert (tmp_path / "report" / "figures" / "collective.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere",), "unknown topology"),
        (("dgx-h100", "-b", "x"), "-b: no size (got 'x', allowed a number of bytes above 0, or such as 1K, 16G)"),
        (("dgx-h100", "-b", "0"), "-b: no size (got '0'"),
        (("dgx-h100", "-b", "2K", "-e", "1K"), "-e is below -b (got '1K', allowed '2K' or more)"),
        (("dgx-h100", "--gpus", "4096"), "the topology is too small (got 4096 GPUs"),
        (("dgx-h100", "--set", "knots=2"), "--set knots: unknown key"),
        (("dgx-h100", "--set", "network.algorithm=ring"), "--set network.algorithm: unknown key"),
        (("dgx-h100", "--set", "network.algorithms.all_reduce=star"), "star"),
        (("single-node-h100", "--set", "gpus_per_node=1"), "one GPU has nothing to send"),
        (("dgx-h100", "--against", "missing.log"), "missing.log"),
    ],
)
def test_a_mistake_is_named(invoke, arguments: tuple[str, ...], message: str) -> None:
    stderr = invoke("collective", *arguments, code=2).stderr
    assert message in stderr
    assert "Traceback" not in stderr


def test_a_file_without_the_call_is_refused(invoke, measured: Path) -> None:
    stderr = invoke("collective", "dgx-h100", "--gpus", 8, "--against", measured, code=2).stderr
    assert "no row of what is simulated (got all_reduce on 16 GPUs, allowed all_reduce on 8 GPUs)" in stderr
    stderr = invoke(*SWEEP[:-6], "-b", "3K", "-e", "3K", "--against", measured, code=2).stderr
    assert "none of the sizes was measured" in stderr


def test_validation_prints_groups_systems_and_reasons(invoke, measured: Path) -> None:
    measured.write_text(measured.read_text() + "1,8,8,L40S,,all_reduce,1048576,100\n")
    output = invoke("validate", "collectives", measured).stdout
    assert "  1 MB and more: MAPE 20.0 %, bias -20.0 %" in output
    assert "(3 rows)" in output
    assert f"  skipped: 1 row from {measured}:9 on, no topology of this system ships: 'L40S'" in output
    for words in (["collective", "size", "nodes"], ["system", "network", "topology", "constants"], ["line", "call"]):
        assert any(line.split()[: len(words)] == words for line in output.splitlines())


def test_validation_as_json_and_as_a_report(invoke, measured: Path, tmp_path: Path) -> None:
    done = invoke("validate", "collectives", measured, "--json", "--report", tmp_path / "report")
    content = json.loads(done.stdout)
    assert {"mape", "mape_ge_1mb", "bias", "n", "n_skipped", "groups"} <= set(content)
    assert (content["n"], content["n_skipped"], content["mape"]) == (7, 0, pytest.approx(20.0))
    assert len(pd.read_csv(tmp_path / "report" / "collectives.csv")) == 7
    assert "predicted" in (tmp_path / "report" / "figures" / "collectives.svg").read_text()


def test_validation_of_nothing_still_says_why(invoke, measured: Path, tmp_path: Path) -> None:
    measured.write_text(COLUMNS + "1,8,8,L40S,,all_reduce,1048576,100\n")
    output = invoke("validate", "collectives", measured, "--report", tmp_path / "report").stdout
    assert "  all sizes:     no row" in output
    assert "no topology of this system ships" in output


def test_validation_takes_a_named_topology(invoke, measured: Path) -> None:
    content = json.loads(invoke("validate", "collectives", measured, "--topology", "dgx-a100", "--json").stdout)
    assert [each["topology"] for each in content["systems"]] == ["dgx-a100"]
    assert "unknown topology" in invoke("validate", "collectives", measured, "--topology", "x", code=2).stderr
