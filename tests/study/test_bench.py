from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import matplotlib as mpl
import pytest
from typer.testing import CliRunner

from sim.cli import app
from sim.report.figures.cost import cost_csv, draw, write_cost
from sim.report.figures.style import LOOK
from sim.simulation import load, run
from sim.study.bench import (
    AXES,
    CLASSIC,
    PENDING,
    Curve,
    Parts,
    Point,
    Timing,
    curve,
    ladder,
    steps,
    straggler,
    timed,
    yardstick_heapq,
    yardstick_simpy,
    yardsticks,
)

BY_NAME = {axis.name: axis for axis in AXES}
TIMINGS = (
    Timing("loop", 0.5, 1000, ratio=1.0),
    Timing("step", 2.0, 1000, Parts(1.0, 0.75, 0.25), base="loop", slower=4.0, peak_bytes=2**20),
)
CURVES = (
    Curve("GPUs", "replicas", (Point(128, 10, Parts(0.1, 0.2, 0.1)), Point(1024, 10, Parts(0.7, 0.2, 0.1)))),
    Curve("layers", "deeper", (Point(8, 10, Parts(0.01, 0.02, 0.01)), Point(16, 20, Parts(0.02, 0.04, 0.02)))),
    Curve("stages", "longer", (Point(1, 10, Parts(0.01, 0.02, 0.01)), Point(2, 11, Parts(0.01, 0.03, 0.01)))),
)


def test_every_timing_counts_what_it_ran_and_compares_it_with_the_bare_loop() -> None:
    heap, bare_simpy = yardsticks(1000, 1)
    assert (heap.operations, bare_simpy.operations, heap.ratio) == (1000, 1000, 1.0)
    fused, folded, full = steps(heap, 1, 1)
    assert fused.operations == folded.operations
    # 128 ranks of one micro-batch against 2 ranks of 128.
    assert 0.5 < full.operations / folded.operations < 0.65
    assert full.ratio == full.operations_per_s / heap.operations_per_s
    assert full.parts is not None
    assert full.play_ratio == pytest.approx(full.ratio * full.parts.total_s / full.parts.play_s, rel=1e-12)


def test_the_bare_loops_take_every_event_that_they_are_asked_for() -> None:
    """One event more than full rounds of all lanes makes one lane a round longer."""
    assert (yardstick_heapq(3 * PENDING), yardstick_heapq(3 * PENDING + 1)) == (2.0, 3.0)
    assert (yardstick_simpy(3 * PENDING), yardstick_simpy(3 * PENDING + 1)) == (3.0, 4.0)


@pytest.mark.parametrize("fidelity", ["fused", "folded"])
def test_what_is_timed_in_parts_is_what_run_does(fidelity) -> None:
    scenario = load(CLASSIC, {"training.global_batch": 16})
    simulation, parts = timed(scenario, fidelity)
    assert simulation.result.to_dict() == run(scenario, fidelity).result.to_dict()
    assert min(parts.lower_s, parts.play_s, parts.summarise_s) > 0
    assert Parts(1.0, 2.0, 4.0).total_s == 7.0


def test_a_straggler_is_compared_with_the_same_cluster_without() -> None:
    alike, slow = straggler(256, 1)
    assert slow.base == alike.name
    assert slow.slower == slow.seconds / alike.seconds
    # Ranks that it splits from the rest are played on their own.
    assert slow.operations > alike.operations


def test_the_ladder_plays_as_many_operations_at_any_number_of_replicas() -> None:
    small, large = ladder((256, 1024), 1)
    assert large.operations < 1.5 * small.operations
    assert small.peak_bytes is not None
    assert small.peak_bytes > 0
    assert (small.base, large.base) == (None, small.name)
    assert large.slower == large.seconds / small.seconds


@pytest.mark.parametrize("axis", AXES, ids=lambda axis: axis.name)
def test_an_axis_grows_and_each_of_its_values_is_a_scenario_that_can_be_simulated(axis) -> None:
    assert list(axis.values) == sorted(set(axis.values))
    for value in axis.values:
        scenario = load(axis.scenario, axis.changes(value))
        found = {
            "GPUs": 8 * scenario.topology.nodes,
            "micro-batches": scenario.training.global_batch // scenario.layout.dp,
            "stages": scenario.layout.pp,
            "layers": scenario.model.num_layers,
        }
        assert found[axis.name] == value


