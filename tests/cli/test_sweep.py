"""`sim sweep` and `sim results`: tables, the store, and what cannot be played."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from pyarrow import parquet

from sim.cli.sweep import TABLES
from sim.study.store import Store

SWEEP = "sweep: {product: {layout.tp: [2, 3], training.micro_batch: [1, 2]}}\n"
MANY = "sweep: {product: {training.global_batch: {first: 64, last: 1280, step: 64}}}\n"
"""Twenty points that take tens of milliseconds each."""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The store is that of the working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def started(*arguments: str) -> subprocess.Popen[str]:
    root = str(Path(__file__).parents[2])
    return subprocess.Popen(  # noqa: S603 - our own interpreter, with arguments that a test wrote
        [sys.executable, "-m", "sim", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": root},
    )


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_sweep_writes_a_row_for_each_point_and_the_reason_of_those_that_are_impossible(
    write: Callable, small_text: str, invoke: Callable, here: Path
):
    output = invoke("sweep", write(small_text + SWEEP), "--out", "out").stdout
    rows = read_csv(here / "out" / "sweep.csv")
    points = [("2", "1"), ("2", "2"), ("3", "1"), ("3", "2")]
    assert [(row["layout.tp"], row["training.micro_batch"]) for row in rows] == points
    for row in rows[:2]:
        assert (row["status"], row["error"], row["fits"]) == ("done", "", "True")
        assert float(row["step_time_s"]) > 0
    for row in rows[2:]:
        assert "tp = 3" in row["error"]
        assert (row["status"], row["step_time_s"]) == ("impossible", "")
    assert parquet.read_table(here / "out" / "sweep.parquet").num_rows == 4
    assert "impossible: layout.tp=3 training.micro_batch=1: " in output
    assert "2 of 4 points played" in output


def test_a_sweep_without_a_folder_prints_its_points_fastest_first(write: Callable, small_text: str, invoke: Callable):
    output = invoke("sweep", write(small_text + SWEEP)).stdout
    lines = [line.split() for line in output.splitlines() if "GiB" in line]
    speeds = [float(line[2].replace(",", "")) for line in lines]
    assert len(speeds) == 2
    assert speeds == sorted(speeds, reverse=True)
    assert "sweep.csv" not in output


def test_a_sweep_without_a_single_possible_point_is_a_mistake(write: Callable, small_text: str, invoke: Callable):
    path = write(small_text + "sweep: {product: {layout.tp: [3, 5]}}\n")
    assert "no point" in invoke("sweep", path, code=2).stderr


def test_progress_off_a_terminal_is_one_plain_line_for_each_point_with_an_eta(
    write: Callable, small_text: str, invoke: Callable
):
    lines = invoke("sweep", write(small_text + SWEEP)).stderr.splitlines()
    assert [line.split()[0] for line in lines] == ["1/4", "2/4", "3/4", "4/4"]
    assert ["(ETA " in line for line in lines] == [True, True, True, False]
    assert "\x1b" not in "".join(lines)


def test_a_dry_run_lists_points_reasons_and_an_eta_and_leaves_nothing(
    write: Callable, small_text: str, invoke: Callable, here: Path
):
    path = write(small_text + SWEEP)
    before = sorted(here.iterdir())
    output = invoke("sweep", path, "--dry-run", "--workers", "4", "--out", "out").stdout
    assert "layout.tp=2 training.micro_batch=1: to play" in output
    assert "layout.tp=3 training.micro_batch=2: impossible: " in output
    assert "4 points: 2 to play, 0 stored, 2 impossible" in output
    assert "with 4 workers: 2 to play" in output
    assert sorted(here.iterdir()) == before
    invoke("sweep", path)
    output = invoke("sweep", path, "--dry-run").stdout
    assert "4 points: 0 to play, 2 stored, 2 impossible" in output
    assert "ETA" not in output


def test_a_second_sweep_plays_nothing_and_ends_with_the_same_tables(
    write: Callable, small_text: str, invoke: Callable, here: Path
):
    path = write(small_text + SWEEP)
    invoke("sweep", path, "--out", "first")
    assert "2 of 4 points played, 2 of them earlier" in invoke("sweep", path, "--out", "second").stdout
    for name in TABLES:
        assert (here / "first" / name).read_bytes() == (here / "second" / name).read_bytes()


def test_a_damaged_store_is_told_and_kept(write: Callable, small_text: str, invoke: Callable, here: Path):
    (here / "mine.sqlite").write_bytes(b"x" * 9999)
    done = invoke("sweep", write(small_text + SWEEP), "--store", "mine.sqlite")
    assert "mine.sqlite: the store was damaged (file is not a database); it is kept as mine.damaged-1" in done.stderr
    assert (here / "mine.damaged-1.sqlite").read_bytes() == b"x" * 9999
    assert "2 of 4 points played" in done.stdout


KILLED = """
import os, signal, sys
from pathlib import Path
import sim
from sim.study import sweep as study
from sim.study.store import Store

folder = Path(sys.argv[1])
points = sim.load_points(str(folder / "small.yaml"))
moments = 0

def may_die(last):
    global moments
    if moments == last:
        os.kill(os.getpid(), signal.SIGKILL)
    moments += 1

def run(last):
    "Sweep, and be killed at the moment number `last`: moments lie right before and right after each write."
    add = Store.add
    def watched(store, *arguments):
        may_die(last)
        add(store, *arguments)
        may_die(last)
    Store.add = watched
    store = Store(folder / "reports" / "results.sqlite", print)
    list(study.sweep(study.plan(points), store))

