from __future__ import annotations

import csv
import importlib.util
import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from sim.calibrate.kind import KINDS
from sim.calibrate.measured import measured
from sim.cli import profile
from sim.errors import SimError
from sim.profile.case import Case, Section, Size
from sim.profile.device import COLD_REPEATS, CudaDevice, Sustained, cuda_device
from sim.profile.gemms import GEMM, MAX_FLOP
from sim.profile.hosts import COPY, LAUNCH
from sim.profile.run import SECTIONS, check_gpu, measure_section, open_device, wanted_sections
from sim.profile.streams import MEMORY_BOUND
from sim.profile.table import Table

HAS_TORCH = importlib.util.find_spec("torch") is not None


class Clockwork:
    """A device on which every call takes 2 ms, as far as the sections know."""

    kind = "cuda"
    name = "NVIDIA H100 80GB HBM3"
    memory_bytes = 80e9
    num_gpus = 8
    has_fp8 = True
    timing = "queued"

    def __init__(self, *, is_lost: bool = False) -> None:
        self.torch: Any = type("Torch", (), {"__version__": "9.9.0+cu130"})
        self._is_lost = is_lost

    def cold_s(self, call: Callable[[], object]) -> float:
        call()
        return 2e-3

    hot_s = cold_s

    def sustained(self, call: Callable[[], object], seconds: float) -> Sustained:
        call()
        return Sustained(seconds, None, None)

    def wall_s(self, call: Callable[[], object], calls: int) -> float:
        call()
        return 1e-5 / calls

    def synchronize(self) -> None:
        if self._is_lost:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def release(self) -> None:
        pass


def section(
    measure: Callable[[Any], Any] = lambda device: {"latency_ms": 1e3 * device.hot_s(lambda: None)},
    sizes: tuple[int, ...] = (1, 2, 3),
    nbytes: float = 1.0,
) -> Section:
    def cases(_: Any, size: Size) -> Iterator[Case]:
        assert size == "full"
        return (Case({"n": n}, nbytes, measure) for n in sizes)

    return Section("trial", ("n",), ("latency_ms",), cases)


def run(given: Section, folder: Path, device: Any = None) -> tuple[Any, list[str]]:
    told: list[str] = []
    done = measure_section(given, device or Clockwork(), folder, "full", gpu="h100-sxm", tell=told.append)
    return done, told


def rows_of(path: Path) -> list[list[str]]:
    return list(csv.reader(path.read_text().splitlines()))


def test_rows_are_written_under_the_name_of_section_gpu_and_torch(tmp_path: Path) -> None:
    done, _ = run(section(), tmp_path)
    assert done.path.name == "trial__h100-sxm__torch-9.9.0+cu130.csv"
    assert rows_of(done.path) == [["n", "latency_ms"], ["1", "2.0"], ["2", "2.0"], ["3", "2.0"]]


def test_a_second_run_measures_only_what_is_missing(tmp_path: Path) -> None:
    run(section(sizes=(1, 2)), tmp_path)
    done, told = run(section(sizes=(1, 2, 3)), tmp_path)
    assert (done.num_measured, done.num_there) == (1, 2)
    assert told == ["trial: 3"]
    assert len(rows_of(done.path)) == 4


def test_a_line_that_was_cut_short_is_measured_again(tmp_path: Path) -> None:
    done, _ = run(section(), tmp_path)
    done.path.write_text("n,latency_ms\n1,2.0\n2,")
    again, _ = run(section(), tmp_path)
    assert (again.num_measured, again.num_there) == (2, 1)
    assert [row[0] for row in rows_of(done.path)] == ["n", "1", "2", "3"]


def test_a_file_with_another_head_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "trial.csv"
    path.write_text("m,latency_ms\n1,2\n")
    with pytest.raises(SimError, match=r"trial.csv:1:1: another head \(got m,latency_ms, allowed n,latency_ms"):
        Table(path, section())


def test_a_shape_that_the_device_refuses_is_left_out_with_the_reason(tmp_path: Path) -> None:
    def refuse(_: Any) -> Any:
        raise RuntimeError("CUDA out of memory. Tried to allocate 99 GiB.\nSee documentation")

    done, told = run(section(refuse, sizes=(7,)), tmp_path)
    assert (done.num_measured, done.num_skipped) == (0, 1)
    assert told == ["trial: 7: left out, CUDA out of memory. Tried to allocate 99 GiB."]


