from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest

from sim.errors import SimError
from sim.program.check_table import check_table
from sim.program.table import (
    SCHEDULES,
    Action,
    Kind,
    Pair,
    PassTimes,
    Table,
    actions_of,
    from_text,
    grid,
    in_flight,
)

GOLDEN = Path(__file__).parent / "golden"
PIPELINES = [(p, v) for p in range(1, 17) for v in range(1, 9)]
FEW_RANKS, FEW_CHUNKS, MOST_CELLS = 6, 4, 1024
CHUNKS = {
    "gpipe": 1,
    "1f1b": 1,
    "interleaved_1f1b": 2,
    "breadth_first": 2,
    "interleaved_zb": 2,
    "zb_h1": 1,
    "zb_h2": 1,
    "zb_1p": 1,
    "zb_2p": 1,
    "zb_v": 2,
    "dualpipe_v": 2,
    "dualpipe": 1,
}
SPLIT = ("interleaved_zb", "zb_h1", "zb_h2", "zb_v", "zb_1p", "zb_2p", "dualpipe_v", "dualpipe")
IN_PAIRS = ("dualpipe_v", "dualpipe")
TIMES = [
    PassTimes(Fraction(forward), Fraction(input_gradient), Fraction(weight_gradient))
    for forward, input_gradient, weight_gradient in ((1, 1, 1), (2, 2, 1), (3, 4, 2), (4, 3, 3), (1, 2, 0))
]


def microbatches(p: int, v: int) -> list[int]:
    """All up to 12 of small pipelines; of large ones those around multiples of p, as long as the table is small."""
    if p <= FEW_RANKS and v <= FEW_CHUNKS:
        return [*range(1, 13), 15, 16, 24]
    return [m for m in (1, p - 1, p, 2 * p - 1, 2 * p, 64) if m * p * v <= MOST_CELLS]


LEGAL = {
    name: [(p, v, m) for p, v in PIPELINES for m in microbatches(p, v) if schedule.refusal(p, v, m) is None]
    for name, schedule in SCHEDULES.items()
}


def play(
    table: Table, num_stages: int, cost: dict[Kind, Fraction], pair: Fraction | None = None
) -> tuple[list[Fraction], list[Fraction]]:
    """When each rank starts its first and ends its last cell, where each runs in its rank's order once its neighbours
    are done. Passes of a pair start together and end together, `pair` later (or as late as one after the other)."""
    end: dict[Action, Fraction] = {}
    start: list[Fraction | None] = [None] * len(table)
    clock = [Fraction(0)] * len(table)
    position = [0] * len(table)
    while any(at < len(row) for at, row in zip(position, table, strict=True)):
        before = list(position)
        for rank, row in enumerate(table):
            while position[rank] < len(row):
                cell = row[position[rank]]
                actions = list(actions_of([cell]))
                needs = [neighbours for action in actions if (neighbours := neighbours_of(action, num_stages))]
                if not all(any(each in end for each in neighbours) for neighbours in needs):
                    break
                ready = [end[each] for neighbours in needs for each in neighbours if each in end]
                begin = max(clock[rank], *ready, Fraction(0))
                start[rank] = begin if start[rank] is None else start[rank]
                both = sum((cost[action.kind] for action in actions), Fraction(0))
                clock[rank] = begin + (pair if isinstance(cell, Pair) and pair is not None else both)
                end |= dict.fromkeys(actions, clock[rank])
                position[rank] += 1
        assert position != before, "deadlock"
    return [each for each in start if each is not None], clock


def makespan(table: Table, num_stages: int, cost: dict[Kind, Fraction]) -> Fraction:
    return max(play(table, num_stages, cost)[1])


def costs(times: PassTimes, v: int) -> dict[Kind, Fraction]:
    """Of the passes of one chunk."""
    backward = times.input_gradient + times.weight_gradient
    cost = {Kind.F: times.forward, Kind.B: backward, Kind.I: times.input_gradient, Kind.W: times.weight_gradient}
    return {kind: each / v for kind, each in cost.items()}


def neighbours_of(action: Action, num_stages: int) -> list[Action]:
    """One of these must be done before `action` runs."""
    if action.kind is Kind.F:
        return [Action(action.stage - 1, Kind.F, action.microbatch)] if action.stage > 0 else []
    if action.kind is Kind.W or action.stage == num_stages - 1:
        return []
    return [Action(action.stage + 1, kind, action.microbatch) for kind in (Kind.B, Kind.I)]


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_runs_somewhere_on_the_grid(name: str) -> None:
    assert len(LEGAL[name]) >= (25 if name == "dualpipe" else 50)
    assert {p for p, _, _ in LEGAL[name]} >= set(range(2, 17, 2 if name == "dualpipe" else 1))


