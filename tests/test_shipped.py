"""Every shipped scenario loads and lowers, asks a question, and is named after what it plays."""

from __future__ import annotations

import re

import pytest

from sim.program.lower import lower
from sim.simulation import load, load_all, load_points
from sim.spec.find import find, names
from sim.spec.layout import StageLayers, num_ranks
from sim.spec.scenario import Scenario

SHIPPED = names("scenarios")
NAME = re.compile(r"(?P<model>[a-z0-9.-]+)_(?P<count>\d+)x(?P<gpu>[a-z0-9]+)_(?P<variant>[a-z0-9._-]+)")
OF_THE_MAIN_JOB = {
    "deepseek-v3_2048xh800_ep64-pp16",
    "llama2-70b_128xh100_batch_sweep",
    "llama2-70b_128xh100_layouts",
    "llama2-70b_128xh100_tp8-pp2-dp8",
    "llama2-7b_8xa100_zero3",
    "llama3.1-405b_16384xh100_tp8-pp16-dp128",
}


def text_of(name: str) -> str:
    return find("scenarios", name).read_text(encoding="utf-8")


def scenarios_of(name: str) -> list[Scenario]:
    """Every scenario of a file; a shipped sweep has no impossible point."""
    if re.search(r"^sweep:", text_of(name), re.MULTILINE):
        points = load_points(name)
        assert [point.values for point in points if point.error is not None] == []
        return [point.scenario for point in points if point.scenario is not None]
    return load_all(name)


def test_these_scenarios_ship() -> None:
    assert set(SHIPPED) >= OF_THE_MAIN_JOB


@pytest.mark.parametrize("name", SHIPPED)
def test_the_first_line_asks_a_question(name: str) -> None:
    first = text_of(name).splitlines()[0]
    assert first.startswith("# ")
    assert "?" in first


@pytest.mark.parametrize("name", SHIPPED)
def test_the_name_says_model_count_and_gpu(name: str) -> None:
    said = NAME.fullmatch(name)
    assert said is not None
    for scenario in scenarios_of(name):
        assert scenario.model.name == said["model"]
        assert num_ranks(scenario.layout) == int(said["count"])
        assert scenario.gpu.name.split("-")[0] == said["gpu"]


@pytest.mark.parametrize("name", SHIPPED)
def test_every_scenario_of_the_file_lowers(name: str) -> None:
    """Of a large sweep, some forty points, spread evenly."""
    scenarios = list(scenarios_of(name))
    for scenario in scenarios[:: 1 + len(scenarios) // 40]:
        fabric = scenario.topology.build()
        program = lower(scenario, fabric, "fused")
        assert sum(rank.count for rank in program.ranks) == fabric.num_gpus


def test_the_comparison_has_the_classic_layout_and_eight_others() -> None:
    variants = {scenario.variant: scenario.layout for scenario in load_all("llama2-70b_128xh100_layouts")}
    classic = [layout for layout in variants.values() if (layout.tp, layout.pp, layout.dp) == (8, 2, 8)]
    assert {1, 2} <= {layout.zero for layout in classic}
    assert len({layout.order for layout in classic}) == 3
    assert len(variants) >= 9


def test_the_405b_has_eight_chunks_a_rank_and_lighter_ends() -> None:
    layout = load("llama3.1-405b_16384xh100_tp8-pp16-dp128").layout
    assert layout.vpp == 8
    assert layout.stage_layers == StageLayers(first=0, last=0)
