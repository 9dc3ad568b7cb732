from __future__ import annotations

from pathlib import Path

import pytest

from sim.calibrate.collective_files import shipped_collectives, shipped_on
from sim.calibrate.collective_rows import COLUMNS, read_rows
from sim.calibrate.collective_validation import CLASSES, CollectiveValidation, together, validate_collectives
from sim.calibrate.systems import placed
from sim.calibrate.topology_file import fabric_spec, read_topology
from sim.cost.network_time import lone_call
from sim.spec.network import Network

HEAD = "system,nodes,gpus,gpus_per_node,nic,collective,algo_proto,size_bytes,time_us,note\n"
SIZES = (1024, 2**19, 2**21, 2**28)
SHIPPED = list(shipped_collectives())


def measured(factor: float, sizes: tuple[int, ...] = SIZES, how: str = "") -> str:
    """All_reduce of 2 x 8 H100, as we predict it, times a factor."""
    fabric = fabric_spec(read_topology("dgx-h100"), ["nodes=2"]).build()
    network = Network.model_validate({"algorithms": {"all_reduce": how or "auto"}})
    members = placed(fabric, 16, 2)
    times_us = [1e6 * lone_call("all_reduce", size, members, fabric, network).time_s[0] * factor for size in sizes]
    rows = [
        f"HGX H100,2,16,8,8x400Gb IB,all_reduce,{how},{size},{time_us!r},"
        for size, time_us in zip(sizes, map(float, times_us), strict=True)
    ]
    return "\n".join([*rows, ""])


def validation(folder: Path, text: str, topology: str | None = None, **options: bool) -> CollectiveValidation:
    path = folder / "x.csv"
    path.write_text(HEAD + text)
    return validate_collectives(read_rows(path), topology, **options)


def test_errors_are_those_of_the_predictions(tmp_path: Path) -> None:
    """Measured 1.25 times as long as predicted: 20 % short each, and in the sum."""
    found = validation(tmp_path, measured(1.25)).to_dict()
    assert [found[key] for key in ("mape", "mape_ge_1mb", "bias", "n", "n_ge_1mb", "n_skipped")] == [
        pytest.approx(20.0), pytest.approx(20.0), pytest.approx(-20.0), 4, 2, 0,
    ]  # fmt: skip


def test_large_messages_are_told_apart(tmp_path: Path) -> None:
    found = validation(tmp_path, measured(1.0, SIZES[:2]) + measured(2.0, SIZES[2:])).to_dict()
    assert (found["mape"], found["mape_ge_1mb"]) == (pytest.approx(25.0), pytest.approx(50.0))


def test_groups_are_collective_class_of_size_and_nodes_in_order(tmp_path: Path) -> None:
    found = validation(tmp_path, measured(1.0)).to_dict()
    assert [(each["collective"], each["size_class"], each["nodes"], each["n"]) for each in found["groups"]] == [
        ("all_reduce", name, 2, 1) for name in ("below 64 kB", "64 kB to 1 MB", "1 MB to 16 MB", "256 MB and more")
    ]
    assert next(name for _, name in CLASSES) == found["groups"][0]["size_class"]


def test_the_system_says_which_constants_were_taken(tmp_path: Path) -> None:
    text = measured(1.0).replace("8x400Gb IB", "8x400Gb EFA")
    (system,) = validation(tmp_path, text).to_dict()["systems"]
    assert (system["topology"], system["constants"], system["n"]) == ("dgx-h100", "network of InfiniBand", 4)


def test_a_row_runs_by_the_algorithm_that_it_names(tmp_path: Path) -> None:
    found = validation(tmp_path, measured(1.0, how="ring"))
    assert set(found.table["algorithm"]) == {"ring"}
    assert found.to_dict()["mape"] == pytest.approx(0.0, abs=1e-4)


def test_rows_that_cannot_be_simulated_have_a_reason(tmp_path: Path) -> None:
    text = measured(1.0, (2**20,))
    other = [
        text.replace("HGX H100", "L40S"),
        text.replace("all_reduce,,", "all_reduce,mscclpp,"),
        text.replace("all_reduce", "gather"),
    ]
    found = validation(tmp_path, text + "".join(other)).to_dict()
    assert (found["n"], found["n_skipped"]) == (1, 3)
    assert [(each["reason"].split(":")[0], each["n"], each["first_line"]) for each in found["skipped"]] == [
        ("no topology of this system ships", 1, 3),
        ("an algorithm that is not simulated", 1, 4),
        ("no collective that is simulated", 1, 5),
    ]


def test_rows_of_slow_settings_count_only_when_asked_for(tmp_path: Path) -> None:
    row = "ALCF polaris A100-40GB,2,8,4,2x200Gb Slingshot-11,all_reduce,,1048576,900,env-setup 1\n"
    assert validation(tmp_path, row).to_dict()["n_skipped"] == 1
    assert validation(tmp_path, row, keep_mistuned=True).to_dict()["n"] == 1


def test_a_topology_can_be_named(tmp_path: Path) -> None:
    found = validation(tmp_path, measured(1.0).replace("HGX H100", "ours"), "dgx-a100")
    assert set(found.table["topology"]) == {"dgx-a100"}


def test_nothing_to_predict_is_said_with_nulls(tmp_path: Path) -> None:
    found = validation(tmp_path, measured(1.0).replace("HGX H100", "ours"))
    assert (found.to_dict()["mape"], found.to_dict()["n"], found.to_dict()["groups"]) == (None, 0, [])
    assert together([found, found]).to_dict()["n_skipped"] == 8


def test_files_are_counted_together(tmp_path: Path) -> None:
    right, wrong = validation(tmp_path, measured(1.0)), validation(tmp_path, measured(1.25))
    assert together([right, wrong]).to_dict()["mape"] == pytest.approx(10.0)


def test_the_worst_row_comes_first(tmp_path: Path) -> None:
    found = validation(tmp_path, measured(1.1, SIZES[2:3]) + measured(2.0, SIZES[3:]))
    assert found.worst(1)["error"].tolist() == pytest.approx([-50.0])


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_what_ships_is_read_and_nearly_all_is_predicted(path: Path) -> None:
    rows = read_rows(path)
    assert rows.skipped == ()
    assert len(rows.table) > 0
    assert list(rows.table.columns) == list(COLUMNS)


def test_every_file_that_ships_has_a_source_and_all_are_small() -> None:
    assert all(shipped_collectives().values())
    assert sum(path.stat().st_size for path in SHIPPED) < 300_000


def test_a_cluster_is_told_of_by_its_nodes_and_its_network() -> None:
    assert set(shipped_on("dgx-h100")["nodes"]) == {1, 2, 4, 12}
    assert set(shipped_on("single-node-h100")["nodes"]) == {1}
    assert len(set(shipped_on("dgx-h100")["cited"])) == 4
