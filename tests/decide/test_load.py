"""Mistakes in a plan are told with their file, line and what is allowed; shipped plans load."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sim.decide.catalogue import MIXES, mix, prices
from sim.decide.load import load_plan
from sim.decide.plan import MIX_TOLERANCE
from sim.errors import SimError
from sim.spec.find import names


@pytest.mark.parametrize(
    ("old", "new", "line", "parts"),
    [
        ("share: 0.9}", "share: 0.95}", 13, ["data", "0.95 + 0.1 = 1.05", "allowed up to 1"]),
        (
            "tokens: 1e12, share",
            "tokens: -1e12, share",
            15,
            ["data.sources.web.tokens", "-1000000000000.0", "allowed > 0"],
        ),
        ("tokens: 1e11", "tokens: -1", 9, ["deployment.tokens", "allowed >= 0"]),
        ("law: epoch", "law: epock", 6, ["unknown scaling law", "did you mean 'epoch'"]),
        ("law: epoch", "law: llama3", 6, ["predicts no loss"]),
        ("{tokens_per_parameter: 20}", "{tokens_per_parameter: 20, days: 3}", 7, ["exactly one of flop, days, usd"]),
        (
            "price: {usd_per_gpu_hour: 2.0, date: 2026-01, source: a test}",
            "price: cheap",
            8,
            ["unknown price", "lambda-h100"],
        ),
        ("prompt_share: 0.25", "prompt_share: 1.25", 9, ["deployment.prompt_share", "allowed <= 1"]),
        ("zero: 2}", "zero: 5}", 12, ["layouts.named.zero", "allowed 0, 1, 2 or 3"]),
        ("budget:", "buget:", 7, ["unknown key", "did you mean 'budget'"]),
        ("gpu: h100-sxm", "gpu: h101", 4, ["unknown gpu"]),
    ],
)
def test_a_mistake_is_told_at_its_line(planned: Callable, old: str, new: str, line: int, parts: list[str]):
    with pytest.raises(SimError) as raised:
        planned(replaced=(old, new))
    problem = next(each for each in raised.value.problems if parts[-1] in str(each))
    assert problem.file.endswith("plan.yaml")
    assert problem.line == line
    for part in parts:
        assert part in str(problem)


def test_all_mistakes_of_a_file_are_told_together(planned: Callable):
    with pytest.raises(SimError) as raised:
        planned("law=nothing", "deployment.tokens=-1", "data.sources.web.tokens=-1")
    assert len(raised.value.problems) >= 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["given.mix={web: 0.5, books: 0.6}"], "1.1 in all"),
        (["given.mix={web: 0.5, novels: 0.5}"], "unknown source"),
        (["given.parameters=1e9"], "model gives the size as well"),
        (["data.preset=llama4"], "unknown mix"),
        (["data.preset=llama3"], "source of the mix llama3"),
        (["deployment.latency=interactive"], "needs a device"),
        (["deployment.loss=2.5"], "allowed one of them"),
        (["data.mixing_law={domains: [a], c: [1.0], k: [1.0], t: [[1.0]]}"], "a number for each of the 2 sources"),
    ],
)
def test_what_does_not_go_together_is_refused(planned: Callable, settings: list[str], message: str):
    with pytest.raises(SimError, match=message.replace("(", r"\(")):
        planned(*settings)


@pytest.mark.parametrize("name", names("plans"))
def test_a_shipped_plan_loads_and_asks_a_question(name: str):
    planned = load_plan(name)
    assert planned.plan.name == name
    text = (Path(__file__).parents[2] / "scenarios" / "plans" / f"{name}.yaml").read_text()
    assert text.startswith("# ")
    assert text.splitlines()[0].endswith("?")
    assert f"_{planned.num_gpus}x" in name


@pytest.mark.parametrize("name", MIXES)
def test_a_mix_is_whole_within_its_ranges_and_has_a_source(name: str):
    shipped = mix(name)
    assert sum(shipped.shares.values()) == pytest.approx(1.0, abs=MIX_TOLERANCE + 0.03 * (name == "usual"))
    assert "arXiv" in shipped.source or "/" in shipped.source
    assert set(shipped.ranges) <= set(shipped.shares)
    for source, (low, high) in shipped.ranges.items():
        assert low <= shipped.shares[source] <= high
    assert set(shipped.epochs) <= set(shipped.shares)


def test_a_price_has_a_date_and_a_source():
    for price in prices().values():
        assert "20" in str(price["date"])
        assert price["source"]
