"""Logs: heads as nccl-tests 2.13 and 2.17 print them, lines of public logs (NVIDIA/nccl-tests issues)."""

from __future__ import annotations

import pytest

from sim.calibrate.nccl_tests import (
    ELEMENT_BYTES,
    HEAD,
    PROGRAMS,
    bus_factor,
    counted,
    head,
    is_log,
    op_of,
    read_log,
    row,
    sizes,
)
from sim.errors import SimError

NEW = """\
SLURM_NTASKS=2
# nccl-tests version 2.17.9 nccl-headers=22903 nccl-library=22903
# Collective test starting: all_reduce_perf
# nThread 1 nGpus 1 minBytes 8 maxBytes 4294967296 step: 2(factor) warmup iters: 1 iters: 20 agg iters: 1
#
# Using devices
#  Rank  0 Group  0 Pid    490 on inst-one device  0 [0000:0f:00] NVIDIA A100-SXM4-40GB
#  Rank  1 Group  0 Pid    247 on inst-two device  0 [0000:0f:00] NVIDIA A100-SXM4-40GB
NCCL version 2.29.3+cuda13.1
#                                                              out-of-place                       in-place
#       size         count      type   redop    root     time   algbw   busbw  #wrong     time   algbw   busbw  #wrong
#        (B)    (elements)                               (us)  (GB/s)  (GB/s)             (us)  (GB/s)  (GB/s)
           8             2     float     sum      -1    36.50    0.00    0.00       0    36.16    0.00    0.00       0
  1073741824     268435456     float     sum      -1  10908.0   98.44  184.57       0   10910.0   98.4   184.5       0
# Out of bounds values : 0 OK
# Avg bus bandwidth    : 92.285
"""
OLD = """\
# nThread 1 nGpus 8 minBytes 8 maxBytes 134217728 step: 2(factor) warmup iters: 5 iters: 20 validation: 1
#                                                     out-of-place                       in-place
#       size         count    type   redop     time   algbw   busbw  error     time   algbw   busbw  error
#        (B)    (elements)                     (us)  (GB/s)  (GB/s)            (us)  (GB/s)  (GB/s)
     1048576        262144   float     sum    105.9    9.90   17.33  1e-06    105.7    9.92   17.37  1e-06
"""
MPIRUN = """\
[1,0]<stdout>:#       size         count      type   redop    root     time   algbw   busbw #wrong
[1,0]<stdout>:           8             2     float     sum      -1    87.96    0.00    0.00      0    78.05    0.00
"""


def test_a_log_says_collective_ranks_nodes_and_out_of_place_times() -> None:
    log = read_log(NEW, "x.log")
    assert (log.op, log.num_gpus, log.num_nodes) == ("all_reduce", 2, 2)
    assert log.devices == ("NVIDIA A100-SXM4-40GB",)
    assert [(each.line, each.nbytes, each.element) for each in log.lines] == [(13, 8, "float"), (14, 2**30, "float")]
    assert [each.time_s for each in log.lines] == pytest.approx([36.50e-6, 10908.0e-6])


def test_an_old_log_has_no_root_and_says_neither_collective_nor_ranks() -> None:
    log = read_log(OLD, "x.log")
    assert (log.op, log.num_gpus) == (None, 0)
    assert [(each.nbytes, each.time_s) for each in log.lines] == [(1048576, pytest.approx(105.9e-6))]


def test_what_mpirun_writes_before_a_line_is_no_part_of_it() -> None:
    (line,) = read_log(MPIRUN, "x.log").lines
    assert (line.nbytes, line.time_s) == (8, pytest.approx(87.96e-6))


def test_ranks_that_are_not_all_listed_are_not_counted() -> None:
    assert read_log(NEW.replace("Rank  1 ", "Rank  7 "), "x.log").num_gpus == 0


@pytest.mark.parametrize(("text", "is_one"), [(NEW, True), (OLD, True), (MPIRUN, True), ("size,time\n8,2\n", False)])
def test_a_log_is_told_from_a_table(text: str, is_one: bool) -> None:
    assert is_log(text) is is_one


def test_a_log_without_a_line_or_of_two_collectives_is_refused() -> None:
    with pytest.raises(SimError, match=r"x.log: no line of a sweep"):
        read_log("# Collective test starting: all_reduce_perf\n", "x.log")
    with pytest.raises(SimError, match="several collectives"):
        read_log(NEW + NEW.replace("all_reduce_perf", "alltoall_perf"), "x.log")


@pytest.mark.parametrize(
    ("op", "factor"),
    [("all_reduce", 15 / 8), ("all_gather", 15 / 16), ("reduce_scatter", 15 / 16), ("all_to_all", 15 / 16),
     ("broadcast", 1)],
)  # fmt: skip
def test_bus_bandwidth_follows_from_the_formulas_of_performance_md(op: str, factor: float) -> None:
    assert bus_factor(op, 16) == pytest.approx(factor, rel=1e-12)


@pytest.mark.parametrize("op", PROGRAMS)
def test_a_printed_line_is_read_again(op: str) -> None:
    nbytes, count = counted(op, 2**20, 8, ELEMENT_BYTES["half"])
    text = "\n".join([*head(["algorithm"]), row(op, nbytes, count, "half", time_s=123.4e-6, num_gpus=8) + "  ring"])
    log = read_log(f"# Collective test starting: {PROGRAMS[op]}_perf\n{text}\n", "x.log")
    assert (log.op, log.lines[0].nbytes, log.lines[0].time_s) == (op, nbytes, pytest.approx(123.4e-6))


def test_columns_end_where_those_of_nccl_tests_end() -> None:
    printed = row("all_reduce", 2**30, 2**28, "float", time_s=10908.0e-6, num_gpus=16)
    measured = NEW.splitlines()[13]
    assert printed[: printed.index("N/A")].rstrip() == measured[: len(printed[: printed.index("N/A")].rstrip())]
    for title in ("size", "count", "type", "redop", "root", "time", "algbw", "busbw"):
        assert HEAD[1].index(title) == NEW.splitlines()[10].index(title)


def test_sizes_go_up_to_the_last_by_the_factor() -> None:
    assert sizes(8, 100, 3) == [8, 24, 72]


@pytest.mark.parametrize(
    ("word", "op"),
    [("all_reduce", "all_reduce"), ("allreduce", "all_reduce"), ("AllGather", "all_gather"),
     ("reduce_scatter_perf", "reduce_scatter"), ("alltoall", "all_to_all"), ("sendrecv", None), ("", None)],
)  # fmt: skip
def test_words_of_collectives(word: str, op: str | None) -> None:
    assert op_of(word) == op
