from __future__ import annotations

from dataclasses import replace

import pytest

from sim.report.answer import answer, contributions
from sim.report.placement import nodes_per_group


def test_the_answer_names_the_winner_and_what_made_the_difference(made):
    text = answer([made("classic", gemm=20.0, exposed_tp=5.0), made("lean", gemm=20.0, exposed_tp=1.0, bubble=1.0)])
    assert text.startswith("lean is the fastest layout that fits: 22.000 s a step, 1,234 tokens/s/GPU, MFU 50.0 %.")
    assert "It beats the reference classic by 3.000 s (12.0 %)" in text
    assert "4.000 s less in tensor-parallel communication, against 1.000 s more in pipeline bubble." in text


def test_the_winner_is_compared_with_the_runner_up_and_with_the_reference(made):
    text = answer([made("first", gemm=9.0), made("second", gemm=5.0), made("third", gemm=6.0)])
    assert text.startswith("second is")
    assert "It beats the runner-up third by 1.000 s (16.7 %): it spends 1.000 s less in matrix products." in text
    assert "It beats the reference first by 4.000 s (44.4 %): it spends 4.000 s less in matrix products." in text


def test_what_does_not_fit_cannot_win_and_is_named(made):
    text = answer([made("huge", peak=84.5, gemm=1.0), made("small", gemm=2.0), made("fat", peak=81.0, gemm=3.0)])
    assert text.startswith("small is the fastest layout that fits")
    assert text.endswith("huge (by 4.5 GiB, though it would be faster) and fat (by 1.0 GiB) do not fit in memory.")
    assert "It beats" not in text


def test_when_nothing_fits_the_answer_says_so(made):
    text = answer([made("huge", peak=84.0, gemm=1.0), made("larger", peak=90.0, gemm=2.0)])
    assert text.startswith("No layout fits in memory. Were memory no object, huge would be fastest:")


def test_equal_times_are_level(made):
    text = answer([made("one", gemm=1.0, bubble=1.0), made("two", gemm=1.0, bubble=1.0005)])
    assert "It is level with the runner-up two (within 0.1 %)." in text


def placed(result, order):
    scenario = result.scenario
    layout = scenario.layout.model_copy(update={"order": order})
    return replace(result, scenario=scenario.model_copy(update={"layout": layout}))


def test_results_that_differ_in_the_order_only_say_what_placement_costs(made):
    text = answer(
        [
            placed(made("inside", gemm=20.0, exposed_tp=5.0), "tp-cp-ep-dp-pp"),
            placed(made("across", gemm=20.0, exposed_tp=50.0, bubble=1.0), "dp-cp-ep-pp-tp"),
        ]
    )
    assert (
        "Placement alone costs 46.000 s: across (dp-cp-ep-pp-tp) against inside (tp-cp-ep-dp-pp), of which 45.000 s is "
        "exposed tensor-parallel communication, as its tensor-parallel groups reach over 2 nodes instead of 1."
    ) in text


def test_a_cause_that_grows_by_more_than_the_step_is_no_part_of_it(made):
    text = answer(
        [
            placed(made("inside", gemm=20.0, exposed_tp=5.0, bubble=2.0), "tp-cp-ep-dp-pp"),
            placed(made("across", gemm=20.0, exposed_tp=15.0), "dp-cp-ep-pp-tp"),
        ]
    )
    assert "(tp-cp-ep-dp-pp), with 10.000 s more exposed tensor-parallel communication" in text


def test_the_slowest_of_several_orders_is_held_against_the_fastest(made):
    text = answer(
        [
            placed(made("b", gemm=20.0, exposed_dp_reduce=2.0), "tp-cp-ep-pp-dp"),
            placed(made("a", gemm=20.0), "tp-cp-ep-dp-pp"),
            placed(made("c", gemm=20.0, exposed_dp_reduce=1.0), "pp-tp-cp-ep-dp"),
        ]
    )
    assert text.count("Placement") == 1
    assert "costs 2.000 s: b (tp-cp-ep-pp-dp) against a (tp-cp-ep-dp-pp)" in text


def test_placement_that_makes_no_difference_is_said_too(made):
    text = answer([placed(made("a", gemm=20.0), "tp-cp-ep-dp-pp"), placed(made("b", gemm=20.001), "tp-cp-ep-pp-dp")])
    assert "Placement makes no difference between a and b (within 0.1 %)." in text


def test_results_with_one_order_or_another_difference_say_nothing_of_placement(made, simulations):
    assert "Placement" not in answer([made("a", gemm=1.0), made("b", gemm=2.0)])
    piped, flat, _ = (simulation.result for simulation in simulations)
    assert "Placement" not in answer([piped, placed(flat, "dp-cp-ep-pp-tp")])


def test_groups_reach_over_as_many_nodes_as_their_order_makes_them(simulations):
    """dp = 4, tp = pp = 2 on two nodes of eight: inside, ranks 0 and 1; outermost, ranks 0 and 8."""
    piped = simulations[0].scenario
    across = placed(simulations[0].result, "dp-cp-ep-pp-tp").scenario
    assert [nodes_per_group(piped, axis) for axis in ("tp", "dp_cp", "pp")] == [1, 1, 2]
    assert [nodes_per_group(across, axis) for axis in ("tp", "dp_cp", "pp")] == [2, 1, 1]


def test_steps_that_are_not_the_same_work_are_called_so(made):
    one, two = made("one", gemm=1.0), made("two", gemm=2.0)
    training = two.scenario.training.model_copy(update={"global_batch": 64, "seq_len": 512})
    other = replace(two, scenario=two.scenario.model_copy(update={"training": training}))
    assert answer([one, other]).endswith(
        "Mind that a step is not the same work in all of them: they differ in sequence length and global batch."
    )
    assert "Mind" not in answer([one, two])


def test_one_result_is_described(made):
    text = answer([made("only", gemm=6.0, exposed_tp=3.0, bubble=1.0)])
    assert text.startswith("only: 10.000 s a step")
    assert "it fits with 40.0 GiB free" in text
    assert text.endswith("60.0 % matrix products, 30.0 % tensor-parallel communication and 10.0 % pipeline bubble.")


def test_named_causes_explain_nine_tenths_of_the_gap(made):
    winner = made("w", gemm=10.0, exposed_tp=1.0, bubble=2.5, optimizer=0.001)
    other = made("o", gemm=10.2, exposed_tp=2.5, bubble=1.1, optimizer=0.002)
    less, more = contributions(winner, other)
    assert [name for name, _ in less] == ["tensor-parallel communication", "matrix products"]
    assert [name for name, _ in more] == ["pipeline bubble"]
    named = sum(value for _, value in less) - sum(value for _, value in more)
    assert named == pytest.approx(other.step_time_s - winner.step_time_s, rel=0.1)
