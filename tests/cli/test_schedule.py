"""`sim schedule`: the grid, its numbers, and the picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sim.program.table import SCHEDULES


def test_the_grid_has_a_row_a_rank_and_a_cell_a_unit_of_time(invoke: Callable):
    output = invoke("schedule", "1f1b", "--pp", "2", "--microbatches", "2").stdout
    assert grid_of(output) == ["F0 F1 . . B0 B0 . B1 B1", ". F0 B0 B0 F1 B1 B1 . ."]


def grid_of(output: str) -> list[str]:
    lines = [line.split()[2:] for line in output.splitlines() if line.startswith("rank ")]
    return [" ".join(line) for line in lines]


def test_numbers_are_those_of_the_schedule(invoke: Callable):
    output = invoke("schedule", "zb_h1", "--pp", "4", "--microbatches", "8", "--times", "2,2,1").stdout
    # (p - 1) (F + I - W) = 9 of m (F + I + W) = 40.
    assert "length       49 of which a rank computes 40" in output
    assert output.count("22.5 % of the ideal time (9/40), 18.4 % of all") == 2
    assert "in flight    4 4 4 4" in output


def test_two_passes_side_by_side_are_one_cell_and_may_take_less_than_one_after_the_other(invoke: Callable):
    arguments = ("schedule", "dualpipe", "--pp", "8", "--microbatches", "20", "--times")
    # (p / 2 - 1) (F&B + B - 3 W) = 3 x 6 of m (F + B) = 100; with F&B 4 instead of 5, 3 x 4.
    assert invoke(*arguments, "2,2,1").stdout.count("(3/20)") == 2
    output = invoke(*arguments, "2,2,1,4").stdout
    assert output.count("of the ideal time (3/25)") == 2
    assert "F 2, I 2, W 1, F&B 4 (B is I + W)" in output
    assert "F5&B11" in output
    assert "in flight    9 9 9 9 9 9 9 9" in output


def test_assumptions_that_do_not_hold_are_named(invoke: Callable):
    output = invoke("schedule", "zb_h2", "--pp", "4", "--microbatches", "4").stdout
    assert "closed form  micro-batches = 4, but the closed form of zb_h2 needs 2 pp - 1 = 7 or more" in output


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_is_drawn_the_same_twice(name: str, invoke: Callable, tmp_path: Path):
    vpp = next(v for v in (1, 2) if SCHEDULES[name].refusal(2, v, 4) is None)
    texts = []
    for file in ("a.svg", "b.svg"):
        path = tmp_path / file
        arguments = ("schedule", name, "--pp", "2", "--vpp", str(vpp), "--microbatches", "4", "--svg", str(path))
        assert f"SVG: {path}" in invoke(*arguments).stdout
        texts.append(path.read_text(encoding="utf-8"))
    assert texts[0] == texts[1]
    assert texts[0].count(">3</text>") >= 2 * 2 * vpp
    assert f"{name}, pp 2, vpp {vpp}, 4 micro-batches" in texts[0]


def test_a_long_grid_is_cut_into_parts_that_fit(invoke: Callable):
    output = invoke("schedule", "gpipe", "--pp", "2", "--microbatches", "24").stdout
    assert max(map(len, output.splitlines())) <= 120
    assert sum(line.startswith("time ") for line in output.splitlines()) == 3
    cells = [cell for line in grid_of(output) for cell in line.split()]
    assert len(cells) == 2 * (24 + 1) * 3
    assert cells.count("B23") == 2 * 2


def test_a_file_is_drawn_too(invoke: Callable, tmp_path: Path):
    path = tmp_path / "own.csv"
    path.write_text("0F0,0B0\n1F0,1B0\n")
    output = invoke("schedule", str(path), "--pp", "2", "--microbatches", "1").stdout
    assert "no closed form is published" in output
    assert grid_of(output) == ["F0 . . . B0 B0", ". F0 B0 B0 . ."]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("zb_v", "--pp", "4", "--microbatches", "8"), "vpp = 1, but zb_v has two chunks on each rank (allowed 2)"),
        (("zb_h3", "--pp", "4", "--microbatches", "8"), "unknown schedule (got 'zb_h3'"),
        (("1f1b", "--pp", "2", "--microbatches", "2", "--times", "1,0,1"), "--times: no times of F, I and W"),
        (("1f1b", "--pp", "2", "--microbatches", "2", "--times", "1,1,1,2"), "1f1b runs no two passes side by side"),
        (("1f1b", "--pp", "2", "--microbatches", "2", "--svg", "."), "cannot write '.'"),
    ],
)
def test_a_mistake_is_a_line_on_stderr(arguments: tuple[str, ...], message: str, invoke: Callable):
    assert message in invoke("schedule", *arguments, code=2).stderr
