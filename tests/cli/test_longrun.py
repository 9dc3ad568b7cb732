"""`sim longrun` and its companions."""

import json

import pytest

NAME = "opt-175b_992xa100"
QUICK = ("--replicas", "3", "--workers", "1")


def test_it_says_where_the_time_goes_and_what_it_costs(invoke) -> None:
    text = invoke("longrun", NAME, *QUICK).stdout
    for words in ("ETTR", "days", "USD", "WASTED_PROGRESS_FROM_DISRUPTION", "every 500 steps", "clip_harder"):
        assert words in text


def test_json_is_the_same_to_the_byte(invoke) -> None:
    first, again = (invoke("longrun", NAME, *QUICK, "--json").stdout for _ in range(2))
    assert first == again
    found = json.loads(first)
    assert found["violations"] == 0
    assert sum(found["node_share_by_cause"].values()) == pytest.approx(1)
    assert sum(found["share_by_class"].values()) == pytest.approx(1)
    assert found["share_by_class"]["PRODUCTIVE"] == pytest.approx(found["ettr"]["mean"], rel=0.02)


def test_the_seed_changes_the_runs(invoke) -> None:
    first, other = (
        json.loads(invoke("longrun", NAME, *QUICK, "--set", f"seed={seed}", "--json").stdout) for seed in (0, 1)
    )
    assert first["days"] != other["days"]


def test_money_and_energy_follow_from_time(invoke) -> None:
    found = json.loads(invoke("longrun", NAME, *QUICK, "--json").stdout)
    hours = 24 * found["days"]["mean"] * (124 + 12) * 8
    assert found["gpu_hours"]["mean"] == pytest.approx(hours)
    assert found["usd"]["mean"] == pytest.approx(1.844 * hours)
    assert 0.315 * 1.1 * hours < found["kwh"]["mean"] < 0.606 * 1.1 * hours
    assert found["kg_co2"]["mean"] == pytest.approx(0.39 * found["kwh"]["mean"])


def test_a_report_has_its_pictures_and_the_same_bytes_twice(invoke, tmp_path) -> None:
    pages = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        invoke("longrun", NAME, *QUICK, "--search", "--report", str(folder))
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        pages.append({str(path.relative_to(folder)): path.read_bytes() for path in files})
    assert pages[0] == pages[1]
    pictures = {f"figures/{name}.{kind}" for name in ("course", "losses", "heat", "finish") for kind in ("svg", "png")}
    assert set(pages[0]) == {"index.html", "result.json"} | pictures
    assert b"<svg" in pages[0]["index.html"]
    assert len(json.loads(pages[0]["result.json"])["trials"]) == 5


def test_a_mistake_is_a_line_and_no_traceback(invoke) -> None:
    assert "unknown long run" in invoke("longrun", "opt", code=2).stderr
    assert "--set recovery.detect" in invoke("longrun", NAME, "--set", "recovery.detect=1", code=2).stderr


def test_validation_shows_every_row(invoke) -> None:
    found = json.loads(invoke("validate", "longrun", "--json").stdout)
    assert len(found["ettr"]) == 10
    assert "419 interruptions" in invoke("validate", "longrun").stdout


def test_the_bench_counts_violations(invoke) -> None:
    text = invoke("bench", "longrun", "--runs", "20", "--workers", "1").stdout
    assert text.startswith("20 runs, ")
    assert ": 0 violations" in text
