from __future__ import annotations

import os
import pickle

import pytest

from sim.study.executors.here import Here
from sim.study.executors.processes import Processes
from sim.study.play import Task
from sim.study.sweep import plan, sweep

EIGHT = "sweep: {product: {training.global_batch: {first: 8, last: 64, step: 8}}}\n"


class Deadly:
    """Ends the process that reads it, as being out of memory would."""

    def __reduce__(self):
        return os._exit, (9,)


@pytest.fixture
def tasks(points):
    planned = plan(points(EIGHT))
    return [planned.task(key) for key in planned.wanted]


def test_two_workers_say_what_this_process_says_to_the_bit(points):
    ours = sorted(sweep(plan(points(EIGHT)), executor=Here()), key=lambda row: row.index)
    theirs = sorted(sweep(plan(points(EIGHT)), executor=Processes(2)), key=lambda row: row.index)
    assert [row.packed for row in theirs] == [row.packed for row in ours]
    assert all(row.status == "done" for row in theirs)


def test_a_task_whose_worker_dies_is_told_and_all_others_are_played(tasks):
    deadly = Task("deadly", pickle.dumps(Deadly()), "fused")
    outcomes = {outcome.key: outcome for outcome in Processes(2).play(iter([*tasks[:3], deadly, *tasks[3:]]))}
    assert len(outcomes) == len(tasks) + 1
    assert outcomes["deadly"].status == "crashed"
    assert "died 3 times" in outcomes["deadly"].error
    assert all(outcomes[task.key].status == "done" for task in tasks)


def test_tasks_are_taken_as_there_is_room_for_them(tasks):
    taken = []
    source = (taken.append(task) or task for task in tasks)
    outcomes = Processes(1).play(source)
    next(outcomes)
    assert len(taken) <= 3
    assert len(list(outcomes)) == len(tasks) - 1
