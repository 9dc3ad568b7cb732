"""The six answers of a small plan: each follows from those before it, and a given one is taken."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import pytest

from sim.decide.answer import Grid
from sim.decide.budget import choose_tokens
from sim.decide.data_mix import chosen_shares, draw
from sim.decide.deployment import budget_flop, choose_size, device_limit
from sim.decide.layouts import choose_layout
from sim.decide.memory_stages import PAPER_TRAFFIC, sent_bytes, state_table
from sim.decide.mixing import best_mix, losses
from sim.decide.plan import Device, MixingLaw, PlannedLayout
from sim.decide.planner import Decided, decide
from sim.decide.ranking import least_recompute, played, ranked_layouts, screen, tried_layout
from sim.decide.shape import shape_of
from sim.decide.wording import said
from sim.errors import SimError
from sim.simulation import simulate
from sim.spec.parameters import parameters


def column(grid: Grid, head: str) -> list:
    place = [each.head for each in grid.columns].index(head)
    return [row[place] for row in grid.rows]


def grid(decided: Decided, name: str) -> Grid:
    return next(each for answer in decided.answers for each in answer.grids if each.name == name)


def silent(_: str) -> None:
    """Hears of every step that is played."""


def test_there_are_six_answers_with_numbers_formulas_sources_and_sensitivity(decided: Decided):
    assert [answer.number for answer in decided.answers] == [1, 2, 3, 4, 5, 6]
    for answer in decided.answers:
        assert answer.text
        assert answer.values
        assert answer.grids
        assert answer.steps
        assert answer.sensitivity
        assert all(step.source and step.numbers for step in answer.steps)


def test_the_answers_are_plain_values(decided: Decided):
    text = json.dumps(decided.to_dict(), allow_nan=False)
    assert {"name", "summary", "outlook", "answers"} == set(json.loads(text))


def test_the_run_is_its_phases_over_the_time_that_trains(decided: Decided):
    phases = grid(decided, "phases")
    train_s = sum(column(phases, "time"))
    assert decided.outlook.days * 86400 == pytest.approx(train_s / decided.outlook.training_share, rel=1e-12)
    assert sum(column(phases, "tokens")) == pytest.approx(decided.answers[1].values["tokens"], rel=1e-12)
    assert decided.outlook.usd == pytest.approx(2.0 * decided.outlook.gpu_hours)


def test_the_long_phase_has_a_step_of_its_own(decided: Decided):
    steps = dict(zip(column(grid(decided, "phases"), "phase"), column(grid(decided, "phases"), "step"), strict=True))
    assert steps["main"] == steps["annealing"]
    assert steps["long context"] != steps["main"]


def test_the_ranking_is_sorted_and_has_the_named_layout(decided: Decided):
    ranking = grid(decided, "ranking")
    times = [time for time in column(ranking, "step") if time is not None]
    assert times == sorted(times)
    assert len(times) > 10
    assert any(name.startswith("named: tp2-pp2-dp2 zero2") for name in column(ranking, "layout"))
    assert all(column(ranking, "why"))
    assert column(ranking, "layout")[0] == decided.answers[2].values["layout"]


def test_the_chosen_step_is_simulated(decided: Decided):
    assert decided.result.step_time_s == simulate(decided.result.scenario).step_time_s
    assert decided.answers[3].values["step_time_s"] == decided.result.step_time_s


@pytest.mark.parametrize("layout", [{"tp": 2, "pp": 2}, {"pp": 4, "zero": 0}, {"zero": 3}, {"tp": 4, "micro_batch": 2}])
def test_a_screened_step_is_the_played_one(planned: Callable, layout: dict):
    plan = planned("training.global_batch=128")
    tried = tried_layout(plan, plan.model, PlannedLayout(**layout), None)
    screened, full = screen(tried, silent), played(tried, silent)
    assert screened.result is None
    assert screened.step.time_s == pytest.approx(full.step.time_s, rel=1e-3)
    assert screened.step.mfu == pytest.approx(full.step.mfu, rel=1e-3)
    assert sum(screened.step.breakdown_s.values()) == pytest.approx(screened.step.time_s, rel=1e-9)


def test_what_does_not_fit_is_listed_and_not_played(planned: Callable):
    plan = planned("gpu={use: h100-sxm, memory: 4 GiB}")
    ranking = ranked_layouts(plan, plan.model, {})
    misfits = [each for each in ranking if not each.fits]
    assert misfits
    assert all(each.step is None and each.reason for each in misfits)


def test_where_nothing_fits_the_plan_says_so(planned: Callable):
    plan = planned("gpu={use: h100-sxm, memory: 1 GiB}", "layouts={}")
    sized = choose_size(plan)
    with pytest.raises(SimError, match="no layout fits 8 h100-sxm"):
        choose_layout(plan, sized.model, choose_tokens(plan, sized).at, silent)


def test_a_given_layout_and_given_tokens_are_taken(planned: Callable):
    plan = planned("given.layout={tp: 4, pp: 2}", "given.tokens=3e9")
    sized = choose_size(plan)
    budgeted = choose_tokens(plan, sized)
    laid = choose_layout(plan, sized.model, budgeted.at, silent)
    assert (budgeted.at.tokens, budgeted.answer.is_given, laid.answer.is_given) == (3e9, True, True)
    assert laid.ranked.name == "given: tp4-pp2-dp1 zero1 mb1"


def test_seven_billion_with_adam_are_112_gb():
    table = state_table(7e9, 64, "zero", "7B")
    assert column(table, "sum, 16 B")[0] == pytest.approx(112e9)
    assert column(table, "sum with fp32 gradients, 18 B")[0] == pytest.approx(126e9)
    assert column(table, "optimizer's share")[0] == 0.75


@pytest.mark.parametrize(
    ("size", "dp", "expected_gb"),
    [(7.5e9, 64, [120, 31.4, 16.6, 1.88]), (70.6e9 / 16, 8, [70.6, 24.3, 16.55, 8.8])],
)
def test_every_row_of_the_zero_table(size: float, dp: int, expected_gb: list[float]):
    """arXiv 1910.02054, figure 1; and 70B in TP8 x PP2 x DP8."""
    sums = column(state_table(size, dp, "zero", "rows"), "sum, 16 B")
    assert [value / 1e9 for value in sums] == pytest.approx(expected_gb, rel=4e-3)


def test_zero_sends_what_the_paper_says_with_one_micro_batch_and_one_format(planned: Callable):
    plan = planned("training.global_batch=8")
    sent = []
    for zero in range(4):
        layout = PlannedLayout(zero=zero, recompute="none")
        sent.append(sent_bytes(plan.scenario(plan.model, layout, grad_precision="bf16")))
    assert [each / sent[0] for each in sent] == pytest.approx(PAPER_TRAFFIC, rel=1e-9)


def test_zero_3_gathers_and_zero_2_reduces_for_each_micro_batch_of_a_pipeline(planned: Callable):
    """m micro-batches: ZeRO-2 reduces m times and gathers once, ZeRO-3 also gathers twice for each."""
    plan = planned("training.global_batch=32")
    sent = []
    for zero in (0, 2, 3):
        layout = PlannedLayout(pp=2, zero=zero, recompute="none")
        sent.append(sent_bytes(plan.scenario(plan.model, layout, grad_precision="bf16")))
    assert [each / sent[0] for each in sent] == pytest.approx([1, (8 + 1) / 2, 3 * 8 / 2], rel=1e-9)


def test_a_device_bounds_the_size_by_memory_and_by_rate():
    device = Device(memory_bytes=8e9, memory_bytes_per_s=50e9, weight_bits=4, room=0.5)
    assert device_limit(device, "offline") == 8e9
    assert device_limit(device, "interactive") == pytest.approx(50e9 * 2 / 25)


@pytest.mark.parametrize(
    ("settings", "flop"),
    [
        ("{flop: 1e21}", 1e21),
        ("{days: 2, utilisation: 0.5}", 2 * 86400 * 8 * 989e12 * 0.5),
        ("{usd: 1000, utilisation: 0.5}", 1000 / 2.0 * 3600 * 989e12 * 0.5),
    ],
)
def test_a_budget_in_days_or_dollars_becomes_flop(planned: Callable, settings: str, flop: float):
    plan = planned(replaced=("{tokens_per_parameter: 20}", settings))
    assert budget_flop(plan, None) == pytest.approx(flop)


def test_twenty_tokens_a_parameter_of_70b_are_1_4_trillion(planned: Callable):
    plan = planned("model=llama2-70b")
    sized = choose_size(plan)
    assert said(choose_tokens(plan, sized).at.tokens, "tokens") == "1.38T"
    assert choose_tokens(plan, sized).at.tokens == pytest.approx(1.4e12, rel=0.02)


def test_llama_7b_trained_on_seven_times_its_optimum(decided: Decided):
    table = grid(decided, "over_training")
    factors = dict(zip(column(table, "model"), column(table, "of 20 a parameter"), strict=True))
    assert factors["LLaMA-1 7B"] == pytest.approx(7.4, abs=0.05)


def test_sources_beyond_their_epochs_are_missing(planned: Callable):
    plan = planned()
    data = plan.plan.data
    drawn = draw(data, {"web": 0.9, "books": 0.1}, 4e9)
    web, books = drawn
    assert (web.epochs, web.missing) == (pytest.approx(0.0036), pytest.approx(0, abs=1e-3))
    assert books.epochs == 4
    assert books.effective == pytest.approx(0.931 * 4 * 50e6, rel=1e-3)
    assert books.missing == pytest.approx(0.4e9 - books.effective)


def test_shares_come_from_the_answer_then_the_file_then_the_preset(planned: Callable):
    plan = planned("given.mix={web: 0.3, books: 0.7}")
    assert chosen_shares(plan, plan.plan.data, 1e9) == {"web": 0.3, "books": 0.7}
    plan = planned(replaced=("web: {tokens: 1e12, share: 0.9}", "web: {tokens: 1e12}"))
    assert chosen_shares(plan, plan.plan.data, 1e9) == {"web": 0.9, "books": 0.1}
    old = "sources:\n    web: {tokens: 1e12, share: 0.9}\n    books: {tokens: 50e6, share: 0.1, max_epochs: 4}"
    new = "preset: usual\n  sources:\n    web: {tokens: 1e12}\n    code: {tokens: 1e12, share: 0.15}"
    plan = planned(replaced=(old, new))
    shares = chosen_shares(plan, plan.plan.data, 1e9)
    assert shares == {"web": pytest.approx(0.6 / 0.75), "code": pytest.approx(0.15 / 0.75)}


def test_the_mixing_law_is_minimised():
    """One domain: more of the source with the lower t. Two that are mirrored: half of each."""
    law = MixingLaw(domains=("a",), c=(1.0,), k=(1.0,), t=((-1.0, -2.0),))
    assert best_mix(law, [1.0, 1.0]) == pytest.approx([0, 1], abs=1e-6)
    assert best_mix(law, [1.0, 0.4]) == pytest.approx([0.6, 0.4], abs=1e-6)
    assert losses(law, [0.5, 0.5]) == pytest.approx([1 + math.exp(-1.5)])
    mirrored = MixingLaw(domains=("a", "b"), c=(1.0, 1.0), k=(1.0, 1.0), t=((-2.0, 0.0), (0.0, -2.0)))
    assert best_mix(mirrored, [1.0, 1.0]) == pytest.approx([0.5, 0.5], abs=1e-4)
    with pytest.raises(SimError, match="allowed 100 %"):
        best_mix(law, [0.3, 0.3])


def test_phases_longer_than_the_run_are_refused(planned: Callable):
    plan = planned("data.long_context.tokens=1e13")
    with pytest.raises(SimError, match="allowed up to all of them"):
        decide(plan)


@pytest.mark.parametrize("size", [0.5e9, 1e9, 3e9, 8e9, 13e9, 70e9, 200e9, 405e9])
def test_a_shape_has_its_size_and_can_be_divided(size: float):
    model = shape_of(size, 4096)
    assert parameters(model).total == pytest.approx(size, rel=0.06)
    assert model.num_heads * model.head_dim == model.hidden
    assert model.num_layers % 4 == 0


def test_least_recompute_takes_as_little_as_fits(planned: Callable):
    plan = planned()
    layout, scenario, fits = least_recompute(plan, plan.model, PlannedLayout(tp=2))
    assert (layout.recompute, scenario.training.recompute, fits) == ("none", "none", True)


def test_the_formats_that_the_gpu_lacks_say_why(decided: Decided):
    table = grid(decided, "formats")
    reasons = dict(zip(column(table, "format"), column(table, "risk, or why not"), strict=True))
    speeds = dict(zip(column(table, "format"), column(table, "speed"), strict=True))
    assert "no fp4" in reasons["fp4"] or "does not train" in reasons["fp4"]
    assert speeds["bf16"] == 1
    assert speeds["fp4"] is None
    assert speeds["fp16"] < 1.01


def test_two_sigma_fires_every_44_steps(decided: Decided):
    table = grid(decided, "watch")
    assert column(table, "fires by chance every, steps")[0] == pytest.approx(44, abs=0.05)
