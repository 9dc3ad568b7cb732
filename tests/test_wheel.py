"""An installed wheel finds what it ships by name, from any folder, without the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from sim.spec.find import Kind, names

ROOT = Path(__file__).parents[1]
DATA: dict[Kind, str] = {
    "scenarios": "sim/_shipped/scenarios",
    "plans": "sim/_shipped/scenarios/plans",
    "topologies": "sim/_shipped/topologies",
    "gpus": "sim/catalog/gpus",
    "models": "sim/catalog/models",
    "stacks": "sim/catalog/stacks",
    "longruns": "sim/_shipped/scenarios/longruns",
    "failures": "sim/catalog/failures",
    "storage": "sim/catalog/storage",
    "spikes": "sim/catalog/spikes",
    "prices": "sim/catalog/prices",
    "power": "sim/catalog/power",
}
Run = Callable[..., str]


def run_python(*arguments: str, folder: Path, **environment: str) -> str:
    """Standard output of this interpreter in `folder`; -P keeps the working folder off the path."""
    done = subprocess.run(  # noqa: S603 - our own interpreter, with arguments that a test wrote
        [sys.executable, "-P", *arguments],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The contents of the wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--no-cache-dir"]
    run_python("-m", "pip", "wheel", *options, "--wheel-dir", str(folder), str(ROOT), folder=folder)
    (wheel,) = folder.glob("pretraining_simulator-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "unpacked")
    return folder / "unpacked"


@pytest.fixture
def installed(unpacked: Path, tmp_path: Path) -> Run:
    """Run a command of the unpacked wheel in an empty folder."""

    def run(*arguments: str) -> str:
        return run_python(*arguments, folder=tmp_path, PYTHONPATH=str(unpacked))

    return run


@pytest.mark.parametrize("kind", DATA)
def test_the_wheel_holds_every_shipped_file(kind: Kind, unpacked: Path) -> None:
    assert {path.stem for path in (unpacked / DATA[kind]).iterdir()} >= set(names(kind))


def test_the_wheel_holds_templates_and_the_marker_of_types(unpacked: Path) -> None:
    templates = ROOT / "sim" / "report" / "templates"
    assert (unpacked / "sim" / "py.typed").is_file()
    for path in templates.iterdir():
        assert (unpacked / "sim" / "report" / "templates" / path.name).read_bytes() == path.read_bytes()


def test_the_wheel_holds_nothing_but_the_package(unpacked: Path) -> None:
    assert {path.name for path in unpacked.iterdir() if not path.name.endswith(".dist-info")} == {"sim"}


def test_names_are_found_in_the_wheel_and_not_in_the_checkout(installed: Run, unpacked: Path) -> None:
    code = "from sim.spec.find import find, Kind, names\nfrom typing import get_args\n"
    code += "for kind in get_args(Kind):\n    for name in names(kind): print(find(kind, name).resolve())"
    found = [Path(line) for line in installed("-c", code).splitlines()]
    assert len(found) == sum(len(names(kind)) for kind in DATA)
    assert all(path.is_relative_to(unpacked.resolve()) for path in found)


def test_an_installed_sim_lists_its_scenarios(installed: Run) -> None:
    listed = {line.split()[0] for line in installed("-m", "sim", "list", "scenarios").splitlines()[1:]}
    assert listed == set(names("scenarios"))


def test_an_installed_sim_plays_a_scenario_by_name_with_a_report(installed: Run, tmp_path: Path) -> None:
    output = installed("-m", "sim", "run", "llama2-7b_8xa100_zero3", "--report", "out")
    assert "step time" in output
    assert (tmp_path / "out" / "index.html").is_file()
