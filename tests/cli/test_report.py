"""`sim report`."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from sim.cli import app

SMALL = str(Path("tests/small.yaml").resolve())


def sim(*arguments: str):
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False)


def test_files_of_runs_and_scenarios_become_one_page(tmp_path):
    for tp in (1, 2):
        assert sim("run", SMALL, "--set", f"layout.tp={tp}", "--json", str(tmp_path / f"tp{tp}.json")).exit_code == 0
    done = sim("report", str(tmp_path), SMALL, "--out", str(tmp_path / "page"), "--title", "All of them")
    assert done.exit_code == 0, done.stderr
    assert f"3 results: {tmp_path / 'page' / 'index.html'}" in done.stdout
    assert "<h1>All of them</h1>" in (tmp_path / "page" / "index.html").read_text(encoding="utf-8")


def test_mistakes_of_all_sources_are_told_before_anything_is_played(tmp_path):
    (tmp_path / "a.json").write_text("{}")
    done = sim("report", str(tmp_path / "a.json"), "no-such-scenario", SMALL, "--out", str(tmp_path / "page"))
    assert done.exit_code == 2
    assert "a.json" in done.stderr
    assert "no-such-scenario" in done.stderr
    assert not (tmp_path / "page").exists()