def test_a_shape_that_cannot_fit_is_never_tried(tmp_path: Path) -> None:
    done, told = run(section(sizes=(7,), nbytes=70e9), tmp_path)
    assert done.num_skipped == 1
    assert told == ["trial: 7: left out, it needs 70.0 GB of 80.0 GB"]


def test_a_device_that_is_lost_ends_the_run(tmp_path: Path) -> None:
    def break_it(_: Any) -> Any:
        raise RuntimeError("CUDA error")

    with pytest.raises(SimError, match="the device does not answer after: CUDA error"):
        run(section(break_it), tmp_path, Clockwork(is_lost=True))


@pytest.mark.parametrize("each", [GEMM, SECTIONS["gemm_sustained"], MEMORY_BOUND, LAUNCH, COPY], ids=lambda s: s.name)
@pytest.mark.parametrize("size", ["full", "quick", "tiny"])
def test_every_case_of_a_section_has_its_columns_and_a_key_of_its_own(each: Section, size: Size) -> None:
    keys = [case.key for case in each.cases(Clockwork(), size)]
    assert all(tuple(key) == each.key_columns for key in keys)
    assert len({tuple(key.values()) for key in keys}) == len(keys) > 0


def test_a_linear_layer_is_measured_forward_and_in_both_gradients() -> None:
    keys = [case.key for case in GEMM.cases(Clockwork(), "full")]
    shapes = {(key["gemm_dtype"], key["m"], key["n"], key["k"], key["layout"]) for key in keys}
    # 4096 tokens from 8192 to 28672 features.
    assert {
        ("bfloat16", 4096, 28672, 8192, "TN"),
        ("bfloat16", 4096, 8192, 28672, "NN"),
        ("bfloat16", 28672, 8192, 4096, "NT"),
        ("fp8", 28672, 8192, 4096, "TN"),
    } <= shapes
    assert max(2.0 * m * n * k for _, m, n, k, _ in shapes) <= MAX_FLOP  # type: ignore[operator]


def test_what_is_written_is_read_as_gemm_and_memory_bound_kernels(tmp_path: Path) -> None:
    for each, kind, column in ((GEMM, "gemm", "latency_ms"), (MEMORY_BOUND, "memory_bound", "Latency")):
        table = Table(tmp_path / f"{each.name}__h100-sxm__torch-9.9.csv", each)
        cases = list(itertools.islice(each.cases(Clockwork(), "quick"), 40))
        for case in cases:
            table.add({**case.key, column: 1.5})
        (found,) = measured(table.path, KINDS[kind])
        rows = KINDS[kind].rows(found.rows)
        assert found.gpu == "h100-sxm"
        assert len(rows.table) + sum(rows.skipped.values()) == len(cases)
        assert rows.table["time_s"].tolist() == pytest.approx([1.5e-3] * len(rows.table))
        assert len(rows.table) > 0


class FakeEvent:
    """A mark on the GPU's clock."""

    def __init__(self, gpu: FakeTorch) -> None:
        self._gpu = gpu
        self.at_ms = 0.0

    def record(self) -> None:
        self.at_ms = self._gpu.now_ms
        self._gpu.log.append("event")

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: FakeEvent) -> float:
        return end.at_ms - self.at_ms


class FakeTorch:
    """As much of torch.cuda as times a call: kernels move a clock, and the order of all that is queued is kept."""

    __version__ = "9.9.0"
    int8 = "int8"

    def __init__(self) -> None:
        self.now_ms = 0.0
        self.log: list[str] = []
        self.cuda = self

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return 8

    def get_device_properties(self, _: int) -> Any:
        return type("Properties", (), {"name": "Fake", "total_memory": 80 * 2**30, "major": 8, "minor": 0})

    def empty(self, *_: object, **__: object) -> Any:
        return type("Buffer", (), {"zero_": lambda _: self.kernel("flush", 1.0)})()

    def Event(self, *, enable_timing: bool) -> FakeEvent:  # noqa: N802 - as torch calls it
        assert enable_timing
        return FakeEvent(self)

    def _sleep(self, cycles: int) -> None:
        assert cycles >= 1_000_000
        self.kernel("spin", 5.0)

    def synchronize(self) -> None:
        pass

    def kernel(self, name: str, duration_ms: float) -> None:
        self.now_ms += duration_ms
        self.log.append(name)


