from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.errors import SimError
from sim.program.check_table import TableError, check_table
from sim.program.table import SCHEDULES, Action, Table, from_text

SPLIT = """
0F0 0F1 0I0 0I1 0W0 0W1
1F0 1I0 1F1 1I1 1W0 1W1
"""


def refused(text: str, p: int, v: int, m: int) -> str:
    with pytest.raises(TableError) as error:
        check_table(from_text(text), p, v, m)
    return str(error.value)


def test_split_backward_passes_are_accepted() -> None:
    check_table(from_text(SPLIT), 2, 1, 2)


def test_full_and_split_backward_passes_may_meet_in_one_table() -> None:
    check_table(from_text("0F0 0B0\n1F0 1I0 1W0"), 2, 1, 1)


def test_table_error_is_a_mistake_that_the_command_line_prints() -> None:
    assert issubclass(TableError, SimError)


def test_wrong_number_of_ranks_is_refused() -> None:
    assert refused("0F0 0B0", 2, 1, 1).startswith("the table has 1 ranks (allowed 2)")


def test_unknown_stage_is_marked() -> None:
    assert ">2F0<" in refused("0F0 0B0\n2F0 1B0", 2, 1, 1)


def test_unknown_micro_batch_is_marked() -> None:
    assert refused("0F0 0B1", 1, 1, 1) == ("rank 0, position 1: 0B1 is of micro-batch 1 (allowed 0 to 0)\n0F0 >0B1<")


def test_action_on_the_wrong_rank_is_marked() -> None:
    message = refused("0F0 0B0 1F0\n1B0", 2, 1, 1)
    assert "1F0 runs on rank 0, but stage 1 lives on rank 1" in message
    assert ">1F0<" in message


def test_stages_in_a_v_come_back_to_the_first_rank() -> None:
    table = from_text("0F0 3F0 3B0 0B0\n1F0 2F0 2B0 1B0")
    check_table(table, 2, 2, 1, "v")
    with pytest.raises(TableError, match="3F0 runs on rank 0, but stage 3 lives on rank 1"):
        check_table(table, 2, 2, 1, "loop")


def test_second_of_two_equal_actions_is_marked() -> None:
    assert refused("0F0 0B0 0F0", 1, 1, 1).endswith("0F0 runs twice\n0F0 0B0 >0F0<")


def test_missing_action_is_marked_at_the_end_of_its_row() -> None:
    message = refused("0F0 0B0\n1F0", 2, 1, 1)
    assert message == "rank 1 never runs 1B0 (marked at the end of its row)\n0F0 0B0\n1F0 >1B0<"


def test_input_gradient_without_weight_gradient_is_refused() -> None:
    assert ">0W0<" in refused("0F0 0I0", 1, 1, 1)


def test_full_backward_beside_split_one_is_marked() -> None:
    assert ">0B0<" in refused("0F0 0B0 0I0 0W0", 1, 1, 1)


def test_backward_before_its_forward_is_marked() -> None:
    assert refused("0B0 0F0", 1, 1, 1) == "rank 0, position 0: 0B0 runs before 0F0\n>0B0< 0F0"


def test_weight_gradient_before_input_gradient_is_marked() -> None:
    assert ">0W0<" in refused("0F0 0W0 0I0", 1, 1, 1)


def test_deadlock_names_and_marks_what_waits_for_what() -> None:
    """Rank 0 wants the backward pass of micro-batch 0, whose forward pass rank 1 runs after micro-batch 1's."""
    message = refused("0F0 0B0 0F1 0B1\n1F1 1B1 1F0 1B0", 2, 1, 2)
    assert message.startswith("deadlock: 0B0 for 1B0, 1F1 for 0F1\n")
    assert ">0B0<" in message
    assert ">1F1<" in message
    assert message.count(">") == 2


def test_a_pair_waits_for_what_both_of_its_passes_need() -> None:
    """Rank 0 could run 0F1 but not 0B0, rank 1 neither."""
    check_table(from_text("0F0 0F1 0F2&0B0 0B1 0B2\n1F0 1B0 1F1 1B1 1F2 1B2"), 2, 1, 3)
    message = refused("0F0 0F1&0B0 0B1\n1F0 1F1&1B0 1B1", 2, 1, 2)
    assert message.startswith("deadlock: 0F1&0B0 for 1B0, 1F1&1B0 for 0F1\n")
    assert ">0F1&0B0<" in message


def test_a_pass_is_in_no_pair_with_its_own_backward_pass() -> None:
    assert refused("0F0&0B0", 1, 1, 1) == "rank 0, position 0: 0B0 runs beside 0F0\n>0F0&0B0<"


def test_second_half_of_the_micro_batches_runs_through_the_mirrored_copy_of_the_model() -> None:
    table = from_text("0F0 1F1 1B1 0B0\n0F1 1F0 1B0 0B1")
    check_table(table, 2, 1, 2, "both")
    with pytest.raises(TableError, match="1F1 runs on rank 0, but stage 1 lives on rank 1"):
        check_table(table, 2, 1, 2, "loop")
    with pytest.raises(TableError, match="0F1 runs on rank 0, but stage 0 of micro-batch 1 lives on rank 1"):
        check_table(from_text("0F0 0F1 0B1 0B0\n1F0 1F1 1B1 1B0"), 2, 1, 2, "both")
    with pytest.raises(TableError, match="3 micro-batches, but half of them run through each copy"):
        check_table(table, 2, 1, 3, "both")


def tables() -> st.SearchStrategy[tuple[str, int, int, int]]:
    return st.sampled_from([("gpipe", 3, 1, 4), ("1f1b", 4, 1, 6), ("interleaved_1f1b", 2, 2, 4)])


def replaced(table: Table, rank: int, row: list[Action]) -> Table:
    return (*table[:rank], tuple(row), *table[rank + 1 :])


@given(tables(), st.data())
def test_every_dropped_action_is_refused_and_shown(numbers: tuple[str, int, int, int], data: st.DataObject) -> None:
    name, p, v, m = numbers
    table = SCHEDULES[name].table(p, v, m)
    rank = data.draw(st.integers(0, p - 1))
    position = data.draw(st.integers(0, len(table[rank]) - 1))
    row = list(table[rank])
    dropped = row.pop(position)
    with pytest.raises(TableError, match=f">{dropped}<"):
        check_table(replaced(table, rank, row), p, v, m)


@given(tables(), st.data())
def test_every_duplicated_action_is_refused_and_shown(numbers: tuple[str, int, int, int], data: st.DataObject) -> None:
    name, p, v, m = numbers
    table = SCHEDULES[name].table(p, v, m)
    rank = data.draw(st.integers(0, p - 1))
    position = data.draw(st.integers(0, len(table[rank]) - 1))
    row = list(table[rank])
    row.append(row[position])
    with pytest.raises(TableError, match=f">{row[position]}<"):
        check_table(replaced(table, rank, row), p, v, m)


@given(tables(), st.data())
def test_every_forward_that_changes_places_with_its_backward_is_refused(
    numbers: tuple[str, int, int, int], data: st.DataObject
) -> None:
    name, p, v, m = numbers
    table = SCHEDULES[name].table(p, v, m)
    rank = data.draw(st.integers(0, p - 1))
    row = list(table[rank])
    forward = data.draw(st.sampled_from([action for action in row if action.kind == "F"]))
    backward = Action(forward.stage, type(forward.kind).B, forward.microbatch)
    first, second = row.index(forward), row.index(backward)
    row[first], row[second] = row[second], row[first]
    with pytest.raises(TableError, match=f">{backward}<"):
        check_table(replaced(table, rank, row), p, v, m)