for last in range(2 * len(points)):
    for old in (folder / "reports").glob("results.sqlite*"):
        old.unlink()
    child = os.fork()
    if child == 0:
        run(last)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, (last, status)
    child = os.fork()
    if child == 0:
        store = Store(folder / "reports" / "results.sqlite", print)
        known = len(list(store.rows()))
        rows = sorted(study.sweep(study.plan(points), store), key=lambda row: row.index)
        assert known == (last + 1) // 2 == sum(row.is_stored for row in rows), (last, known)
        (folder / f"{last}.bin").write_bytes(b"".join(row.packed for row in rows))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert status == 0, last
print(2 * len(points), "kills")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a copy of a process is killed, which this system has not")
def test_a_sweep_that_is_killed_between_any_two_points_goes_on_where_it_was(
    write: Callable, small_text: str, python: Callable, here: Path
):
    write(small_text + "sweep: {product: {training.global_batch: [8, 16, 24, 32, 40, 48]}}\n")
    done = python("-c", KILLED, str(here), PYTHONPATH=str(Path(__file__).parents[2]))
    assert done.stdout.strip() == "12 kills", done.stderr
    assert len({(here / f"{last}.bin").read_bytes() for last in range(12)}) == 1


def num_stored(here: Path) -> int:
    store = Store(here / "reports" / "results.sqlite", print)
    found = len(list(store.rows()))
    store.close()
    return found


def children(pid: int) -> list[int]:
    """Processes that a process has begun, and theirs, as Linux tells it."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            found += [child, *children(child)]
    return found


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="workers are found as Linux tells it")
def test_kill_9_of_a_sweep_with_workers_leaves_none_of_them_and_the_same_tables_in_the_end(
    write: Callable, small_text: str, invoke: Callable, here: Path
):
    path = write(small_text + MANY)
    with started("sweep", path, "--workers", "2", "--out", "out") as process:
        assert process.stderr is not None
        for _ in range(5):
            process.stderr.readline()
        workers = children(process.pid)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert len(workers) >= 2
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}/exe").exists() for pid in workers):
        assert time.monotonic() < deadline, "workers outlive the sweep"
        time.sleep(0.05)
    assert not (here / "out").exists() or not list((here / "out").iterdir())
    assert 5 <= num_stored(here) < 20
    output = invoke("sweep", path, "--out", "out").stdout
    assert "20 of 20 points played" in output
    assert "of them earlier" in output
    invoke("sweep", path, "--out", "whole", "--store", "another.sqlite")
    for name in TABLES:
        assert (here / "out" / name).read_bytes() == (here / "whole" / name).read_bytes()


def test_two_sweeps_at_once_on_one_store_end_with_the_same_tables(write: Callable, small_text: str, here: Path):
    path = write(small_text + MANY)
    outputs = ("one", "two")
    processes = [started("sweep", path, "--out", out) for out in outputs]
    for process in processes:
        assert "20 of 20 points played" in process.communicate()[0]
        assert process.returncode == 0
    assert num_stored(here) == 20
    for name in TABLES:
        assert (here / "one" / name).read_bytes() == (here / "two" / name).read_bytes()


def test_ctrl_c_ends_a_sweep_without_a_traceback_and_keeps_what_was_played(
    write: Callable, small_text: str, here: Path
):
    with started("sweep", write(small_text + MANY), "--out", "out") as process:
        assert process.stderr is not None
        first = process.stderr.readline()
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
    assert first.startswith("1/20 (ETA ")
    assert "Traceback" not in rest
    assert "the same command goes on" in rest
    assert process.returncode == 130
    assert 1 <= num_stored(here) < 20


def test_dask_and_workers_exclude_each_other(write: Callable, small_text: str, invoke: Callable):
    arguments = ("sweep", write(small_text + SWEEP), "--dask", "tcp://127.0.0.1:1", "--workers", "2")
    assert "exclude" in invoke(*arguments, code=2).stderr


def test_results_are_listed_filtered_exported_and_removed(
    write: Callable, small_text: str, invoke: Callable, here: Path
):
    assert "no store" in invoke("results", "list", code=2).stderr
    invoke("sweep", write(small_text + MANY))
    listed = invoke("results", "list", "--top", "3").stdout.splitlines()
    assert listed[0].split() == ["key", "step", "tokens/s/GPU", "MFU", "fits", "code", "name"]
    assert len(listed) == 5
    assert listed[-1].startswith("20 results in ")
    assert invoke("results", "list", "--where", "training.global_batch > 640").stdout.splitlines()[-1][:3] == "10 "
    invoke("results", "export", "all.csv", "--where", "training.global_batch <= 128")
    assert [row["scenario.training.global_batch"] for row in read_csv(here / "all.csv")] == ["64", "128"]
    assert "allowed a name that ends with" in invoke("results", "export", "all.xls", code=2).stderr
    assert "one of --where and --all" in invoke("results", "remove", code=2).stderr
    assert "2 results removed" in invoke("results", "remove", "--where", "training.global_batch <= 128").stdout
    assert "18 results removed" in invoke("results", "remove", "--all").stdout
    assert "0 results in " in invoke("results", "list").stdout


def test_a_condition_that_cannot_be_read_is_a_mistake(write: Callable, small_text: str, invoke: Callable):
    invoke("sweep", write(small_text + SWEEP))
    assert "no expression" in invoke("results", "list", "--where", "mfu >", code=2).stderr
    assert "no value at 'layout.ttp'" in invoke("results", "list", "--where", "layout.ttp > 1", code=2).stderr