def test_a_cold_time_is_that_of_the_kernel_alone_with_flush_and_spin_ahead_of_it() -> None:
    torch = FakeTorch()
    device = CudaDevice(torch)
    assert device.cold_s(lambda: torch.kernel("kernel", 0.25)) == pytest.approx(0.25e-3)
    assert torch.log[-5 * COLD_REPEATS :] == ["flush", "spin", "event", "kernel", "event"] * COLD_REPEATS


def test_a_hot_time_is_the_mean_of_calls_back_to_back() -> None:
    torch = FakeTorch()
    device = CudaDevice(torch)
    assert device.hot_s(lambda: torch.kernel("kernel", 0.5)) == pytest.approx(0.5e-3)
    # 5 ms of calls between two events.
    assert torch.log[-13:] == ["spin", "event", *["kernel"] * 10, "event"]


def test_a_sustained_time_is_the_mean_after_the_clock_has_settled() -> None:
    torch = FakeTorch()
    device = CudaDevice(torch)
    slow_after = 5

    def call() -> None:
        torch.kernel("kernel", 10.0 if torch.log.count("kernel") < slow_after else 20.0)

    found = device.sustained(call, 0.02)
    assert found == Sustained(pytest.approx(20e-3), None, None)


def test_a_device_has_the_name_that_the_user_says_and_the_gpus_that_share_its_host() -> None:
    assert CudaDevice(FakeTorch()).name == "Fake"
    assert CudaDevice(FakeTorch(), "h800-sxm").name == "h800-sxm"
    keys = [case.key for case in COPY.cases(CudaDevice(FakeTorch(), "h800-sxm"), "quick")]
    assert {(key["device"], key["num_gpus"]) for key in keys} == {("h800-sxm", 8)}


def test_wall_time_is_the_mean_of_a_row_of_calls_after_a_tenth_as_many() -> None:
    device = CudaDevice(FakeTorch())
    called: list[float] = []

    def call() -> None:
        called.append(time.perf_counter())
        time.sleep(2e-3)

    assert device.wall_s(call, 20) >= 2e-3
    assert len(called) == 22


def test_fp8_products_are_added_up_fast_in_the_forward_pass_alone() -> None:
    keys = [case.key for case in GEMM.cases(Clockwork(), "full")]
    fp8 = {(key["m"], key["n"], key["k"], key["kernel_source"]) for key in keys if key["gemm_dtype"] == "fp8"}
    # 4096 tokens from 8192 to 28672 features: forward, and the gradients of input and weight.
    assert (4096, 28672, 8192, "torch._scaled_mm_fast") in fp8
    assert {(4096, 8192, 28672, "torch._scaled_mm"), (28672, 8192, 4096, "torch._scaled_mm")} <= fp8
    sustained = [case.key["kernel_source"] for case in SECTIONS["gemm_sustained"].cases(Clockwork(), "quick")]
    assert sustained == ["torch.mm", "torch._scaled_mm_fast", "torch._scaled_mm"]


@pytest.mark.skipif(HAS_TORCH, reason="torch is installed")
def test_without_torch_the_message_says_what_to_install() -> None:
    with pytest.raises(SimError, match=r"PyTorch is needed to measure .*pip install torch"):
        cuda_device()


def test_unknown_words_are_refused_with_what_is_allowed() -> None:
    with pytest.raises(SimError, match=r"unknown section .got 'gem', allowed gemm, .*did you mean 'gemm'"):
        wanted_sections(["gem"])
    with pytest.raises(SimError, match=r"unknown device .got 'tpu', allowed cuda, cpu"):
        open_device("tpu")
    with pytest.raises(SimError, match=r"unknown GPU .got 'h100', allowed .*h100-sxm"):
        check_gpu("h100")


@pytest.mark.skipif(not HAS_TORCH, reason="torch is not installed")
def test_the_whole_script_runs_on_a_cpu_and_again_without_measuring(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(profile.command)
    first = CliRunner().invoke(app, ["--out", str(tmp_path), "--device", "cpu"], catch_exceptions=False)
    assert first.exit_code == 0
    assert len(list(tmp_path.glob("*__cpu__torch-*.csv"))) == len(SECTIONS)
    assert "0 left out" in first.output
    again = CliRunner().invoke(app, ["--out", str(tmp_path), "--device", "cpu"], catch_exceptions=False)
    counts = [line for line in again.output.splitlines() if "measured" in line]
    assert len(counts) == len(SECTIONS)
    assert all(": 0 measured" in line for line in counts)
