"""A sweep on a real Dask scheduler with two worker processes, one of which is killed while it plays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from pyarrow import parquet

from sim.errors import SimError
from sim.study.executors.dask_cluster import DaskCluster

ROOT = Path(__file__).parents[2]
SWEEP = """\
model: llama2-7b
gpu: h100-sxm
topology: single-node-h100
layout: {tp: 2, sequence_parallel: true, pp: 2, dp: 2, zero: 1, schedule: 1f1b}
training: {seq_len: 4096, global_batch: 8, micro_batch: 1, precision: bf16, recompute: full}
sweep: {product: {training.global_batch: {first: 8, last: 96, step: 8}}}
"""
NUM_POINTS = 12


@pytest.fixture
def start(tmp_path):
    """Start a Python module; it is ended with the test."""
    with ExitStack() as stack:

        def process(*arguments: str, **options) -> subprocess.Popen[str]:
            begun = subprocess.Popen(  # noqa: S603 - our own interpreter, with arguments that a test wrote
                [sys.executable, "-m", *arguments],
                cwd=tmp_path,
                env=os.environ | {"PYTHONPATH": str(ROOT)},
                text=True,
                **({"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL} | options),
            )
            stack.enter_context(begun)
            stack.callback(begun.kill)
            return begun

        yield process


@pytest.mark.slow
def test_all_points_are_there_though_a_worker_was_killed_while_points_were_played(start, tmp_path):
    (tmp_path / "x.yaml").write_text(SWEEP)
    cluster = tmp_path / "cluster.json"
    start(
        "distributed.cli.dask_scheduler",
        *["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file"],
        str(cluster),
    )
    deadline = time.monotonic() + 60
    while not cluster.exists():
        assert time.monotonic() < deadline, "the scheduler does not start"
        time.sleep(0.1)
    options = [
        "--scheduler-file",
        str(cluster),
        *["--nthreads", "1", "--no-nanny", "--no-dashboard", "--host", "127.0.0.1"],
    ]
    workers = [start("distributed.cli.dask_worker", *options) for _ in range(2)]
    address = cluster.read_text().split('"address": "')[1].split('"')[0]
    while DaskCluster(address).num_workers < 2:
        assert time.monotonic() < deadline, "the workers do not start"
    sweep = start(
        *("sim", "sweep", "x.yaml", "--dask", address, "--out", "out"), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    lines = [sweep.stderr.readline() for _ in range(3)]
    assert lines[2].startswith(f"3/{NUM_POINTS} "), [*lines, sweep.stderr.read()]
    workers[0].kill()
    assert workers[0].wait() == -signal.SIGKILL
    assert sweep.poll() is None, "points were being played"
    output, errors = sweep.communicate(timeout=300)
    assert sweep.returncode == 0, errors
    assert workers[1].poll() is None
    assert f"{NUM_POINTS} of {NUM_POINTS} points played" in output
    found = parquet.read_table(tmp_path / "out" / "sweep.parquet").to_pydict()
    assert found["training.global_batch"] == [8 * number for number in range(1, NUM_POINTS + 1)]
    assert found["status"] == ["done"] * NUM_POINTS
    local = start(*("sim", "sweep", "x.yaml", "--store", "local.sqlite", "--out", "local"))
    assert local.wait() == 0
    for name in ("sweep.csv", "sweep.parquet"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "local" / name).read_bytes()


def test_a_scheduler_that_is_not_there_is_a_mistake():
    with pytest.raises(SimError, match=r"no Dask scheduler.*tcp://127.0.0.1:1'"):
        list(DaskCluster("tcp://127.0.0.1:1", timeout_s=0.2).play(iter([])))


@pytest.mark.parametrize("address", ["nowhere", "carrier-pigeon://x:1", "tcp://host"])
def test_what_is_no_address_is_refused(address):
    with pytest.raises(SimError, match=f"no address of a Dask scheduler .*{address}"):
        list(DaskCluster(address).play(iter([])))
