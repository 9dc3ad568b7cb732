"""ZB-1p and ZB-2p: the bubble rates that their paper prints for four profiled models, and the memory that they keep."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.program.check_table import check_table
from sim.program.schedules.zb_auto import AutomaticZeroBubble, RankCosts
from sim.program.table import SCHEDULES, Action, Kind, Table, in_flight

ROWS = pd.read_csv(Path(__file__).parent / "zero_bubble_rates.csv", comment="#").to_dict("records")


def longest_span(table: Table, costs: RankCosts, send: float) -> float:
    """Most time that a rank takes from its first to its last action, where a result reaches its neighbour after
    `send`."""
    backward = costs.input_gradient + costs.weight_gradient
    cost = {Kind.F: costs.forward, Kind.B: backward, Kind.I: costs.input_gradient, Kind.W: costs.weight_gradient}
    end: dict[Action, float] = {}
    left = [list(row) for row in table]
    spans: dict[int, tuple[float, float]] = {}
    while any(left):
        for rank, row in enumerate(left):
            while row:
                action = row[0]
                step = -1 if action.kind is Kind.F else 1
                needed = [Action(action.stage + step, kind, action.microbatch) for kind in Kind if kind is not Kind.W]
                is_end = action.kind is Kind.W or not 0 <= action.stage + step < len(table)
                needed = [each for each in needed if (each.kind is Kind.F) == (action.kind is Kind.F)]
                done = [end[each] for each in needed if each in end]
                if not is_end and not done:
                    break
                first, free = spans.get(rank, (None, 0.0))
                begin = max(free, 0.0 if is_end else max(done) + send)
                end[action] = begin + cost[action.kind]
                spans[rank] = (begin if first is None else first, end[action])
                row.pop(0)
    return max(last - first for first, last in spans.values())


def costs_of(row: dict[str, float]) -> RankCosts:
    """Kept for weight gradients: 32 of 34 + 5 a s / h values of a layer (arXiv 2401.10241 table 1)."""
    kept_frac = 32 / (34 + 5 * row["heads"] * 1024 / row["hidden"])
    return RankCosts(row["forward"], row["input_gradient"], row["weight_gradient"], kept_frac)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['model']}-{row['schedule']}-{row['microbatches']}")
def test_bubble_rates_are_the_published_ones_within_two_points(row: dict[str, float]) -> None:
    p, m, costs = int(row["p"]), int(row["microbatches"]), costs_of(row)
    schedule = SCHEDULES[str(row["schedule"])]
    if isinstance(schedule, AutomaticZeroBubble):
        schedule = schedule.fitted([costs] * p, row["send"])
    span = longest_span(schedule.table(p, 1, m), costs, row["send"])
    ideal = m * (costs.forward + costs.input_gradient + costs.weight_gradient)
    assert 1 - ideal / span == pytest.approx(row["bubble_rate"], abs=0.006)


@pytest.mark.parametrize("p", [2, 4, 8])
def test_equal_passes_leave_no_bubble_within_a_rank_with_the_memory_of_2p(p: int) -> None:
    even = RankCosts(1.0, 1.0, 1.0, 1.0)
    for m in (2 * p - 1, 4 * p):
        assert longest_span(SCHEDULES["zb_2p"].table(p, 1, m), even, 0.0) == 3 * m


passes = st.floats(0.2, 5.0)
ranks = st.builds(RankCosts, passes, passes, passes, st.floats(0.3, 1.0))


@given(st.lists(ranks, min_size=1, max_size=6), st.integers(1, 14), st.floats(0.0, 1.0), st.sampled_from([1, 2]))
def test_any_times_give_a_legal_table_that_keeps_no_more_than_it_may(
    costs: list[RankCosts], m: int, send: float, limit: int
) -> None:
    p = len(costs)
    table = AutomaticZeroBubble("zb", limit).fitted(costs, send).table(p, 1, m)
    check_table(table, p, 1, m)
    for row, own in zip(table, costs, strict=True):
        kept = most = 0.0
        for action in row:
            kept += {Kind.F: 1.0, Kind.I: own.kept_frac - 1.0, Kind.W: -own.kept_frac}[action.kind]
            most = max(most, kept)
        assert most <= limit * p + 1e-6


def test_of_ranks_that_keep_all_until_the_end_no_more_than_p_or_2p_micro_batches_are_in_flight() -> None:
    for name, limit in (("zb_1p", 1), ("zb_2p", 2)):
        assert max(in_flight(SCHEDULES[name].table(8, 1, 40))) <= limit * 8
