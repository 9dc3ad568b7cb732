"""The documents say what the code does: commands run, blocks load, keys and names are there, links lead somewhere."""

from __future__ import annotations

import dataclasses
import re
import runpy
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
from pydantic import BaseModel
from typer.testing import CliRunner

from sim.cli import app
from sim.cost.collectives import ALGORITHMS
from sim.program.memory import StageMemory
from sim.program.table import SCHEDULES
from sim.report.figures import FIGURES
from sim.report.page import summary_csv
from sim.report.sets import SET_FIGURES
from sim.report.words import CAUSES, KINDS
from sim.results.links import TierUse
from sim.results.result import Result
from sim.results.spending import RunSpending, Spending
from sim.simulation import load, load_all, load_points, simulate
from sim.spec.find import Kind, names
from sim.spec.gpu import Gpu
from sim.spec.layout import Layout
from sim.spec.model import Model
from sim.spec.scenario import Setting
from sim.spec.stack import Stack
from sim.spec.sweep import Sweep
from sim.spec.topology import FABRICS
from sim.spec.training import Training
from sim.study.table import COLUMNS

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCUMENTS = [README, ROOT / "reports" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SCENARIOS, RESULTS, EXTENDING = (ROOT / "docs" / f"{name}.md" for name in ("scenarios", "results", "extending"))
PARTS: dict[str, list[type[BaseModel]]] = {
    "": [Setting],
    "layout.": [Layout],
    "training.": [Training],
    "topology.": list(FABRICS.values()),
    "gpu.": [Gpu],
    "model.": [Model],
    "stack.": [Stack],
    "sweep.": [Sweep],
}
OF_THE_LOADER = {
    "extends",
    "variants",
    "sweep",
    "topology.fabric",
    *(f"{part}.use" for part in ("topology", "gpu", "model", "stack")),
}
QUICK = {"run", "show", "list", "schedule", "schema"}
"""Commands that a test can run as they are written; the others are only parsed here and run elsewhere."""


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def blocks(path: Path, language: str) -> list[tuple[str, str]]:
    """(what stands after the language, content) of every fenced block of a language."""
    found = re.findall(rf"^```{language}( [^\n]*)?\n(.*?)^```$", read(path), re.MULTILINE | re.DOTALL)
    return [(info.strip(), content) for info, content in found]


def commands() -> list[str]:
    """Every `sim` command of a fenced block."""
    lines = [line for path in DOCUMENTS for _, block in blocks(path, "bash") for line in block.splitlines()]
    return [" ".join(shlex.split(line, comments=True)) for line in lines if line.startswith("sim ")]


def first_cells(path: Path, section: str = "") -> set[str]:
    """Names in backticks of the first column of every table of a document, or of one section of it."""
    text = read(path).split(f"\n## {section}\n")[1].split("\n## ")[0] if section else read(path)
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


def fields_of(spec: type[BaseModel], prefix: str) -> Iterator[str]:
    """Dotted keys of a class and of those inside it, as a file has them."""
    for name, field in spec.model_fields.items():
        path = prefix + (field.alias or name)
        yield path
        for inner in specs(field.annotation):
            yield from fields_of(inner, f"{path}.")


def specs(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from specs(inner)


def scenario_keys() -> set[str]:
    found = {key for prefix, classes in PARTS.items() for spec in classes for key in fields_of(spec, prefix)}
    return (found | OF_THE_LOADER) - {"variant"}


@pytest.fixture(scope="module")
def small() -> Result:
    return simulate(load("llama2-7b_8xa100_zero3", ["cost.tokens=2e12"]))


@pytest.fixture(scope="module")
def refresh() -> dict[str, Any]:
    """The script that writes the measured parts of the README."""
    return runpy.run_path(str(ROOT / "reports" / "gallery" / "refresh.py"))


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(path: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", read(path))
    for link in (link for link in links if not link.startswith("https://")):
        file, _, anchor = link.partition("#")
        target = path.parent / file if file else path
        assert target.exists(), link
        headings = re.findall(r"^#+ (.*)$", read(target), re.MULTILINE) if anchor else []
        assert not anchor or anchor in {heading.lower().replace(" ", "-") for heading in headings}, link


def test_there_are_commands_to_test() -> None:
    assert {command.split()[1] for command in commands()} == set(typer.main.get_group(app).commands)


@pytest.mark.parametrize("command", commands())
def test_a_documented_command_is_understood(command: str) -> None:
    _, name, *arguments = shlex.split(command)
    with typer.main.get_group(app).commands[name].make_context(name, arguments) as context:
        assert context.command.name == name


@pytest.mark.parametrize("command", [command for command in commands() if command.split()[1] in QUICK])
def test_a_documented_command_runs(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, shlex.split(command)[1:], catch_exceptions=False)
    assert done.exit_code == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize("target", ["demo", "test"])
def test_the_two_commands_are_targets_of_the_makefile(target: str) -> None:
    assert f"    make {target} " in read(README)
    assert re.search(rf"^{target}: ", read(ROOT / "Makefile"), re.MULTILINE)


def test_make_demo_is_the_command_whose_output_the_readme_shows(refresh: dict[str, Any]) -> None:
    command = f"sim compare scenarios/{refresh['SCENARIO']}.yaml --report reports/{refresh['SCENARIO']}\n"
    assert f"\ndemo: $(VENV)/.ready\n\t$(VENV)/bin/{command}" in read(ROOT / "Makefile")


def test_the_readme_shows_what_is_played_today(refresh: dict[str, Any], tmp_path: Path) -> None:
    """Where this fails for a good reason, `python reports/gallery/refresh.py` writes the new parts."""
    parts = refresh["play"](tmp_path, ["--no-report"])
    assert set(parts) == {"first screen", "placement"}
    assert read(README) == refresh["replaced"](read(README), parts)


def test_pictures_of_the_gallery_are_small_and_shown() -> None:
    pictures = sorted((ROOT / "reports" / "gallery").glob("*.png"))
    assert [path.name for path in pictures] == ["breakdown.png", "comparison.png", "timeline.png"]
    for path in pictures:
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.stat().st_size < 150_000
        assert f"](reports/gallery/{path.name})" in read(README)


def test_the_python_of_the_readme_runs(capsys: pytest.CaptureFixture[str]) -> None:
    ((_, code),) = blocks(README, "python")
    scope: dict[str, Any] = {}
    exec(code, scope)  # noqa: S102 - the document's own example
    assert capsys.readouterr().out.startswith(f"{scope['result'].step_time_s:.2f} s, MFU ")
    assert scope["frame"]["share"].sum() == pytest.approx(1.0)


@pytest.mark.parametrize("block", [block for path in (README, SCENARIOS) for block in blocks(path, "yaml")], ids=str)
def test_a_documented_scenario_loads_or_is_refused_as_shown(
    block: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    info, content = block
    file = info or "documented.yaml"
    Path(file).write_text(content, encoding="utf-8")
    if info:
        done = CliRunner().invoke(app, ["run", file], catch_exceptions=False)
        assert done.exit_code == 2
        assert done.stderr in [text for _, text in blocks(SCENARIOS, "text")]
    elif "sweep:" in content:
        assert [point.error for point in load_points(file) if point.error is not None] == []
    else:
        assert load_all(file)
        assert content.startswith("# ")


def test_every_key_of_a_scenario_is_documented() -> None:
    documented = first_cells(SCENARIOS) | set(re.findall(r"`(topology\.\w+\.\w+)`", read(SCENARIOS)))
    assert scenario_keys() - documented - {"network", "network.algorithms", *inner_mappings()} == set()


def inner_mappings() -> set[str]:
    """Keys that only hold other keys, which are documented in full."""
    keys = scenario_keys()
    return {key for key in keys if any(other.startswith(f"{key}.") for other in keys)}


def test_no_key_of_a_scenario_is_documented_that_does_not_exist() -> None:
    dotted = {name for name in first_cells(SCENARIOS) if re.fullmatch(r"[a-z_]+(\.\w+)+", name)}
    assert dotted - scenario_keys() == set()


def result_keys() -> set[str]:
    """Keys of a result as a table writes them; those of mappings by rank, kind or cause are described as one."""
    found = {field.name for field in dataclasses.fields(Result)} - {"memory"} | {"name"}
    found |= {f"memory.{key}" for key in ("peak_bytes", "capacity_bytes", "fits", "by_stage")}
    found |= {f"memory.by_stage[].{field.name}" for field in dataclasses.fields(StageMemory)}
    found |= {f"spending.{field.name}" for field in dataclasses.fields(Spending)}
    found |= {f"spending.run.{field.name}" for field in dataclasses.fields(RunSpending)}
    found |= {"spending.usd_per_token", "spending.tokens_per_j"}
    return found | {f"link_use.TIER.{field.name}" for field in dataclasses.fields(TierUse)}


def test_the_keys_are_those_of_a_real_result(small: Result) -> None:
    values = small.to_dict()
    found = {key for key in values if key != "memory"}
    found |= {f"memory.{key}" for key in values["memory"]}
    found |= {f"spending.{key}" for key in values["spending"]}
    found |= {f"spending.run.{key}" for key in values["spending"]["run"]}
    found |= {f"memory.by_stage[].{key}" for stage in values["memory"]["by_stage"] for key in stage}
    found |= {f"link_use.TIER.{key}" for use in values["link_use"].values() for key in use}
    assert found == result_keys()


def test_every_key_of_a_result_is_documented_and_no_other() -> None:
    assert first_cells(RESULTS, "Keys") == result_keys()


def test_every_cause_is_documented_and_no_other() -> None:
    text = read(RESULTS).split("| cause | the compute stream |")[1].split("\n\n")[0]
    assert re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE) == list(CAUSES)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_communication_is_documented(kind: str) -> None:
    assert f"`{kind}`" in read(RESULTS).split("Kinds of communication")[1]


def test_every_column_of_the_tables_is_documented(small: Result) -> None:
    columns = {re.sub(r"^(exposed_s|overlap_fraction)\..*", r"\1.KIND", name) for name in head(summary_csv([small]))}
    columns = {re.sub(r"^breakdown_s\..*", "breakdown_s.CAUSE", name) for name in columns}
    assert columns - first_cells(RESULTS, "Tables") == set()
    of_a_sweep = [name for name in COLUMNS if not name.startswith("exposed_")]
    assert set(of_a_sweep) <= columns
    assert (of_a_sweep[0], of_a_sweep[-1]) == ("step_time_s", "num_gpus")
    assert set(small.to_frame().columns) <= first_cells(RESULTS, "Where every second goes")


def head(table: str) -> list[str]:
    return table.splitlines()[0].split(",")


@pytest.mark.parametrize("name", [*SCHEDULES, *ALGORITHMS, *FABRICS])
def test_a_name_that_a_scenario_can_use_is_documented(name: str) -> None:
    assert f"`{name}`" in read(SCENARIOS)


@pytest.mark.parametrize("name", [*FIGURES, *SET_FIGURES])
def test_a_figure_is_documented(name: str) -> None:
    assert f"`{name}`" in read(EXTENDING)
    assert name in list(FIGURES) or f"| `{name}` |" in read(RESULTS)


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("schedules", list(SCHEDULES)),
        ("collectives", list(ALGORITHMS)),
        *((kind, names(kind)) for kind in get_args(Kind)),
    ],
)
def test_every_name_is_listed(what: str, expected: list[str]) -> None:
    lines = CliRunner().invoke(app, ["list", what], catch_exceptions=False).stdout.splitlines()
    assert [line.split()[0] for line in lines[1:]] == expected


def test_the_inherited_tests_exist() -> None:
    claimed = set(re.findall(r"`(test_\w+)`", read(EXTENDING)))
    defined = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", read(path), re.MULTILINE)
    }
    assert len(claimed) > 40
    assert claimed - defined == set()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_that_a_document_names_exist(path: Path) -> None:
    named = re.findall(r"`((?:sim|tests|docs|topologies|scenarios|reports)/[\w./-]*)`", read(path))
    assert [name for name in named if "NAME" not in name and not (ROOT / name).exists()] == []


def test_the_readme_is_short_and_names_every_folder_of_the_package() -> None:
    text = read(README)
    assert len(text.splitlines()) < 200
    folders = [
        path.name for path in (ROOT / "sim").iterdir() if (path / "__init__.py").is_file() or path.name == "catalog"
    ]
    assert [name for name in folders if f"  {name}/" not in text] == []