@pytest.mark.parametrize("name", SCHEDULES)
def test_table_passes_the_checker_wherever_the_schedule_does_not_refuse(name: str) -> None:
    for p, v, m in LEGAL[name]:
        check_table(SCHEDULES[name].table(p, v, m), p, v, m, SCHEDULES[name].placement)


@pytest.mark.parametrize("name", sorted(set(SCHEDULES) - {"zb_1p", "zb_2p"}))
@pytest.mark.parametrize("times", TIMES, ids=str)
def test_played_bubble_equals_the_published_formula_where_its_assumptions_hold(name: str, times: PassTimes) -> None:
    schedule = SCHEDULES[name]
    small = [(p, v, m) for p, v, m in LEGAL[name] if p * v * m <= 200]
    held = [numbers for numbers in small if schedule.bubble_assumptions(*numbers, times) is None]
    for p, v, m in held:
        start, end = play(schedule.table(p, v, m), p * v, costs(times, v))
        own = max(e - s for s, e in zip(start, end, strict=True))
        span = own if schedule.span == "rank" else max(end) - min(start)
        ideal = m * times.total
        assert (span - ideal) / ideal == schedule.bubble_of_ideal(p, v, m, times), (p, v, m)
    if times == TIMES[0]:
        assert len(held) >= (15 if name == "dualpipe" else 20)


@pytest.mark.parametrize("name", IN_PAIRS)
def test_tables_in_pairs_pass_the_checker_up_to_64_micro_batches(name: str) -> None:
    schedule, v = SCHEDULES[name], CHUNKS[name]
    legal = [(p, m) for p in range(2, 17) for m in range(1, 65) if schedule.refusal(p, v, m) is None]
    assert len(legal) >= 150
    for p, m in legal[::9]:
        check_table(schedule.table(p, v, m), p, v, m, schedule.placement)


@pytest.mark.parametrize("name", IN_PAIRS)
@pytest.mark.parametrize("part", [Fraction(1), Fraction(9, 10), Fraction(3, 4)], ids=str)
def test_rank_that_idles_longest_has_the_published_bubble_whatever_a_pair_takes(name: str, part: Fraction) -> None:
    """(p / 2 - 1) (F&B + B - 3 W) of DualPipe, (p - 1) (F&B + B - 3 W) of DualPipeV's p ranks, with F = I."""
    v, num_played = CHUNKS[name], 0
    for times in TIMES:
        pair = part * (times.forward + times.input_gradient + times.weight_gradient)
        given = PassTimes(times.forward, times.input_gradient, times.weight_gradient, pair)
        for p, _, m in LEGAL[name]:
            if p * v * m > 200 or SCHEDULES[name].bubble_assumptions(p, v, m, given) is not None:
                continue
            table = SCHEDULES[name].table(p, v, m)
            length = max(play(table, p * v, costs(times, v), pair / v)[1])
            busy = [
                sum((pair / v if isinstance(cell, Pair) else costs(times, v)[cell.kind]) for cell in row)
                for row in table
            ]
            idle = length - min(busy)
            hops = p // 2 - 1 if name == "dualpipe" else p - 1
            backward = times.input_gradient + times.weight_gradient
            assert idle == hops * (pair + backward - 3 * times.weight_gradient) / v, (p, m, times)
            assert idle == SCHEDULES[name].bubble_of_ideal(p, v, m, given) * m * times.total
            num_played += 1
    assert num_played >= 20


def test_ranks_of_dualpipe_do_what_their_mirror_image_does_in_the_other_direction() -> None:
    """So that both copies of a stage reach the reduction of its gradients in the same order."""
    table = SCHEDULES["dualpipe"].table(8, 1, 20)
    for rank, row in enumerate(table):
        mirrored = [Action(act.stage, act.kind, (act.microbatch + 10) % 20) for act in actions_of(table[7 - rank])]
        assert list(actions_of(row)) == mirrored


@pytest.mark.parametrize("name", ["gpipe", "1f1b"])
def test_step_takes_m_plus_p_minus_one_slots(name: str) -> None:
    for p in range(1, 9):
        for m in range(1, 17):
            table = SCHEDULES[name].table(p, 1, m)
            assert makespan(table, p, {Kind.F: Fraction(2), Kind.B: Fraction(5)}) == (m + p - 1) * 7


def test_interleaving_divides_the_bubble_by_v() -> None:
    cost = {Kind.F: Fraction(1, 4), Kind.B: Fraction(2, 4)}
    assert makespan(SCHEDULES["interleaved_1f1b"].table(4, 4, 8), 16, cost) == 8 * 3 + Fraction(3 * 3, 4)


