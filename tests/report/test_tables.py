from __future__ import annotations

from dataclasses import replace

import pytest

from sim.report.tables import COLUMNS, breakdown_rows, columns_for, comparison_rows, exposed_s, ranking, short_names

GIB = 2**30


def test_the_fastest_comes_first_and_what_does_not_fit_last(made):
    slow, fast, large = made("slow", gemm=3.0), made("fast", gemm=2.0), made("large", peak=90.0, gemm=1.0)
    assert [result.scenario.variant for result in ranking([large, slow, fast])] == ["fast", "slow", "large"]


def test_variants_of_one_file_go_by_their_variant(made):
    one, two = made("one", gemm=1.0), made("two", gemm=1.0)
    assert short_names([one, two]) == ["one", "two"]
    assert short_names([one]) == ["one"]
    other = two.scenario.model_copy(update={"name": "other"})
    two = type(two)(**{**vars(two), "scenario": other})
    assert short_names([one, two]) == ["small/one", "other/two"]


def test_a_row_holds_plain_values_in_si(made):
    row, other = comparison_rows(
        [
            made("a", peak=90.0, gemm=2.0, exposed_tp=0.5, bubble=0.5),
            made("b", gemm=2.0, exposed_dp_reduce=0.25, exposed_dp_gather=0.25),
        ]
    )[::-1]
    assert (row["name"], row["step_time_s"], row["exposed_s"], row["fits"]) == ("a", 3.0, 0.5, False)
    assert (row["peak_bytes"], row["capacity_bytes"], row["free_bytes"]) == (90 * GIB, 80 * GIB, -10 * GIB)
    assert row["step_time_over_best"] == pytest.approx(3.0 / 2.5 - 1)
    assert (row["exposed_s.tp"], row["exposed_s.dp_reduce"], row["breakdown_s.bubble"]) == (0.5, 0.0, 0.5)
    assert (row["overlap_fraction.tp"], row["overlap_fraction.dp_reduce"]) == (0.25, None)
    assert (exposed_s(row, "TP"), exposed_s(other, "TP"), exposed_s(other, "DP")) == (0.5, 0.0, 0.5)
    assert list(row) == list(other)


def test_columns_write_the_row(made):
    result = made("b", peak=90.0, gemm=2.0, exposed_dp_reduce=0.25, exposed_dp_gather=0.25)
    rows = comparison_rows([made("a", gemm=2.0), result])
    columns = columns_for(rows)
    text = {" ".join(column.head).strip(): column.text(rows[1]) for column in columns}
    assert text == {
        "layout": "b",
        "step time": "2.50 s",
        "over best": "+25 %",
        "tokens/s /GPU": "1,234",
        "MFU": "50.0 %",
        "bubble": text["bubble"],
        "exposed DP": "0.50 s",
        "over- lap": "25.0 %",
        "peak GiB": "90.0",
        "USD /Mtok": text["USD /Mtok"],
        "memory verdict": "10.0 GiB short",
    }


def test_money_is_shown_where_a_result_has_a_price(made):
    result = made("a", gemm=2.0)
    tokens = result.tokens_per_s * result.step_time_s
    priced, free = (replace(result, spending=replace(result.spending, usd=usd)) for usd in (tokens * 2.5e-6, None))
    for results, texts in (([priced, free], ["2.50", "-"]), ([free], [])):
        rows = comparison_rows(results)
        money = [column for column in columns_for(rows) if column.key == "usd_per_token"]
        assert sorted(column.text(row) for column in money for row in rows) == sorted(texts)


def test_columns_of_kinds_that_nobody_exposes_are_left_out(made):
    keys = {column.key for column in columns_for(comparison_rows([made("a", gemm=1.0, exposed_ep=1.0)]))}
    assert "exposed CP/EP" in keys
    assert keys.isdisjoint({"exposed TP", "exposed DP", "exposed PP"})


def test_the_parts_of_the_breakdown_add_up_to_the_step(simulations):
    for simulation in simulations:
        rows = breakdown_rows(simulation.result)
        assert sum(seconds for _, _, seconds, _ in rows) == pytest.approx(simulation.result.step_time_s, rel=1e-9)
        assert sum(share for *_, share in rows) == pytest.approx(1, rel=1e-9)


def test_every_column_says_how_its_number_is_defined():
    assert all(column.definition.endswith(".") for column in COLUMNS)
    assert len({column.key for column in COLUMNS}) == len(COLUMNS)
