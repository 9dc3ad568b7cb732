from __future__ import annotations

from pathlib import Path

import pytest

from sim.calibrate.launches import HostTimes, host_times, is_launches, text
from sim.errors import SimError

HEAD = "operation,device,calls,kernels_per_call,host_us_per_call\n"


@pytest.fixture
def write(tmp_path: Path):
    def to_file(rows: str, name: str = "launch__h100_sxm__torch-2.csv") -> Path:
        path = tmp_path / name
        path.write_text(HEAD + rows)
        return path

    return to_file


def test_a_file_is_known_by_its_columns(write, tmp_path: Path) -> None:
    other = tmp_path / "gemm.csv"
    other.write_text("kernel_source,gemm_dtype,m,n,k,latency_ms\ntorch,bfloat16,1,1,1,1\n")
    assert is_launches(write("eager,x,1,1,4\n"))
    assert not is_launches(other)


def test_time_is_that_of_each_kernel_and_the_median_over_files(write) -> None:
    paths = [
        write("eager,H100,9,1,4\neager_linear_forward_backward,H100,9,3,30\nidle,H100,9,1,1\n"),
        write("eager,H100,9,1,6\n", "other__h100_sxm__x.csv"),
    ]
    found = host_times(paths, "h100-sxm").by_operation
    assert found == pytest.approx({"eager": 5e-6, "eager_linear_forward_backward": 1e-5})


@pytest.mark.parametrize(
    ("operations", "expected"),
    [
        ({"eager": 5e-6, "eager_linear_forward_backward": 1e-5}, {"kernel": 1e-5}),
        ({"eager": 5e-6, "graph_of_one_kernel": 8e-6}, {"kernel": 5e-6, "graph": 8e-6}),
        ({"eager": 5e-6}, {"kernel": 5e-6}),
        ({"graph_of_kernels": 1e-6}, {}),
    ],
)
def test_a_kernel_of_a_stack_is_issued_through_autograd_where_that_was_measured(operations, expected) -> None:
    assert HostTimes(operations).of_stack == expected


def test_what_is_printed_is_what_was_measured(write) -> None:
    said = text(HostTimes({"graph_of_kernels": 1.2e-6}))
    assert said == "time of the host\n     1.2 us  a kernel inside a CUDA graph, which the GPU starts by itself"
    assert text(host_times([write("idle,H100,9,1,1\n")], "h100-sxm")) == ""


def test_a_wrong_cell_is_named(write) -> None:
    with pytest.raises(SimError, match=r"csv:2:5: host_us_per_call: wrong value .got '0', allowed a number above 0"):
        host_times([write("eager,H100,9,1,0\n")], "h100-sxm")
