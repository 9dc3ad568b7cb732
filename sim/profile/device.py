"""Where kernels are measured: a GPU through CUDA events, or this machine's CPU, which only tries the script out."""

from __future__ import annotations

import importlib
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, final

from sim.errors import SimError

Call = Callable[[], object]

WARM_UP_CALLS = 3
"""Enough for the library to choose its kernel and for the caching allocator to hold every buffer."""

COLD_REPEATS = 20
HOT_REPEATS = 7
HOT_TARGET_S = 5e-3
MAX_HOT_CALLS = 100
CYCLES_PER_S = 2e9
"""At least the clock of any GPU so far, so that a spin is never too short."""

LEAST_SPIN_S = 1e-3
SPIN_MARGIN = 2.0
"""A spinning kernel, so many times the host's time, goes ahead of the first event: meanwhile the host queues calls."""

MONITOR_PERIOD_MS = 500
MIN_TORCH = (2, 5)
"""The first release whose attention takes fewer heads of keys than of queries."""

CACHE_FLUSH_BYTES = 512 * 2**20
"""Several times the second-level cache of any GPU (126 MB on B200)."""

BATCH_S = 0.05
SETTLED_FRAC = 0.5
"""Part of a sustained run that is left out: clock and temperature settle in it."""


@dataclass(frozen=True)
class Sustained:
    """A kernel that ran back to back: mean time of one call, and clock and power meanwhile (None: not known)."""

    time_s: float
    clock_mhz: float | None
    power_w: float | None


class Device(Protocol):
    """What times calls of PyTorch."""

    torch: Any
    kind: str
    """As PyTorch calls it: cuda or cpu."""
    name: str
    memory_bytes: float
    num_gpus: int
    """Of this kind that the process sees: they share the cores that it may use."""
    has_fp8: bool
    timing: str
    """What a time holds: `queued` the kernels alone, `eager` the host's dispatch as well."""

    def cold_s(self, call: Call) -> float:
        """Median time of one call that finds nothing in the caches, s."""
        ...

    def hot_s(self, call: Call) -> float:
        """Median time of one call among others like it, back to back in a short burst, s."""
        ...

    def sustained(self, call: Call, seconds: float) -> Sustained:
        """The call back to back for `seconds`."""
        ...

    def wall_s(self, call: Call, calls: int) -> float:
        """Mean time of one call in a row of `calls` as the host sees it: what the slower of host and GPU takes, s."""
        ...

    def synchronize(self) -> None:
        """Wait for all that was started."""
        ...

    def release(self) -> None:
        """Give memory that nobody holds back to the device."""
        ...


def load_torch() -> Any:
    """The module torch. Raises SimError where it is not installed, or too old."""
    try:
        torch = importlib.import_module("torch")
    except ImportError as error:
        raise SimError(f"PyTorch is needed to measure (got {error}, allowed: pip install torch)") from error
    version = tuple(int(part) for part in str(torch.__version__).split(".")[:2])
    if version < MIN_TORCH:
        least = ".".join(str(part) for part in MIN_TORCH)
        raise SimError(f"PyTorch is too old to measure with (got {torch.__version__}, allowed {least} or newer)")
    return torch


def cuda_device(name: str | None = None) -> Device:
    """The current GPU of PyTorch, called `name`, else as PyTorch calls it.

    Raises SimError where PyTorch is missing or sees none.
    """
    torch = load_torch()
    if not torch.cuda.is_available():
        raise SimError(f"no GPU to measure (got PyTorch {torch.__version__} without one, allowed a CUDA GPU)")
    return CudaDevice(torch, name)


