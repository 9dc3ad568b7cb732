from __future__ import annotations

from pathlib import Path

import pytest

from sim.calibrate.topology_file import fabric_spec, read_topology, text, with_values
from sim.errors import SimError
from sim.spec.find import names

TOPOLOGIES = names("topologies")


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_a_file_written_again_says_the_same(name: str, tmp_path: Path) -> None:
    file = read_topology(name)
    path = tmp_path / f"{name}.yaml"
    path.write_text(text(file))
    again = read_topology(str(path))
    assert (again.tree, again.head) == (file.tree, file.head)
    assert text(again) == text(file)
    assert fabric_spec(again) == fabric_spec(file)


def test_values_are_laid_on_a_file() -> None:
    file = read_topology("dgx-h100")
    spec = fabric_spec(file, ["nodes=3", "nic.bandwidth=200 Gbit/s"]).model_dump()
    assert (spec["nodes"], spec["nic"]["bytes_per_s"]) == (3, 25e9)
    assert fabric_spec(file, {"nodes": 3}).model_dump()["nodes"] == 3
    assert file.tree["nodes"] == 16


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("nodes", "--set needs a path and a value (got 'nodes', allowed such as nodes=4)"),
        ("nodes=0", "--set nodes: "),
        ("knots=4", "--set knots: unknown key"),
        ("nic.bandwidth=200", "--set nic.bandwidth: "),
    ],
)
def test_a_wrong_setting_is_named(setting: str, message: str) -> None:
    with pytest.raises(SimError) as error:
        fabric_spec(read_topology("dgx-h100"), [setting])
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("content", ["- a\n", "fabric: hypercube\nname: x\n", "name: x\n"])
def test_what_is_no_topology_is_refused_at_its_place(content: str, tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(content)
    with pytest.raises(SimError) as error:
        read_topology(str(path))
    assert error.value.problems[0].file.endswith("x.yaml")


def test_a_new_value_has_a_new_source_and_is_no_estimate() -> None:
    file = read_topology("dgx-h100")
    assert "nic.latency" in file.tree["estimated"]
    new = with_values(file, {"nic.latency": "5 us"}, {"nic.latency": "fitted"})
    assert (new.tree["nic"]["latency"], new.tree["sources"]["nic.latency"]) == ("5 us", "fitted")
    assert new.tree["estimated"] == [key for key in file.tree["estimated"] if key != "nic.latency"]
    kept = {key: value for key, value in file.tree.items() if key not in ("nic", "sources", "estimated")}
    assert {key: new.tree[key] for key in kept} == kept
    assert fabric_spec(new).model_dump()["nic"]["latency_s"] == pytest.approx(5e-6)
