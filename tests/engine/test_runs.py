"""A run during which rates change takes what playing all of its operations at once takes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.engine.runs import Changes, Phase, Progress, Run, phases

LONE = Phase((10.0,), (None,), ((),))


@st.composite
def operations(draw: st.DrawFn) -> tuple[list[float], list[float | None], list[list[int]]]:
    """Kernels on one stream and communication on another, each in order, that start with one and end with one."""
    size = draw(st.integers(1, 9))
    work_s = draw(st.lists(st.floats(0.0, 5.0), min_size=size, max_size=size))
    slows = [draw(st.sampled_from([None, None, 1.0, 1.25, 2.0])) for _ in range(size)]
    slows[0] = slows[-1] = None
    before: list[list[int]] = [[]]
    for index in range(1, size):
        same = [other for other in range(index) if (slows[other] is None) == (slows[index] is None)]
        free = draw(st.sets(st.integers(0, index - 1), max_size=2))
        before.append(sorted({*free, *same[-1:]} or {0}))
    before[-1] = list(range(size - 1))
    return work_s, slows, before


def run_of(work_s: list[float], slows: list[float | None], before: list[list[int]]) -> Run:
    return Run(np.arange(len(work_s)), phases(work_s, slows, before, {}))


def times(progress: Progress, run: Run) -> tuple[list[float], list[float]]:
    starts: list[float] = []
    ends: list[float] = []
    for part in progress.parts():
        if part.played is None:
            shift_s = part.start_s - run.begin(part.phase, part.rate)
            own = slice(run.first[part.phase], run.first[part.until])
            start_s, end_s = (offsets[own] + shift_s for offsets in run.offsets(part.rate))
        else:
            start_s, end_s = (np.array(column) + part.start_s for column in part.played)
        starts += start_s.tolist()
        ends += end_s.tolist()
    return starts, ends


RATES = st.sampled_from([1.0, 0.8, 0.5])


@given(operations(), RATES, st.lists(st.tuples(st.floats(0.01, 4.0), RATES), max_size=6))
def test_changes_one_by_one_give_what_all_of_them_at_once_give(
    drawn: tuple[list[float], list[float | None], list[list[int]]], rate: float, steps: list[tuple[float, float]]
) -> None:
    work_s, slows, before = drawn
    run = run_of(*drawn)
    whole = Phase(tuple(work_s), tuple(slows), tuple(map(tuple, before)))
    progress = Progress(run, 0.0, rate)
    changes: Changes = [(0.0, rate)]
    end_s = run.ends(rate)[-1]
    for moment, (_, other) in zip(itertools.accumulate(after for after, _ in steps), steps, strict=True):
        if moment >= end_s:
            break
        changes.append((moment, other))
        progress.change(moment, other)
        end_s = progress.end_s()
    starts, ends = whole.play(changes)
    assert max(ends) == pytest.approx(end_s, rel=1e-12, abs=1e-12)
    found = times(progress, run)
    assert found[0] == pytest.approx(starts, rel=1e-12, abs=1e-12)
    assert found[1] == pytest.approx(ends, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize(
    ("changes", "end_s"),
    [
        ([(0.0, 1.0)], 10.0),
        ([(0.0, 0.5)], 20.0),
        ([(0.0, 0.5), (4.0, 1.0)], 12.0),
        ([(0.0, 1.0), (4.0, 0.5), (8.0, 1.0)], 12.0),
        ([(0.0, 1.0), (10.0, 0.5)], 10.0),
    ],
)
def test_a_kernel_takes_longer_by_what_it_was_slowed(changes: Changes, end_s: float) -> None:
    assert LONE.play(changes) == ([0.0], [end_s])


def test_communication_of_the_run_itself_slows_its_kernels() -> None:
    """A kernel of 4 s beside a transfer of 3 s that halves its rate: 1.5 s of work are done when it ends."""
    beside = Phase((1.0, 3.0, 4.0), (None, 2.0, None), ((), (0,), (0,)))
    assert beside.play([(0.0, 1.0)]) == ([0.0, 1.0, 1.0], [1.0, 4.0, 6.5])


def test_phases_are_cut_where_one_operation_starts_alone() -> None:
    """A kernel beside a transfer, then a kernel, then a transfer; 1 s each, and 1/3 s of slowdown."""
    before: list[list[int]] = [[], [0], [0], [1, 2], [3]]
    run = run_of([1.0] * 5, [None, 1.5, None, None, 1.5], before)
    assert run.first == [0, 3, 4, 5]
    assert run.ends(1.0) == pytest.approx([1.0 + 4 / 3, 2.0 + 4 / 3, 3.0 + 4 / 3])