@final
class CudaDevice:
    """A GPU. Times are those between CUDA events, queued behind a spinning kernel so that the host is never in them."""

    kind = "cuda"
    timing = "queued"

    def __init__(self, torch: Any, name: str | None = None) -> None:
        self.torch = torch
        properties = torch.cuda.get_device_properties(torch.cuda.current_device())
        self.name = name or str(properties.name)
        self.memory_bytes = float(properties.total_memory)
        self.num_gpus = int(torch.cuda.device_count())
        self.has_fp8 = (properties.major, properties.minor) >= (8, 9)
        self._uuid = str(getattr(properties, "uuid", ""))
        self._flush = torch.empty(CACHE_FLUSH_BYTES, dtype=torch.int8, device=self.kind)

    def cold_s(self, call: Call) -> float:
        """See `Device`: the caches are written over ahead of each call."""
        host_s = self._warm_up(call)
        pairs = []
        for _ in range(COLD_REPEATS):
            self._flush.zero_()
            pairs.append(self._timed(call, 1, host_s))
        self.synchronize()
        return _median_s(pairs)

    def hot_s(self, call: Call) -> float:
        """See `Device`."""
        host_s = self._warm_up(call)
        calls = min(max(int(HOT_TARGET_S / self._once_s(call, host_s)), 1), MAX_HOT_CALLS)
        pairs = [self._timed(call, calls, host_s) for _ in range(HOT_REPEATS)]
        self.synchronize()
        return _median_s(pairs) / calls

    def sustained(self, call: Call, seconds: float) -> Sustained:
        """See `Device`: batches, one of which is in flight while the next is queued, so that the GPU never waits."""
        calls = max(int(BATCH_S / self._once_s(call, self._warm_up(call))), 1)
        monitor = self._monitor()
        try:
            time_s = self._back_to_back_s(call, calls, seconds)
        finally:
            clock_mhz, power_w = _settled(monitor)
        return Sustained(time_s, clock_mhz, power_w)

    def _back_to_back_s(self, call: Call, calls: int, seconds: float) -> float:
        """Mean time of one call in batches of `calls`, from when the clock has settled, s."""
        begun, settled_s = time.perf_counter(), seconds * SETTLED_FRAC
        before, first, batches = self._mark(), None, 0
        while (elapsed_s := time.perf_counter() - begun) < seconds or first is None:
            for _ in range(calls):
                call()
            after = self._mark()
            before.synchronize()
            if first is None and elapsed_s >= settled_s:
                first = before
            batches += first is not None
            before = after
        self.synchronize()
        return float(first.elapsed_time(before)) * 1e-3 / (batches * calls)

    def wall_s(self, call: Call, calls: int) -> float:
        """See `Device`."""
        return _row_s(self, call, calls)

    def synchronize(self) -> None:
        """See `Device`."""
        self.torch.cuda.synchronize()

    def release(self) -> None:
        """See `Device`."""
        self.torch.cuda.empty_cache()

    def _warm_up(self, call: Call) -> float:
        """The time that the host takes to start one call, s."""
        for _ in range(WARM_UP_CALLS):
            call()
        self.synchronize()
        host_s = _wall_s(call)
        self.synchronize()
        return host_s

    def _once_s(self, call: Call, host_s: float) -> float:
        """Time of one call, s; above zero, whatever the events' clock says of an empty one."""
        start, end = self._timed(call, 1, host_s)
        self.synchronize()
        return max(float(start.elapsed_time(end)) * 1e-3, 1e-6)

    def _timed(self, call: Call, calls: int, host_s: float) -> tuple[Any, Any]:
        """Events around `calls` calls, all queued behind a spinning kernel."""
        spin_s = max(LEAST_SPIN_S, SPIN_MARGIN * calls * host_s)
        self.torch.cuda._sleep(int(spin_s * CYCLES_PER_S))  # noqa: SLF001 - as PyTorch's tests; no public one
        start = self._mark()
        for _ in range(calls):
            call()
        return start, self._mark()

    def _mark(self) -> Any:
        event = self.torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _monitor(self) -> subprocess.Popen[str] | None:
        """nvidia-smi that writes SM clock (MHz) and power (W) on and on, None where there is none for this GPU."""
        tool = shutil.which("nvidia-smi")
        if tool is None or not self._uuid:
            return None
        wanted = [f"--id=GPU-{self._uuid.removeprefix('GPU-')}", "--query-gpu=clocks.sm,power.draw"]
        return subprocess.Popen(  # noqa: S603 - a fixed program and our own words
            [tool, *wanted, "--format=csv,noheader,nounits", f"--loop-ms={MONITOR_PERIOD_MS}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )


def _median_s(pairs: Sequence[tuple[Any, Any]]) -> float:
    """Median time between two events, s."""
    return statistics.median(float(start.elapsed_time(end)) for start, end in pairs) * 1e-3


def _settled(monitor: subprocess.Popen[str] | None) -> tuple[float | None, float | None]:
    """Means of clock and power over the second half of what the monitor wrote; None where it wrote none."""
    if monitor is None:
        return None, None
    monitor.terminate()
    said, _ = monitor.communicate()
    return settled_readings(said)


def settled_readings(said: str) -> tuple[float | None, float | None]:
    r"""Means of both columns over the second half of the lines that hold two numbers; None where no line does.

    >>> settled_readings("1980, 300.0\n1500, 690.0\n1400, 710.0\n[N/A], 1\n")
    (1450.0, 700.0)
    """
    readings = [numbers for line in said.splitlines() if len(numbers := _numbers(line)) == 2]
    half = readings[int(len(readings) * SETTLED_FRAC) :]
    if not half:
        return None, None
    return statistics.mean(reading[0] for reading in half), statistics.mean(reading[1] for reading in half)


def _numbers(line: str) -> list[float]:
    try:
        return [float(cell) for cell in line.split(",")]
    except ValueError:
        return []


@final
class CpuDevice:
    """The CPU, timed by the wall clock: it tries the script out, its rows calibrate nothing."""

    kind = "cpu"
    name = "cpu"
    timing = "eager"
    has_fp8 = False
    num_gpus = 1
    memory_bytes = 2e9

    def __init__(self) -> None:
        self.torch = load_torch()

    def cold_s(self, call: Call) -> float:
        """See `Device`; the caches are left as they are."""
        return self.hot_s(call)

    def hot_s(self, call: Call) -> float:
        """See `Device`."""
        call()
        return statistics.median(_wall_s(call) for _ in range(3))

    def sustained(self, call: Call, seconds: float) -> Sustained:
        """See `Device`."""
        begun, calls = time.perf_counter(), 0
        while time.perf_counter() - begun < seconds or not calls:
            call()
            calls += 1
        return Sustained((time.perf_counter() - begun) / calls, None, None)

    def wall_s(self, call: Call, calls: int) -> float:
        """See `Device`."""
        return _row_s(self, call, calls)

    def synchronize(self) -> None:
        """See `Device`: nothing runs behind the caller's back."""

    def release(self) -> None:
        """See `Device`: the allocator gives back by itself."""


def _row_s(device: Device, call: Call, calls: int) -> float:
    """Mean wall time of one call in a row of them, after a tenth as many to warm up, s."""
    for _ in range(max(calls // 10, 1)):
        call()
    device.synchronize()
    begun = time.perf_counter()
    for _ in range(calls):
        call()
    device.synchronize()
    return (time.perf_counter() - begun) / calls


def _wall_s(call: Call) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun
