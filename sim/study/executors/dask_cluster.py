"""A Dask cluster: the workers of a scheduler, on any number of machines."""

from __future__ import annotations

import itertools
import re
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, final

from sim.errors import SimError
from sim.study.key import constants
from sim.study.play import Outcome, Task, lost, play

_AHEAD = 2
"""Tasks that wait beside each one that is played."""
_TIMEOUT_S = 30.0


@final
@dataclass(frozen=True)
class DaskCluster:
    """Plays tasks on the workers of the scheduler at `address`.

    A task whose worker dies is sent to another one by the scheduler, as often as its `allowed-failures` says (3).
    Workers may come and go.
    """

    address: str
    timeout_s: float = _TIMEOUT_S

    @property
    def num_workers(self) -> int:
        """Threads of all workers that the scheduler has now."""
        with self._client(_library()) as client:
            return _num_threads(client)

    def play(self, tasks: Iterator[Task]) -> Iterator[Outcome]:
        """See `Executor`."""
        library = _library()
        with self._client(library) as client:
            self._refuse_other_simulators(client)
            try:
                yield from _played(client, library, tasks)
            except (OSError, library.CancelledError) as error:
                raise SimError(
                    f"{self.address}: the Dask scheduler was lost ({error or type(error).__name__}); what was played "
                    "is in the store, and the same command goes on from there"
                ) from error

    def _client(self, library: types.ModuleType) -> Any:
        allowed = "allowed the address of one that runs, such as tcp://host:8786"
        if not re.fullmatch(r"(tcp|tls)://\S+:[0-9]{1,5}", self.address):
            raise SimError(f"no address of a Dask scheduler (got {self.address!r}, {allowed})")
        try:
            return library.Client(self.address, timeout=self.timeout_s, set_as_default=False)
        except (OSError, ValueError) as error:
            raise SimError(f"no Dask scheduler (got {self.address!r}, {allowed}): {error}") from error

    def _refuse_other_simulators(self, client: Any) -> None:
        """Wait for a worker; all must play as this process would."""
        try:
            client.wait_for_workers(1, timeout=self.timeout_s)
            found = client.run(constants)
        except TimeoutError as error:
            raise SimError(f"{self.address}: the Dask scheduler has no workers (allowed one or more)") from error
        except ModuleNotFoundError as error:
            raise SimError(f"{self.address}: a worker has no simulator ({error}); install it there too") from error
        if others := sorted(worker for worker, own in found.items() if own != constants()):
            raise SimError(f"another version of the simulator, or other constants, on {', '.join(others)}")


def _library() -> types.ModuleType:
    try:
        import distributed  # noqa: PLC0415 - an extra, and slow to import
    except ModuleNotFoundError as error:
        raise SimError("a Dask cluster needs `pip install 'pretraining-simulator[dask]'`") from error
    library: types.ModuleType = distributed
    return library


def _num_threads(client: Any) -> int:
    threads: dict[str, int] = client.nthreads()
    return max(1, sum(threads.values()))


def _played(client: Any, library: types.ModuleType, tasks: Iterator[Task]) -> Iterator[Outcome]:
    sent: dict[str, Task] = {}

    def submit(number: int) -> list[Any]:
        """So many more tasks on their way. Keys are new in each run: the scheduler may remember those of another."""
        futures = []
        for task in itertools.islice(tasks, number):
            future = client.submit(play, task, pure=False)
            sent[future.key] = task
            futures.append(future)
        return futures

    done = library.as_completed(submit(_num_threads(client) * _AHEAD), loop=client.loop)
    for future in done:
        yield _outcome(future, sent.pop(future.key), library)
        # The cluster may have grown meanwhile.
        for more in submit(max(0, _num_threads(client) * _AHEAD - len(sent))):
            done.add(more)


def _outcome(future: Any, task: Task, library: types.ModuleType) -> Outcome:
    try:
        outcome: Outcome = future.result()
    except library.scheduler.KilledWorker:
        return lost(task, "its Dask workers died one after the other (killed, or out of memory)")
    if outcome.played_by != constants():
        raise SimError(f"a worker that came later has another version of the simulator ({outcome.played_by})")
    return outcome