def test_a_curve_has_a_point_for_each_value_that_is_asked_for() -> None:
    layers = BY_NAME["layers"]
    cost = curve(layers, 1, 2)
    assert (cost.axis, cost.held) == (layers.name, layers.held)
    small, large = cost.points
    assert (small.value, large.value) == layers.values[:2]
    assert 1.8 < large.operations / small.operations < 2.0


def test_the_table_of_cost_has_a_line_for_each_timing_and_point() -> None:
    loop, step, *points = csv.DictReader(io.StringIO(cost_csv(TIMINGS, CURVES)))
    assert (loop["operations_per_s"], loop["ratio"], loop["play_s"], loop["axis"]) == ("2000.0", "1.0", "", "")
    assert (step["play_s"], step["base"], step["slower"], step["peak_bytes"]) == ("0.75", "loop", "4.0", "1048576")
    assert [(point["axis"], point["value"]) for point in points[:3]] == [
        ("GPUs", "128"),
        ("GPUs", "1024"),
        ("layers", "8"),
    ]
    assert float(points[1]["seconds"]) == pytest.approx(1.0)
    assert float(points[1]["operations_per_s"]) == pytest.approx(10.0)


def test_a_panel_says_how_cost_grows_and_shows_every_part_of_it() -> None:
    with mpl.rc_context(LOOK):
        panels = draw(CURVES).axes
    titles = [axes.get_title(loc="left") for axes in panels]
    assert titles == ["8 x the GPUs: 2.5 x the time", "2 x the layers: 2 x the time", "2 x the stages: 1.25 x the time"]
    low_s, high_s = panels[0].get_ylim()
    for axes, of_axis in zip(panels, CURVES, strict=True):
        assert (axes.get_xscale(), axes.get_yscale(), axes.get_xlabel()) == ("log", "log", of_axis.axis)
        whole, *parts, proportional = axes.get_lines()
        assert [line.get_label() for line in parts] == ["lower", "play", "summarise"]
        total_s = [sum(times) for times in zip(*(line.get_ydata() for line in parts), strict=True)]
        assert list(whole.get_ydata()) == pytest.approx(total_s)
        assert proportional.get_ydata()[1] / whole.get_ydata()[0] == of_axis.points[1].value / of_axis.points[0].value
        assert axes.get_ylim() == (low_s, high_s)
        assert all(low_s < time_s < high_s for line in (whole, *parts) for time_s in line.get_ydata())


def test_the_same_numbers_are_written_as_the_same_bytes(tmp_path: Path) -> None:
    one, two = (write_cost(TIMINGS, CURVES, tmp_path / name).parents[1] for name in ("one", "two"))
    files = sorted(path.relative_to(one) for path in one.rglob("*.*"))
    assert [str(path) for path in files] == ["cost.csv", "cost.json", "figures/cost.png", "figures/cost.svg"]
    assert [(one / path).read_bytes() for path in files] == [(two / path).read_bytes() for path in files]
    content = json.loads((one / "cost.json").read_text())
    assert content["timings"][1]["parts"] == {"lower_s": 1.0, "play_s": 0.75, "summarise_s": 0.25}
    assert content["curves"][0]["points"][1]["value"] == 1024


@pytest.mark.slow
def test_a_quick_run_prints_json_alone_and_draws_the_four_axes(tmp_path: Path) -> None:
    arguments = ["bench", "engine", "--quick", "--json", "-", "--report", str(tmp_path)]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    rows = json.loads(done.stdout)
    assert len(rows) == len({row["name"] for row in rows}) == 9
    assert rows[0]["ratio"] == 1.0
    assert json.loads((tmp_path / "cost.json").read_text())["timings"] == rows
    assert re.findall(r"x the ([\w-]+): ", (tmp_path / "figures" / "cost.svg").read_text()) == [
        axis.name for axis in AXES
    ]


@pytest.mark.parametrize(
    ("arguments", "mistake"),
    [
        (["--quick", "--full"], "--quick and --full exclude each other"),
        (["--report", "FILE"], "is no folder"),
        (["--json", "FOLDER"], "no name of a file"),
    ],
)
def test_a_mistake_is_told_before_anything_is_timed(arguments: list[str], mistake: str, tmp_path: Path) -> None:
    (tmp_path / "FILE").touch()
    (tmp_path / "FOLDER").mkdir()
    given = [str(tmp_path / word) if word.isupper() else word for word in arguments]
    done = CliRunner().invoke(app, ["bench", "engine", *given])
    assert done.exit_code == 2
    assert mistake in done.stderr
    assert "bare heapq loop" not in done.stderr
