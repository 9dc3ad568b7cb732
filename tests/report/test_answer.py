from __future__ import annotations

import pytest

from sim.report.answer import answer, contributions


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
