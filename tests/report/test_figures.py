from __future__ import annotations

import itertools
from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pytest

from sim.program.table import Action, Kind
from sim.report.figures import FIGURES
from sim.report.figures.memory_timeline import MOST_LEVELS, levels, shown
from sim.report.figures.style import LOOK, render
from sim.report.figures.timeline import Blocks, blocks_of, one_pipeline, windows
from sim.report.figures.topology import bytes_by_tier, sketch
from sim.results.memory_timeline import MemoryCourse
from sim.simulation import run
from sim.spec.layout import groups

NAMES = ("breakdown", "comparison", "memory", "memory_timeline", "timeline", "topology")


def _draw(name, simulations):
    with mpl.rc_context(LOOK):
        return FIGURES[name].draw(simulations)


def test_these_figures_exist():
    assert tuple(FIGURES) == NAMES
    assert len({figure.place for figure in FIGURES.values()}) == len(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_figure_is_drawn_the_same_twice(name, simulations):
    assert FIGURES[name].applies(simulations)
    one, two = render(FIGURES[name], simulations), render(FIGURES[name], simulations)
    assert one.svg == two.svg
    assert one.png == two.png
    assert "<dc:date>" not in one.svg


@pytest.mark.parametrize("name", NAMES)
def test_axes_carry_units_and_a_title_that_says_something(name, simulations):
    canvas = _draw(name, simulations)
    titles = [axes.get_title(loc="left") for axes in canvas.axes]
    assert (
        any(simulation.scenario.variant in title for title in titles for simulation in simulations) or name == "memory"
    )
    assert canvas.axes[-1].get_xlabel().endswith(("(s)", "(ms)", "(GiB)")) or not canvas.axes[-1].axison


def test_only_a_comparison_compares(simulations):
    assert [name for name, figure in FIGURES.items() if not figure.applies(simulations[:1])] == ["comparison"]


def test_bars_of_the_breakdown_end_at_the_step_time(simulations):
    (axes,) = _draw("breakdown", simulations).axes
    ends = [0.0] * len(simulations)
    for bar in axes.patches:
        row = round(bar.get_y() + bar.get_height() / 2)
        ends[row] = max(ends[row], bar.get_x() + bar.get_width())
    assert ends == pytest.approx([simulation.result.step_time_s for simulation in simulations], rel=1e-9)


def test_bars_of_memory_end_at_the_peak_of_each_stage(simulations):
    deep = simulations[2]
    (axes,) = _draw("memory", [deep]).axes
    ends = [0.0] * 4
    for bar in axes.patches:
        row = round(bar.get_y() + bar.get_height() / 2)
        ends[row] = max(ends[row], bar.get_x() + bar.get_width())
    assert ends == pytest.approx([stage.peak_bytes / 2**30 for stage in deep.result.memory], rel=1e-9)


def test_memory_over_the_step_ends_each_panel_at_the_allocated_peak(simulations):
    deep = simulations[2]
    panels = _draw("memory_timeline", [deep]).axes
    assert len(panels) == 4
    for axes, stage in zip(panels, deep.result.memory, strict=True):
        tops = [area.get_paths()[0].get_extents().y1 for area in axes.collections]
        assert max(tops) == pytest.approx(stage.allocated_bytes / 2**30, rel=1e-9)


def test_a_deep_pipeline_shows_its_first_fullest_and_last_rank(simulations):
    stage = simulations[0].result.memory[0]
    stages = [replace(stage, pp_rank=rank, activations_bytes=1e9 * (rank == 3)) for rank in range(8)]
    assert [each.pp_rank for each in shown(stages)] == [0, 3, 7]
    assert [each.pp_rank for each in shown(stages[:4])] == [0, 1, 2, 3]


def test_many_levels_are_drawn_by_the_fullest_in_each_part_of_the_step():
    number = 10 * MOST_LEVELS
    level = np.arange(number) % 10.0
    level[5] = 99.0
    course = MemoryCourse(0, np.arange(number, dtype=np.float64), {"activations": level})
    start_s, drawn = levels(course, float(number))
    assert start_s.tolist() == [10.0 * part for part in range(MOST_LEVELS)]
    assert course.total_bytes[drawn].tolist() == [99.0] + [9.0] * (MOST_LEVELS - 1)


def test_a_part_in_which_no_level_begins_shows_the_one_that_lasts():
    course = MemoryCourse(0, np.append(np.linspace(0, 1, MOST_LEVELS), 999.0), {"logits": np.arange(MOST_LEVELS + 1.0)})
    _, drawn = levels(course, 1000.0)
    assert drawn[MOST_LEVELS // 2] == MOST_LEVELS - 1
    assert drawn[-1] == MOST_LEVELS


def test_the_drawn_ranks_are_one_pipeline(full):
    pipeline = one_pipeline(full.timeline)
    ranks = [full.timeline.program.ranks[index].rank for index in pipeline]
    assert ranks in groups(full.scenario.layout, "pp").tolist()
    assert ranks[0] == 0


def test_blocks_are_the_actions_and_the_operations_of_the_end(simulations):
    timeline = simulations[0].timeline
    for index in one_pipeline(timeline):
        row = blocks_of(timeline, index)
        expected = [action for action in timeline.program.ranks[index].actions if action is not None]
        # After the last action come the gradient norm and the optimizer.
        assert row.actions == (*expected, None, None)
        assert (row.start_s[1:] >= row.end_s[:-1]).all()


def test_blocks_of_a_slow_gpu_are_as_long_as_its_operations_took(small):
    changes = {"training.overlap.compute_slowdown": False}
    fast = blocks_of(run(small(changes)).timeline, 0)
    slow = blocks_of(run(small({**changes, "conditions.gpus": {0: 0.5}})).timeline, 0)
    assert fast.actions == slow.actions
    passes = np.flatnonzero([action is not None for action in fast.actions])
    took_s = (fast.end_s - fast.start_s)[passes]
    assert (slow.end_s - slow.start_s)[passes] == pytest.approx(2 * took_s, rel=1e-9)


def _row(number: int) -> Blocks:
    starts = np.arange(number, dtype=np.float64)
    return Blocks(tuple(Action(0, Kind.F, index) for index in range(number)), starts, starts + 1)


def test_a_short_step_is_drawn_whole():
    assert windows([_row(64)], 64.0) == [(0.0, 64.0)]


def test_a_long_step_is_drawn_by_its_beginning_and_its_end():
    assert windows([_row(1000)], 1000.0) == [(0.0, 32.0), (968.0, 1000.0)]


def test_the_beginning_shows_the_pipeline_filled():
    late = _row(1000)
    late = replace(late, start_s=late.start_s + 100, end_s=late.end_s + 100)
    assert windows([_row(1000), late], 1100.0) == [(0.0, 150.0), (1068.0, 1100.0)]


def test_bytes_on_each_tier_are_those_of_the_result(simulations):
    for simulation in simulations:
        found = bytes_by_tier(simulation.timeline)
        for tier, use in simulation.result.link_use.items():
            assert sum(found.get(tier, {}).values()) == pytest.approx(use.bytes, rel=1e-9)


def test_the_sketch_shows_two_nodes_and_their_switches(simulations):
    drawing = sketch(simulations[0].fabric)
    kinds = list(drawing.kind.values())
    counts = {kind: kinds.count(kind) for kind in ("gpu", "nvswitch", "nic", "leaf")}
    assert counts == {"gpu": 16, "nvswitch": 2, "nic": 16, "leaf": 8}
    assert {tier: len(links) for tier, links in drawing.links.items() if tier != "spine"} == {
        "nvlink": 16,
        "pcie": 16,
        "nic": 16,
    }
    assert len(drawing.links["spine"]) == 8 * kinds.count("spine")


@pytest.mark.parametrize(
    ("topology", "layout"),
    [
        ("single-node-h100", {"layout.tp": 2, "layout.pp": 2, "layout.dp": 2}),
        ("gb200-nvl72", {"training.global_batch": 144}),
        ({"use": "fat-tree-h100-2to1", "nodes": 2}, {}),
    ],
)
def test_other_fabrics_are_drawn_too(small, topology, layout):
    simulation = run(small({"topology": topology, **layout}))
    (axes,) = _draw("topology", [simulation]).axes
    text = " ".join(artist.get_text() for artist in axes.texts)
    assert "NVLink" in text
    assert ("leaf to spine" in text) is (topology != "single-node-h100")


@pytest.mark.parametrize(
    ("topology", "tiers"),
    [
        ({"use": "llama3-h100-roce", "nodes": 8, "leaves_per_pod": 2}, ["leaf to spine", "spine to core"]),
        ({"use": "deepseek-v3-planes", "nodes": 2, "nics_per_gpu": 2}, ["NIC to leaf", "leaf to spine"]),
        ({"use": "polaris", "nodes": 128}, ["router to router of a group", "group to group"]),
        ({"use": "pcie-a100-2nic", "nodes": 2}, ["pcie, gpu to pcieswitch", "host, pcieswitch to root"]),
        ("tpu-v5p-4x4x4", ["x, gpu to gpu", "z, gpu to gpu"]),
        ("single-node-mi300x", ["direct, gpu to gpu"]),
    ],
)
def test_every_family_of_fabrics_is_drawn(small, topology, tiers):
    simulation = run(small({"topology": topology, "training.global_batch": 512}))
    (axes,) = _draw("topology", [simulation]).axes
    text = " ".join(artist.get_text() for artist in axes.texts)
    assert all(tier in text for tier in tiers)
    notes = sorted(artist.get_position()[1] for artist in axes.texts if "on each of" in artist.get_text())
    assert all(high - low > 0.5 for low, high in itertools.pairwise(notes))


def test_an_interleaved_pipeline_is_drawn(small):
    changes = {"layout.pp": 2, "layout.vpp": 2, "layout.schedule": "interleaved_1f1b", "layout.tp": 8}
    simulation = run(small(changes))
    canvas = _draw("timeline", [simulation])
    assert len(canvas.axes[0].get_yticks()) == 2
