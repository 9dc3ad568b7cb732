from __future__ import annotations

import sqlite3
import threading

import pytest

from sim.errors import SimError
from sim.study.key import constants
from sim.study.play import Outcome, pack
from sim.study.store import Store

RESULT = pack('{"step_time_s": 1.5}')
SCENARIO = pack('{"seed": 0}')


def outcome(key: str, result: bytes = RESULT) -> Outcome:
    return Outcome(key, "done", "", 0.25, result, constants())


@pytest.fixture
def told():
    return []


@pytest.fixture
def path(tmp_path):
    return tmp_path / "new folder" / "results.sqlite"


def filled(path, told, num_rows: int) -> None:
    store = Store(path, told.append)
    for number in range(num_rows):
        store.add(outcome(f"key{number}"), "fused", "mine", SCENARIO)
    store.close()


def keys(path, told) -> list[str]:
    store = Store(path, told.append)
    found = [row.key for row in store.rows()]
    store.close()
    return found


def test_what_was_added_is_found_by_its_key_and_fidelity(path, told):
    store = Store(path, told.append)
    store.add(outcome("a"), "fused", "mine", SCENARIO)
    row = store.find("a", "fused")
    assert (row.result, row.scenario, row.seconds, row.name, row.is_current) == (RESULT, SCENARIO, 0.25, "mine", True)
    assert store.find("a", "full") is None
    assert (store.has("a", "fused"), store.has("b", "fused")) == (True, False)
    store.close()
    assert keys(path, told) == ["a"]


def test_the_file_is_in_wal_mode(path, told):
    filled(path, told, 1)
    with sqlite3.connect(path) as file:
        assert file.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    file.close()


def test_the_first_of_two_results_stays(path, told):
    store = Store(path, told.append)
    store.add(outcome("a"), "fused", "first", SCENARIO)
    store.add(outcome("a"), "fused", "second", SCENARIO)
    assert [row.name for row in store.rows()] == ["first"]
    store.close()


def test_removed_rows_are_gone_and_the_others_stay(path, told):
    filled(path, told, 4)
    store = Store(path, told.append)
    assert store.remove([row for row in store.rows() if row.key in ("key1", "key3")]) == 2
    assert [row.key for row in store.rows()] == ["key0", "key2"]
    store.close()


def test_threads_with_stores_of_their_own_write_at_once(path, told):
    def write(start: int) -> None:
        store = Store(path, told.append)
        for number in range(start, start + 60):
            store.add(outcome(f"key{number}"), "fused", "mine", SCENARIO)
        store.close()

    threads = [threading.Thread(target=write, args=(start,)) for start in (0, 30, 60)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(keys(path, told)) == sorted(f"key{number}" for number in range(120))
    assert told == []


def test_a_file_that_is_no_store_is_kept_aside_and_told(path, told):
    path.parent.mkdir()
    path.write_bytes(b"these are my notes, not a database" * 100)
    store = Store(path, told.append)
    store.add(outcome("a"), "fused", "mine", SCENARIO)
    store.close()
    aside = path.parent / "results.damaged-1.sqlite"
    assert aside.read_bytes() == b"these are my notes, not a database" * 100
    assert len(told) == 1
    assert str(path) in told[0]
    assert str(aside) in told[0]
    assert "file is not a database" in told[0]
    assert keys(path, told) == ["a"]


def test_a_second_damage_gets_a_name_of_its_own(path, told):
    path.parent.mkdir()
    for number in (1, 2):
        path.write_bytes(bytes([number]) * 5000)
        Store(path, told.append).close()
        path.unlink()
    for number in (1, 2):
        assert (path.parent / f"results.damaged-{number}.sqlite").read_bytes() == bytes([number]) * 5000


def test_rows_that_can_still_be_read_of_a_damaged_file_are_saved(path, told):
    filled(path, told, 300)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 200] = b"\xff" * 200
    path.write_bytes(content)
    saved = keys(path, told)
    assert len(told) == 1
    assert 1 <= len(saved) < 300
    assert (path.parent / "results.damaged-1.sqlite").read_bytes()[middle : middle + 200] == b"\xff" * 200


def test_a_result_that_was_damaged_within_its_row_is_found_out_and_played_again(path, told):
    filled(path, told, 3)
    with sqlite3.connect(path) as file:
        file.execute("UPDATE results SET result = ? WHERE key = 'key1'", (RESULT[:-3] + b"abc",))
    file.close()
    store = Store(path, told.append)
    assert told == []
    assert store.find("key0", "fused").result == RESULT
    assert store.find("key1", "fused") is None
    assert [row.key for row in store.rows()] == ["key0", "key2"]
    store.close()
    assert len(told) == 1


def test_a_file_that_is_truncated_is_kept_aside(path, told):
    filled(path, told, 300)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 3])
    keys(path, told)
    assert len(told) == 1
    assert (path.parent / "results.damaged-1.sqlite").exists()


def test_a_database_of_another_program_is_refused_and_left_as_it_is(path, told):
    path.parent.mkdir()
    with sqlite3.connect(path) as file:
        file.execute("CREATE TABLE addresses (name TEXT)")
    file.close()
    before = path.read_bytes()
    with pytest.raises(SimError, match="another program"):
        Store(path, told.append)
    assert path.read_bytes() == before


def test_a_store_that_cannot_be_opened_is_a_mistake(tmp_path, told):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path, tmp_path / "file" / "results.sqlite"):
        with pytest.raises(SimError, match="cannot be used"):
            Store(path, told.append)


def test_a_store_that_was_moved_away_meanwhile_is_begun_anew(path, told):
    store = Store(path, told.append)
    store.add(outcome("a"), "fused", "mine", SCENARIO)
    path.rename(path.with_name("moved.sqlite"))
    store.add(outcome("b"), "fused", "mine", SCENARIO)
    store.close()
    assert keys(path, told) == ["b"]
