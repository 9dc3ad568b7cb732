"""Results that were played, in an SQLite file that several processes may use at once and that nothing overwrites."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, final

from sim.errors import SimError
from sim.simulation import own_version
from sim.study.key import constants
from sim.study.play import Outcome, unpacked

T = TypeVar("T")

APPLICATION_ID = 0x53494D31
"""Stands in the head of our files: "SIM1"."""
COLUMNS = (
    "key",
    "fidelity",
    "version",
    "constants",
    "name",
    "status",
    "error",
    "seconds",
    "added",
    "scenario",
    "result",
)
BUSY_S = 60.0
"""How long a process waits for another one that writes; a write takes milliseconds."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS results (
  key TEXT NOT NULL, fidelity TEXT NOT NULL, version TEXT NOT NULL, constants TEXT NOT NULL, name TEXT NOT NULL,
  status TEXT NOT NULL, error TEXT NOT NULL, seconds REAL NOT NULL, added REAL NOT NULL,
  scenario BLOB NOT NULL, result BLOB,
  PRIMARY KEY (key, fidelity)
)
"""
_INSERT = f"INSERT OR IGNORE INTO results ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})"  # noqa: S608 - our own names
_SIDES = ("", "-wal", "-shm")


@dataclass(frozen=True)
class Stored:
    """A row: what was played, by what, and what became of it. added: when, seconds since 1970."""

    key: str
    fidelity: str
    version: str
    constants: str
    name: str
    status: str
    error: str
    seconds: float
    added: float
    scenario: bytes
    result: bytes | None

    @property
    def is_current(self) -> bool:
        """Whether this very simulator played it."""
        return self.constants == constants()


@final
class Store:
    """The file of results. Each is written in a transaction of its own: what was told as done is there after any end.

    A file that is damaged is moved aside with a new name, what can still be read of it goes into a new one, and
    `tell` is called with a sentence on it. Raises SimError where the file is none of ours or cannot be used.
    """

    def __init__(self, path: Path, tell: Callable[[str], None]) -> None:
        self.path = path
        self._tell = tell
        self._inode = 0
        self._file = self._opened()

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def find(self, key: str, fidelity: str) -> Stored | None:
        """What is stored of a scenario that was played at a fidelity."""

        def read() -> Stored | None:
            row = self._file.execute(f"{_SELECT} WHERE key = ? AND fidelity = ?", (key, fidelity)).fetchone()
            return None if row is None else _checked(row)

        return self._mending(read)

    def has(self, key: str, fidelity: str) -> bool:
        """Whether a scenario was played at a fidelity."""
        found = "SELECT 1 FROM results WHERE key = ? AND fidelity = ?"
        return self._mending(lambda: self._file.execute(found, (key, fidelity)).fetchone()) is not None

    def add(self, outcome: Outcome, fidelity: str, name: str, scenario: bytes) -> None:
        """Keep an outcome. Where another process was faster, its row stays: it says the same."""
        row = (
            *(outcome.key, fidelity, own_version(), outcome.played_by, name, outcome.status, outcome.error),
            *(outcome.seconds, time.time(), scenario, outcome.result),
        )
        self._mending(lambda: self._file.execute(_INSERT, row))

    def rows(self) -> Iterator[Stored]:
        """All rows, in the order in which they came."""
        keys = "SELECT key, fidelity FROM results ORDER BY rowid"
        for key, fidelity in self._mending(lambda: self._file.execute(keys).fetchall()):
            row = self.find(key, fidelity)
            if row is not None:
                yield row

    def remove(self, rows: Iterable[Stored]) -> int:
        """Remove rows, all or none of them. Returns how many there were."""

        def delete() -> int:
            keys = [(row.key, row.fidelity) for row in rows]
            self._file.execute("BEGIN IMMEDIATE")
            done = self._file.executemany("DELETE FROM results WHERE key = ? AND fidelity = ?", keys).rowcount
            self._file.execute("COMMIT")
            return max(0, done)

        return self._mending(delete)

    def _is_in_place(self) -> bool:
        """Whether the file that is open is still the one of that name; another process may have moved it aside."""
        with suppress(FileNotFoundError):
            return self.path.stat().st_ino == self._inode
        return False

    def _opened(self) -> sqlite3.Connection:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            return self._remembered(_checked_file(self.path))
        except sqlite3.OperationalError as error:
            raise SimError(f"{self.path}: the store cannot be used ({error})") from error
        except sqlite3.DatabaseError as error:
            self._set_aside(str(error))
            return self._remembered(_checked_file(self.path))
        except OSError as error:
            raise SimError(f"{self.path}: the store cannot be used ({error.strerror or error})") from error

    def _mending(self, act: Callable[[], T]) -> T:
        """Do something with the file; where that shows damage, once more with a new file."""
        try:
            if not self._is_in_place():
                self._file.close()
                self._file = self._opened()
            return act()
        except sqlite3.OperationalError as error:
            raise SimError(f"{self.path}: the store cannot be used ({error})") from error
        except (sqlite3.DatabaseError, ValueError) as error:
            self._file.close()
            self._set_aside(str(error))
            self._file = self._remembered(_checked_file(self.path))
            return act()

    def _remembered(self, file: sqlite3.Connection) -> sqlite3.Connection:
        self._inode = self.path.stat().st_ino
        return file

    def _set_aside(self, why: str) -> None:
        """Move a damaged file out of the way, unless another process has done so meanwhile, and save what is left."""
        with closing(_locked(self.path)):
            try:
                _checked_file(self.path, every_row=True).close()
            except sqlite3.OperationalError as error:
                raise SimError(f"{self.path}: the store cannot be used ({error})") from error
            except (sqlite3.DatabaseError, ValueError):
                aside = _free_name(self.path)
                for side in _SIDES:
                    with suppress(FileNotFoundError):
                        self.path.with_name(self.path.name + side).rename(aside.with_name(aside.name + side))
                with closing(_checked_file(self.path)) as file:
                    saved = _saved(aside, file)
                self._tell(
                    f"{self.path}: the store was damaged ({why}); it is kept as {aside}, and a new one begins with "
                    f"{saved} results that could be read of it"
                )


_SELECT = f"SELECT {', '.join(COLUMNS)} FROM results"  # noqa: S608 - our own names


def _checked(row: Sequence[Any]) -> Stored:
    """A row whose result can be read. Raises ValueError where it was damaged."""
    stored = Stored(*row)
    for packed in (stored.scenario, stored.result):
        if packed is not None:
            unpacked(packed)
    return stored


def _checked_file(path: Path, *, every_row: bool = False) -> sqlite3.Connection:
    """The file, open. Raises sqlite3.DatabaseError (ValueError for a row) where it is damaged, SimError if not ours."""
    file = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)
    try:
        _prepare(file, path)
        if every_row:
            for row in file.execute(_SELECT):
                _checked(row)
    except BaseException:
        file.close()
        raise
    return file


def _prepare(file: sqlite3.Connection, path: Path) -> None:
    """Check that the file is sound and ours; a new one becomes so."""
    found = file.execute("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        raise sqlite3.DatabaseError(found)
    (own,) = file.execute("PRAGMA application_id").fetchone()
    (tables,) = file.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if own != APPLICATION_ID and tables:
        raise SimError(f"{path}: an SQLite file of another program (allowed a store of `sim`, or a new name)")
    file.execute("PRAGMA journal_mode = WAL")
    file.execute("PRAGMA synchronous = NORMAL")
    if own != APPLICATION_ID or not tables:
        file.execute("BEGIN IMMEDIATE")
        file.execute(_SCHEMA)
        file.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        file.execute("COMMIT")


def _locked(path: Path) -> sqlite3.Connection:
    """A lock that ends with the process that holds it, however that ends."""
    lock = sqlite3.connect(path.with_name(path.name + ".lock"), timeout=BUSY_S, isolation_level=None)
    lock.execute("BEGIN EXCLUSIVE")
    return lock


def _free_name(path: Path) -> Path:
    """A name beside `path` that no file has."""
    number = 1
    while (aside := path.with_name(f"{path.stem}.damaged-{number}{path.suffix}")).exists():
        number += 1
    return aside


def _saved(damaged: Path, file: sqlite3.Connection) -> int:
    """Copy the rows of a damaged file that can still be read. Returns how many."""
    saved = 0
    with suppress(sqlite3.DatabaseError), closing(sqlite3.connect(f"file:{damaged}?mode=ro", uri=True)) as old:
        (last,) = old.execute("SELECT max(rowid) FROM results").fetchone()
        for rowid in range(1, (last or 0) + 1):
            with suppress(sqlite3.DatabaseError, ValueError):
                row = old.execute(f"{_SELECT} WHERE rowid = ?", (rowid,)).fetchone()
                if row is not None:
                    _checked(row)
                    file.execute(_INSERT, row)
                    saved += 1
    return saved
