from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from sim.calibrate.collective_calibration import CollectiveCalibration, calibrate_collectives, halves
from sim.calibrate.collective_files import shipped_on
from sim.calibrate.collective_rows import COLUMNS
from sim.calibrate.topology_file import TopologyFile, fabric_spec, read_topology
from sim.cli import app
from sim.cost.network_time import lone_call
from sim.errors import SimError
from sim.spec.network import Network

SIZES = [4**power for power in range(5, 15)]


def predicted(file: TopologyFile, factor: float = 1.0) -> pd.DataFrame:
    """Calls on 4 and 8 GPUs of a node, as a topology predicts them, times a factor."""
    fabric = fabric_spec(file).build()
    rows = [
        {
            "op": op, "nbytes": size, "gpus": gpus, "nodes": 1, "gpus_per_node": gpus, "system": "H100", "nic": "",
            "source": "", "algo_proto": "", "note": "", "cited": "ours",
            "time_s": factor * float(lone_call(op, size, np.arange(gpus)[None, :], fabric, Network()).time_s[0]),
        }
        for op in ("all_reduce", "all_gather")
        for gpus in (4, 8)
        for size in SIZES
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=[*COLUMNS, "cited"])


def test_a_fit_to_its_own_predictions_is_exact_and_changes_little() -> None:
    file = read_topology("single-node-h100")
    found = calibrate_collectives(file, predicted(file))
    assert found.num_rows == 40
    assert found.old is not None
    assert found.old.mape == pytest.approx(0.0, abs=1e-6)
    assert found.in_sample is not None
    assert found.in_sample.mape < 1.0


@pytest.fixture(scope="module")
def twice() -> CollectiveCalibration:
    """Fitted to twice the times that the topology predicts."""
    file = read_topology("single-node-h100")
    return calibrate_collectives(file, predicted(file, 2.0))


def test_twice_the_time_is_half_the_rate(twice: CollectiveCalibration) -> None:
    assert twice.old is not None
    assert twice.old.mape == pytest.approx(50.0)
    assert twice.in_sample is not None
    assert twice.in_sample.median_ape < 2.0
    assert abs(twice.in_sample.bias) < 2.0
    old, new = (float(each) for each in twice.constants["nvlink.efficiency"])
    assert new == pytest.approx(old / 2, rel=0.1)


def test_all_that_the_fit_does_not_tell_stays(twice: CollectiveCalibration) -> None:
    before, after = twice.before.tree, twice.after.tree
    assert {key for key in after if after[key] != before[key]} <= {"nvlink", "nccl", "sources", "estimated"}
    assert {key: after["nvlink"][key] for key in ("bandwidth", "latency")} == {
        key: before["nvlink"][key] for key in ("bandwidth", "latency")
    }
    assert after["sources"]["nccl"].startswith("fitted to ours: 40 calls; mean absolute error / bias")
    assert after["sources"]["nvlink.latency"] == before["sources"]["nvlink.latency"]


def test_errors_out_of_sample_are_those_of_every_other_size_and_of_the_most_gpus() -> None:
    rows = predicted(read_topology("single-node-h100"))
    seen = halves(rows)
    assert set(rows["nbytes"][seen["every other size"]]) == set(SIZES[::2])
    assert set(rows["gpus"][~seen["more GPUs"]]) == {8}
    assert list(halves(rows[rows["gpus"] == 8])) == ["every other size"]


def test_too_few_calls_tell_nothing() -> None:
    file = read_topology("single-node-h100")
    with pytest.raises(SimError, match=r"single-node-h100: too few rows to fit to \(got 7 it can have, allowed 8"):
        calibrate_collectives(file, predicted(file).head(7))


def test_a_family_without_such_constants_is_refused() -> None:
    file = read_topology("single-node-mi300x")
    with pytest.raises(SimError, match="a fully_connected has no constants of NCCL to fit"):
        calibrate_collectives(file, predicted(read_topology("single-node-h100")))


def test_the_command_prints_old_and_new_and_writes_the_file(tmp_path: Path) -> None:
    file = read_topology("single-node-a100")
    rows = shipped_on("single-node-a100")
    num_rows = int((rows["gpus"] <= 2).sum())
    assert 0 < num_rows < len(rows)
    out = tmp_path / "mine.yaml"
    done = CliRunner().invoke(
        app, ["calibrate", "collectives", "single-node-a100", "--max-gpus", "2", "--out", str(out)]
    )
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith(f"single-node-a100: {num_rows} measured calls\n")
    for words in ("nvlink.efficiency", "before", "in sample", "out of sample, every other size", f"wrote {out}"):
        assert words in done.stdout
    tree = yaml.safe_load(out.read_text())
    assert tree["name"] == file.name
    assert fabric_spec(read_topology(str(out))).name == file.name
    validated = CliRunner().invoke(app, ["collective", str(out), "-b", "1M", "-e", "1M"])
    assert validated.exit_code == 0, validated.stderr


def test_the_command_names_a_file_that_is_no_measurement(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("a,b\n1,2\n")
    done = CliRunner().invoke(app, ["calibrate", "collectives", "dgx-h100", str(path)])
    assert done.exit_code == 2
    assert "no table of collectives" in done.stderr
