"""The page over a set of results, as text and in a browser."""

from __future__ import annotations

import csv
import re
import shutil
import subprocess

import pytest

from sim.errors import SimError
from sim.report.points import point_of
from sim.report.set_page import write_set_report

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next((path for name in BROWSERS if (path := shutil.which(name))), None)
INSIDE = ("#", "figures/", "points.csv", "data:image/png;base64,")
DRIVER = """
<script>
addEventListener("error", event => document.body.dataset.error = event.message);
const names = () => [...document.querySelectorAll("#results tbody tr")].filter(row => !row.hidden)
  .map(row => row.cells[0].textContent).join(" ");
const seen = [names()];
const speed = [...document.querySelectorAll("#results th button")].find(each => each.textContent === "step time (s)");
speed.click(); seen.push(names());
speed.click(); seen.push(names());
const filter = document.getElementById("filter");
filter.value = "flat"; filter.dispatchEvent(new Event("input"));
seen.push(names(), document.getElementById("shown").textContent);
document.body.dataset.seen = seen.join("|");
</script>
"""


@pytest.fixture(scope="session")
def page(simulations, tmp_path_factory):
    """A page of three small layouts, the best against the slowest."""
    folder = tmp_path_factory.mktemp("page")
    points = [point_of(simulation.result) for simulation in simulations]
    return write_set_report(points, simulations, folder, "Three & more"), points


def by_speed(points):
    return [p.name.split("/")[1] for p in sorted(points, key=lambda each: each.answers["step_time_s"])]


def test_the_page_opens_offline(page):
    text = page[0].read_text(encoding="utf-8")
    assert "<title>Three &amp; more</title>" in text
    references = re.findall(r'(?:src|href|xlink:href)="([^"]+)"|url\(([^)]+)\)', text)
    assert [one or two for one, two in references if not (one or two).startswith(INSIDE)] == []
    for name in re.findall(r'href="(figures/[^"]+)"', text):
        assert (page[0].parent / name).stat().st_size > 0
    ids = re.findall(r' id="([^"]+)"', text)
    assert len(ids) == len(set(ids))


def test_the_table_of_points_has_every_number_unrounded(page):
    with (page[0].parent / "points.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    times = {row["name"]: float(row["step_time_s"]) for row in rows}
    assert times == {point.name: point.answers["step_time_s"] for point in page[1]}


def test_the_page_is_the_same_twice(page, simulations, tmp_path):
    again = write_set_report(page[1], simulations, tmp_path, "Three & more")
    assert again.read_bytes() == page[0].read_bytes()


def test_figures_with_a_timeline_are_there_for_what_was_played(page, tmp_path):
    played = {path.stem for path in (page[0].parent / "figures").glob("*.svg")}
    assert {"pareto", "waterfall", "parallel", "timeline", "memory", "topology"} <= played
    write_set_report(page[1], [], tmp_path, "from files")
    assert {path.stem for path in (tmp_path / "figures").glob("*.svg")} == played - {
        "breakdown",
        "timeline",
        "memory",
        "memory_timeline",
        "topology",
    }


def test_the_best_is_compared_with_what_is_asked(page, tmp_path):
    order = by_speed(page[1])
    write_set_report(page[1], [], tmp_path, "x", order[2])
    text = (tmp_path / "figures" / "waterfall.svg").read_text()
    assert f">{order[2]}<" in text
    assert f">{order[1]}<" not in text
    with pytest.raises(SimError, match=r"unknown result \(got 'nobody', allowed small/"):
        write_set_report(page[1], [], tmp_path, "x", "nobody")
    with pytest.raises(SimError, match=r"is the best itself"):
        write_set_report(page[1], [], tmp_path, "x", order[0])


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_controls_work_in_a_browser_without_an_error(page, tmp_path):
    copy = tmp_path / "index.html"
    copy.write_text(page[0].read_text(encoding="utf-8").replace("</body>", DRIVER + "</body>"), encoding="utf-8")
    done = subprocess.run(  # noqa: S603 - a browser found on this machine
        [
            str(BROWSER),
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--enable-logging=stderr",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--dump-dom",
            copy.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    body = re.search(r"<body([^>]*)>", done.stdout)
    assert body is not None
    assert "data-error" not in body[1]
    assert "CONSOLE" not in done.stderr
    first, up, down, filtered, shown = re.search(r'data-seen="([^"]*)"', body[1])[1].split("|")
    order = by_speed(page[1])
    assert first.split() == up.split() == order
    assert down.split() == order[::-1]
    assert (filtered, shown) == ("flat", "1 of 3")
