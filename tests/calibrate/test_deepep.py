"""DeepEP's measured dispatch and combine against the all_to_all of experts on the topologies that ship."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from sim.calibrate.deepep import DeepEpValidation, validate_deepep
from sim.errors import SimError

SHIPPED = Path(__file__).parents[2] / "sim/catalog/measurements/deepep/h100__aiconfigurator.csv.gz"
HEAD = (
    "system,node_num,hidden_size,num_token,num_topk,num_experts,"
    "dispatch_sms,dispatch_transmit_us,combine_sms,combine_transmit_us"
)


@pytest.fixture(scope="module")
def shipped() -> DeepEpValidation:
    return validate_deepep(SHIPPED)


def write(folder: Path, *rows: str) -> Path:
    path = folder / "rows.csv"
    path.write_text("\n".join([HEAD, *rows]))
    return path


@pytest.mark.parametrize(
    ("op", "nodes", "allowed"),
    [
        ("dispatch", "1", 15),
        ("dispatch", "2", 20),
        ("dispatch", "4", 10),
        ("combine", "1", 20),
        ("combine", "2", 25),
        ("combine", "4", 15),
    ],
)
def test_up_to_four_nodes_are_predicted(shipped: DeepEpValidation, op: str, nodes: str, allowed: float) -> None:
    found = {(group["op"], str(group["nodes"])): errors for group, errors in shipped.groups()}
    assert found[op, nodes].mape < allowed


def test_more_sms_are_never_slower(shipped: DeepEpValidation) -> None:
    for _, rows in shipped.table.groupby(["op", "nodes", "tokens"]):
        predicted = rows.sort_values("sms")["predicted_s"].to_numpy()
        assert (predicted[1:] <= predicted[:-1] * (1 + 1e-12)).all()
        assert predicted[-1] < predicted[0]


def test_combine_takes_longer_than_dispatch_of_half_the_bytes(tmp_path: Path) -> None:
    table = validate_deepep(write(tmp_path, "h100_sxm,2,7168,4096,8,256,24,100,24,100")).table
    times = dict(zip(table["op"], table["predicted_s"], strict=True))
    assert times["combine"] / times["dispatch"] == pytest.approx(2 / (1 + 4 / 128), rel=0.1)


def test_rows_of_unknown_systems_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path, "b200_sxm,1,7168,4096,8,256,24,100,24,100", "h200_sxm,1,7168,4096,8,256,24,100,24,100")
    found = validate_deepep(path)
    assert (found.num_skipped, len(found.table)) == (1, 2)


def test_what_is_no_number_is_refused_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(SimError, match=r"rows.csv:2.*num_token \(got 'many', allowed a number above 0\)"):
        validate_deepep(write(tmp_path, "h100_sxm,1,7168,many,8,256,24,100,24,100"))


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv.gz"
    path.write_bytes(gzip.compress(b"system,node_num\nh100_sxm,1\n"))
    with pytest.raises(SimError, match="hidden_size"):
        validate_deepep(path)


def test_a_topology_without_constants_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "h100_sxm,1,7168,4096,8,256,24,100,24,100")
    with pytest.raises(SimError, match="polaris has no constants of DeepEP"):
        validate_deepep(path, "polaris")
