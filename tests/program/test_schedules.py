from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest

from sim.errors import SimError
from sim.program.check_table import check_table
from sim.program.table import SCHEDULES, Action, Kind, Table, from_text, grid, in_flight

GOLDEN = Path(__file__).parent / "golden"
NUMBERS = [(p, v, m) for p in range(1, 9) for v in range(1, 5) for m in range(1, 17)]
LEGAL = [(name, *pvm) for name in SCHEDULES for pvm in NUMBERS if SCHEDULES[name].refusal(*pvm) is None]
CHUNKS = {"gpipe": 1, "1f1b": 1, "interleaved_1f1b": 2}


def play(table: Table, num_stages: int, cost: dict[Kind, Fraction]) -> Fraction:
    """Time until the last action ends, when each runs in its rank's order once its neighbour is done."""
    end: dict[Action, Fraction] = {}
    clock = [Fraction(0)] * len(table)
    position = [0] * len(table)
    while any(at < len(row) for at, row in zip(position, table, strict=True)):
        before = list(position)
        for rank, row in enumerate(table):
            while position[rank] < len(row):
                action = row[position[rank]]
                neighbours = neighbours_of(action, num_stages)
                ready = [end[neighbour] for neighbour in neighbours if neighbour in end]
                if neighbours and not ready:
                    break
                clock[rank] = max(clock[rank], *ready, Fraction(0)) + cost[action.kind]
                end[action] = clock[rank]
                position[rank] += 1
        assert position != before, "deadlock"
    return max(clock)


def neighbours_of(action: Action, num_stages: int) -> list[Action]:
    """One of these must be done before `action` runs."""
    if action.kind is Kind.F:
        return [Action(action.stage - 1, Kind.F, action.microbatch)] if action.stage > 0 else []
    if action.kind is Kind.W or action.stage == num_stages - 1:
        return []
    return [Action(action.stage + 1, kind, action.microbatch) for kind in (Kind.B, Kind.I)]


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_runs_somewhere_on_the_grid(name: str) -> None:
    assert sum(entry[0] == name for entry in LEGAL) >= 50


@pytest.mark.parametrize("name", SCHEDULES)
def test_table_passes_the_checker_wherever_the_schedule_does_not_refuse(name: str) -> None:
    for _, p, v, m in (entry for entry in LEGAL if entry[0] == name):
        check_table(SCHEDULES[name].table(p, v, m), p, v, m)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("backward", [Fraction(1), Fraction(2), Fraction(7, 3)])
def test_played_bubble_equals_the_published_formula_where_its_assumptions_hold(name: str, backward: Fraction) -> None:
    forward = Fraction(1)
    for _, p, v, m in (entry for entry in LEGAL if entry[0] == name):
        schedule = SCHEDULES[name]
        if schedule.bubble_assumptions(p, v, m) is None:
            cost = {Kind.F: forward / v, Kind.B: backward / v, Kind.I: backward / 2 / v, Kind.W: backward / 2 / v}
            makespan = play(schedule.table(p, v, m), p * v, cost)
            ideal = m * (forward + backward)
            assert (makespan - ideal) / ideal == schedule.bubble_of_ideal(p, v, m), (p, v, m)


@pytest.mark.parametrize("name", ["gpipe", "1f1b"])
def test_step_takes_m_plus_p_minus_one_slots(name: str) -> None:
    for p in range(1, 9):
        for m in range(1, 17):
            table = SCHEDULES[name].table(p, 1, m)
            assert play(table, p, {Kind.F: Fraction(2), Kind.B: Fraction(5)}) == (m + p - 1) * 7


def test_interleaving_divides_the_bubble_by_v() -> None:
    cost = {Kind.F: Fraction(1, 4), Kind.B: Fraction(2, 4)}
    makespan = play(SCHEDULES["interleaved_1f1b"].table(4, 4, 8), 16, cost)
    assert makespan == 8 * 3 + Fraction(3 * 3, 4)


def test_gpipe_holds_every_micro_batch() -> None:
    assert in_flight(SCHEDULES["gpipe"].table(4, 1, 8)) == (8, 8, 8, 8)


def test_1f1b_holds_p_minus_rank_micro_batches() -> None:
    for p in range(1, 9):
        for m in range(1, 17):
            assert in_flight(SCHEDULES["1f1b"].table(p, 1, m)) == tuple(min(m, p - rank) for rank in range(p))


def test_interleaved_first_rank_holds_one_plus_p_minus_one_over_p_v_of_what_1f1b_holds() -> None:
    for p in range(2, 9):
        for v in range(2, 5):
            chunks = in_flight(SCHEDULES["interleaved_1f1b"].table(p, v, 2 * p))[0]
            assert Fraction(chunks, v) == p * (1 + Fraction(p - 1, p * v))


@pytest.mark.parametrize("name", ["gpipe", "1f1b"])
def test_schedules_with_one_chunk_refuse_two(name: str) -> None:
    assert SCHEDULES[name].refusal(4, 1, 8) is None
    assert SCHEDULES[name].refusal(4, 2, 8) == f"vpp = 2, but {name} has one chunk on each rank (allowed 1)"


@pytest.mark.parametrize(
    ("numbers", "equation"),
    [((1, 2, 8), "pp = 1"), ((4, 1, 8), "vpp = 1"), ((4, 2, 6), "micro-batches % pp = 6 % 4 = 2")],
)
def test_interleaved_refuses_with_the_violated_equation(numbers: tuple[int, int, int], equation: str) -> None:
    refusal = SCHEDULES["interleaved_1f1b"].refusal(*numbers)
    assert refusal is not None
    assert refusal.startswith(equation)


@pytest.mark.parametrize("name", SCHEDULES)
def test_table_equals_its_golden_file(name: str) -> None:
    text = (GOLDEN / f"{name}.txt").read_text(encoding="ascii")
    assert text.startswith("# python -c ")
    table = SCHEDULES[name].table(4, CHUNKS[name], 8)
    assert from_text(text) == table
    assert text.splitlines()[1:] == grid(table).splitlines()


def test_1f1b_of_two_ranks_reads_as_in_the_paper() -> None:
    assert grid(SCHEDULES["1f1b"].table(2, 1, 3)) == "0F0 0F1 0B0 0F2 0B1 0B2\n1F0 1B0 1F1 1B1 1F2 1B2"


def test_text_without_an_action_is_refused_with_its_line_and_token() -> None:
    with pytest.raises(SimError, match=r"line 2: no action \(got '1X0'"):
        from_text("0F0 0B0\n1F0 1X0")


def test_grid_pads_columns_and_marks_cells() -> None:
    table = from_text("0F0 0F10 0B0\n1F0 1B0")
    assert grid(table, {(1, 1)}) == "0F0 0F10  0B0\n1F0 >1B0<"
