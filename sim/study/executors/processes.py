"""Worker processes on this machine, which end with this process and may die without harm."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import wait as wait_for
from multiprocessing.context import BaseContext
from typing import final

from sim.study.executors import LIVES
from sim.study.play import Outcome, Task, lost, play

_AHEAD = 2
"""Tasks that wait beside each one that is played, so that no worker waits for this process."""


@final
@dataclass(frozen=True)
class Processes:
    """Plays tasks in `num_workers` processes.

    When one of them dies (out of memory, killed), what was on its way is played again, each task in a pool of its own:
    only the task whose worker dies `LIVES` times is told as crashed.
    """

    num_workers: int

    def play(self, tasks: Iterator[Task]) -> Iterator[Outcome]:
        """See `Executor`."""
        is_left = True
        while is_left:
            on_the_way: dict[Future[Outcome], Task] = {}
            try:
                yield from self._until_a_worker_dies(tasks, on_the_way)
                is_left = False
            except BrokenProcessPool:
                for suspect in on_the_way.values():
                    yield _alone(suspect)

    def _until_a_worker_dies(self, tasks: Iterator[Task], on_the_way: dict[Future[Outcome], Task]) -> Iterator[Outcome]:
        pool = _pool(self.num_workers)
        try:
            while True:
                room = self.num_workers * _AHEAD - len(on_the_way)
                for sent in itertools.islice(tasks, room):
                    # Noted before it is submitted: a pool that is broken by then must not lose it.
                    waiting: Future[Outcome] = Future()
                    on_the_way[waiting] = sent
                    future = pool.submit(play, sent)
                    on_the_way[future] = on_the_way.pop(waiting)
                if not on_the_way:
                    return
                done, _ = wait(on_the_way, return_when=FIRST_COMPLETED)
                for future in sorted(done, key=lambda future: future.exception() is not None):
                    outcome = future.result()
                    del on_the_way[future]
                    yield outcome
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _alone(sent: Task) -> Outcome:
    for _ in range(LIVES - 1):
        with suppress(BrokenProcessPool), _pool(1) as pool:
            return pool.submit(play, sent).result()
    return lost(sent, f"its worker process died {LIVES} times (killed, or out of memory)")


def _pool(num_workers: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(num_workers, mp_context=_context(), initializer=_prepare)


def _context() -> BaseContext:
    """Workers begin as copies of a process that has imported what they need, where the system can do that."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["sim.study.play"])
    return context


def _prepare() -> None:
    """Leave Ctrl-C to the process that gave the work, and end with it, whatever ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    giver = multiprocessing.parent_process()
    assert giver is not None, "a worker has a parent"

    def follow(sentinel: int) -> None:
        wait_for([sentinel])
        os._exit(1)

    threading.Thread(target=follow, args=(giver.sentinel,), daemon=True).start()