def test_zb_h2_and_zb_v_keep_every_rank_busy_from_its_first_to_its_last_action() -> None:
    for name, v in (("zb_h2", 1), ("zb_v", 2)):
        for p in range(2, 9):
            start, end = play(SCHEDULES[name].table(p, v, 2 * p), p * v, costs(TIMES[0], v))
            assert [e - s for s, e in zip(start, end, strict=True)] == [6 * p] * p


def test_zb_h1_has_a_third_of_the_bubble_of_1f1b_where_passes_take_equally_long() -> None:
    cost = costs(TIMES[0], 1)
    for p in range(2, 9):
        zero, plain = (makespan(SCHEDULES[name].table(p, 1, 2 * p), p, cost) - 6 * p for name in ("zb_h1", "1f1b"))
        assert (zero, plain) == (p - 1, 3 * (p - 1))


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


def test_zero_bubble_schedules_hold_what_their_papers_say() -> None:
    """As the first rank of 1F1B in ZB-H1, also over chunks. DualPipe p + 1, DualPipeV 2 p + 1 half chunks (README of
    deepseek-ai/DualPipe: PP + 1)."""
    for p in range(2, 9):
        for name, v, most in (
            ("zb_h1", 1, p),
            ("zb_h2", 1, 2 * p - 1),
            ("interleaved_zb", 3, 3 * p),
            ("zb_v", 2, 2 * p),
            ("dualpipe_v", 2, 2 * p + 1),
            *([("dualpipe", 1, p + 1)] if p % 2 == 0 else []),
        ):
            assert in_flight(SCHEDULES[name].table(p, v, 4 * p)) == (most,) * p, name


def test_breadth_first_holds_every_micro_batch_of_every_chunk() -> None:
    assert in_flight(SCHEDULES["breadth_first"].table(4, 3, 8)) == (24,) * 4


@pytest.mark.parametrize("name", SPLIT)
def test_split_schedules_split_backward_passes(name: str) -> None:
    kinds = {action.kind for row in SCHEDULES[name].table(4, CHUNKS[name], 8) for action in actions_of(row)}
    assert kinds >= {Kind.F, Kind.I, Kind.W}


@pytest.mark.parametrize(
    ("name", "numbers", "equation"),
    [
        ("zb_h1", (4, 2, 8), "vpp = 2"),
        ("zb_h2", (4, 2, 8), "vpp = 2"),
        ("zb_v", (4, 1, 8), "vpp = 1"),
        ("zb_v", (1, 2, 8), "pp = 1"),
        ("breadth_first", (4, 1, 8), "vpp = 1"),
        ("breadth_first", (1, 2, 8), "pp = 1"),
        ("interleaved_zb", (4, 1, 8), "vpp = 1"),
        ("interleaved_zb", (1, 2, 8), "pp = 1"),
        ("interleaved_zb", (4, 2, 6), "micro-batches % pp = 6 % 4 = 2"),
        ("dualpipe_v", (1, 2, 8), "pp = 1"),
        ("dualpipe_v", (4, 4, 8), "vpp = 4"),
        ("dualpipe_v", (4, 2, 7), "micro-batches = 7"),
        ("dualpipe", (3, 1, 8), "pp % 2 = 3 % 2 = 1"),
        ("dualpipe", (4, 2, 8), "vpp = 2"),
        ("dualpipe", (4, 1, 9), "micro-batches % 2 = 9 % 2 = 1"),
        ("dualpipe", (4, 1, 6), "micro-batches = 6"),
    ],
)
def test_schedules_refuse_with_the_violated_equation(name: str, numbers: tuple[int, int, int], equation: str) -> None:
    refusal = SCHEDULES[name].refusal(*numbers)
    assert refusal is not None
    assert refusal.startswith(f"{equation}, but {name} ")


def test_closed_forms_say_why_they_do_not_hold() -> None:
    slow_weights = PassTimes(Fraction(1), Fraction(1), Fraction(2))
    for name, v, m, times, why in (
        ("zb_h1", 1, 3, TIMES[0], "micro-batches = 3"),
        ("zb_h1", 1, 8, slow_weights, "weight gradients"),
        ("zb_h2", 1, 6, TIMES[0], "micro-batches = 6"),
        ("zb_h2", 1, 8, slow_weights, "weight gradients"),
        ("zb_v", 2, 6, TIMES[0], "micro-batches = 6"),
        ("zb_v", 2, 8, slow_weights, "equally long"),
        ("breadth_first", 2, 3, TIMES[0], "micro-batches = 3"),
        ("dualpipe_v", 2, 8, slow_weights, "equally long"),
        ("dualpipe", 1, 8, slow_weights, "equally long"),
        ("interleaved_zb", 2, 8, slow_weights, "weight gradients"),
    ):
        broken = SCHEDULES[name].bubble_assumptions(4, v, m, times)
        assert broken is not None, name
        assert why in broken


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
