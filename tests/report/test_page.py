from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from sim.report.page import inline, scenario_yaml, write_report
from sim.spec.sourced import is_estimated, numbers

VOID = {"meta", "br", "use", "path"}


class Page(HTMLParser):
    """Open elements, ids and references of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.ids: list[str] = []
        self.references: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.ids += [value for name, value in attrs if name == "id"]
        self.references += [value for name, value in attrs if name in ("href", "src", "xlink:href")]
        if tag not in {"meta", "br"}:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="session")
def report(simulations, tmp_path_factory):
    """A report of all simulations: its folder and its parsed page."""
    folder = tmp_path_factory.mktemp("report")
    index = write_report(simulations, folder, "A <title>")
    page = Page()
    page.feed(index.read_text(encoding="utf-8"))
    page.close()
    return folder, page


def test_the_report_is_complete(report):
    folder, _ = report
    figures = [
        f"figures/{name}.{kind}"
        for name in ("breakdown", "comparison", "memory", "memory_timeline", "timeline", "topology")
        for kind in ("png", "svg")
    ]
    assert sorted(_files(folder)) == sorted([*figures, "index.html", "result.json", "summary.csv"])


def test_the_page_is_well_formed_and_its_ids_are_unique(report):
    _, page = report
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))


def test_the_page_opens_offline(report):
    folder, page = report
    assert page.tags.isdisjoint({"script", "link", "img", "iframe"})
    for reference in page.references:
        if reference.startswith("#"):
            assert reference[1:] in page.ids
        else:
            assert (folder / reference).is_file()
    assert "@import" not in (folder / "index.html").read_text(encoding="utf-8")


def test_names_are_escaped(report):
    folder, _ = report
    assert "<h1>A &lt;title&gt;</h1>" in (folder / "index.html").read_text(encoding="utf-8")


def test_the_page_gives_a_source_for_every_constant_and_flags_estimates(report, simulations):
    text = (report[0] / "index.html").read_text(encoding="utf-8")
    scenario = simulations[0].scenario
    for part in (scenario.gpu, scenario.topology, scenario.stack):
        for key in numbers(part):
            mark = "estimate" if is_estimated(part, key) else ""
            assert re.search(
                rf'<td>{re.escape(key)}</td><td class="n">[^<]+</td><td class="estimated">{mark}</td>', text
            )


def test_summary_has_a_line_for_each_result_that_adds_up(report, simulations):
    with (report[0] / "summary.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    best_first = sorted(simulations, key=lambda simulation: simulation.result.step_time_s)
    assert [row["name"] for row in rows] == [simulation.scenario.variant for simulation in best_first]
    for row in rows:
        parts = [float(value) for key, value in row.items() if key.startswith("breakdown_s.")]
        assert sum(parts) == pytest.approx(float(row["step_time_s"]), rel=1e-9)


def test_result_json_is_a_list_of_several_and_an_object_of_one(report, simulations, tmp_path):
    several = json.loads((report[0] / "result.json").read_text(encoding="utf-8"))
    assert [one["step_time_s"] for one in several] == [simulation.result.step_time_s for simulation in simulations]
    write_report(simulations[:1], tmp_path, "one")
    assert json.loads((tmp_path / "result.json").read_text(encoding="utf-8")) == several[0]


def test_the_resolved_scenario_can_be_read_back(simulations):
    values = yaml.safe_load(scenario_yaml(simulations[0].scenario))
    assert (values["layout"]["tp"], values["layout"]["dp"], values["topology"]["fabric"]) == (2, 4, "rail_optimized")
    assert values["gpu"]["memory_bytes"] == simulations[0].scenario.gpu.memory_bytes


def test_inline_pictures_follow_the_colours_of_the_page():
    svg = '<?xml?>\n<svg><metadata>x</metadata><g id="a" style="fill: #1b1f24"/><use xlink:href="#a"/></svg>'
    assert inline("bars", svg) == '<svg><g id="bars-a" style="fill: var(--ink)"/><use xlink:href="#bars-a"/></svg>'


AGAIN = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from conftest import LAYOUTS, play
from sim.report.page import write_report
write_report([play(variant) for variant in LAYOUTS], Path(sys.argv[2]), "A <title>")
assert "pandas" not in sys.modules
"""


def test_another_process_with_another_hash_seed_writes_the_same_bytes(report, tmp_path):
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    command = [sys.executable, "-c", AGAIN, str(Path(__file__).parent), str(tmp_path)]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONHASHSEED": seed})  # noqa: S603 - our own interpreter
    assert _files(tmp_path) == _files(report[0])
