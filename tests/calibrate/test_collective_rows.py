from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from sim.calibrate.collective_rows import read_rows
from sim.errors import SimError

HEAD = (
    "source,system,nodes,gpus,gpus_per_node,nic,collective,algo_proto,size_bytes,time_us,algbw_GBps,busbw_GBps,note\n"
)
LOG = """\
# Collective test starting: all_gather_perf
#  Rank  0 Group  0 Pid  1 on a device  0 [0x07] NVIDIA H100 80GB HBM3
#  Rank  1 Group  0 Pid  2 on a device  1 [0x08] NVIDIA H100 80GB HBM3
           0             0     float    none      -1     9.50    0.00    0.00      0
     1048576        131072     float    none      -1    25.00   41.94   20.97      0
"""


def write(folder: Path, text: str, name: str = "x.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def problems(path: Path) -> str:
    with pytest.raises(SimError) as error:
        read_rows(path)
    return str(error.value)


def test_a_row_says_its_call_and_its_time(tmp_path: Path) -> None:
    rows = read_rows(write(tmp_path, f"{HEAD}here,HGX H100,2,16,8,8x400Gb IB,allreduce,,1048576,100.5,10,18,hot\n"))
    (row,) = rows.table.to_dict("records")
    assert row == {
        "op": "all_reduce", "nbytes": 1048576, "gpus": 16, "nodes": 2, "gpus_per_node": 8,
        "time_s": pytest.approx(100.5e-6), "system": "HGX H100",
        "nic": "8x400Gb IB", "source": "here", "algo_proto": "", "note": "hot",
    }  # fmt: skip
    assert (list(rows.table.index), rows.skipped) == ([2], ())


@pytest.mark.parametrize(("time", "algbw", "busbw"), [("", "10", ""), ("0", "", "17.5"), ("104.8576", "1", "1")])
def test_without_a_time_a_bandwidth_says_it(tmp_path: Path, time: str, algbw: str, busbw: str) -> None:
    """1 MiB at 10 GB/s; bus bandwidth of all_reduce on 8 is 7/4 of that."""
    rows = read_rows(write(tmp_path, f"{HEAD},H100,1,8,8,,all_reduce,,1048576,{time},{algbw},{busbw},\n"))
    assert rows.table["time_s"].tolist() == pytest.approx([104.8576e-6])


def test_gzip_is_read_too(tmp_path: Path) -> None:
    path = tmp_path / "x.csv.gz"
    path.write_bytes(gzip.compress(f"{HEAD},H100,1,8,8,,alltoall,,1024,9,,,\n".encode()))
    assert read_rows(path).table["op"].tolist() == ["all_to_all"]


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        (",X,1,8,8,,sendrecv,,1024,9,,,", "no collective that is simulated: 'sendrecv'"),
        (",X,1,,8,,all_reduce,,1024,9,,,", "gpus or size_bytes is empty"),
        (",X,1,8,8,,all_reduce,,,9,,,", "gpus or size_bytes is empty"),
        (",X,1,1,1,,all_reduce,,1024,9,,,", "one GPU has nothing to send"),
        (",X,,8,,,all_reduce,,1024,9,,,", "nodes and gpus_per_node are empty"),
        (",X,3,8,8,,all_reduce,,1024,9,,,", "unequal numbers of GPUs on the nodes (8 on 3)"),
        (",X,1,8,8,,all_reduce,,1024,,0,,", "time_us, algbw_GBps, busbw_GBps are empty or 0"),
    ],
)
def test_a_row_that_says_too_little_is_skipped_with_its_reason(tmp_path: Path, cells: str, reason: str) -> None:
    rows = read_rows(write(tmp_path, f"{HEAD}{cells}\n"))
    assert rows.table.empty
    assert rows.skipped == ((2, reason),)


def test_nodes_follow_from_the_gpus_of_a_node(tmp_path: Path) -> None:
    rows = read_rows(write(tmp_path, f"{HEAD},GB200,,72,4,NVLink5,all_reduce,,1024,9,,,\n"))
    assert rows.table["nodes"].tolist() == [18]


def test_a_wrong_cell_is_named_with_its_place(tmp_path: Path) -> None:
    path = write(tmp_path, f"{HEAD},X,1,8.5,8,,all_reduce,,1024,-9,,,\n")
    text = problems(path)
    assert f"{path}:2:4: gpus: wrong value (got '8.5', allowed a whole number, 1 or more, or nothing)" in text
    assert f"{path}:2:10: time_us: wrong value (got '-9', allowed a number, 0 or more, or nothing)" in text


def test_more_than_ten_wrong_cells_are_counted(tmp_path: Path) -> None:
    assert "3 more cells are wrong" in problems(write(tmp_path, HEAD + ",X,1,a,8,,all_reduce,,1024,9,,,\n" * 13))


def test_a_table_without_the_columns_is_refused(tmp_path: Path) -> None:
    text = problems(write(tmp_path, "m,n\n1,2\n"))
    assert "column nodes, gpus, gpus_per_node, collective, size_bytes is missing (got m, n, allowed" in text
    text = problems(write(tmp_path, "nodes,gpus,gpus_per_node,collective,size_bytes\n1,2,2,all_reduce,8\n"))
    assert "column one of time_us, algbw_GBps, busbw_GBps is missing" in text


def test_a_log_says_where_it_ran(tmp_path: Path) -> None:
    rows = read_rows(write(tmp_path, LOG, "x.log"))
    (row,) = rows.table.to_dict("records")
    assert (row["op"], row["gpus"], row["nodes"], row["system"]) == ("all_gather", 2, 1, "NVIDIA H100 80GB HBM3")
    assert (row["nbytes"], row["time_s"]) == (1048576, pytest.approx(25e-6))
    assert rows.skipped == ((4, "an empty message"),)


def test_an_old_log_needs_its_collective_and_its_gpus(tmp_path: Path) -> None:
    text = "\n".join(LOG.splitlines()[3:])
    assert "which collective was it?" in problems(write(tmp_path, text, "x.log"))
    named = write(tmp_path, text, "reduce_scatter_h100.log")
    assert "how many GPUs were it?" in problems(named)
    assert set(read_rows(named, gpus=8).table["op"]) == {"reduce_scatter"}
    assert set(read_rows(write(tmp_path, text, "x.log"), op="all_to_all", gpus=8).table["op"]) == {"all_to_all"}


def test_a_log_of_a_collective_that_is_not_simulated_is_skipped(tmp_path: Path) -> None:
    rows = read_rows(write(tmp_path, LOG.replace("all_gather_perf", "sendrecv_perf"), "x.log"))
    assert {reason for _, reason in rows.skipped} == {"no collective that is simulated: 'sendrecv_perf'"}


@pytest.mark.parametrize("content", [b"", b"\x1f\x8bxx", b"\xff\xfe\x00"])
def test_what_is_no_text_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(content)
    assert "no table in CSV or CSV.gz" in problems(path)
