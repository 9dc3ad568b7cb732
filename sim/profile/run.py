"""Measures the sections that are wanted, row by row, and goes on where an earlier run stopped."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from sim.errors import SimError
from sim.profile.attentions import ATTENTION, ATTENTION_SUSTAINED
from sim.profile.case import Case, Section, Size
from sim.profile.device import CpuDevice, Device, cuda_device
from sim.profile.gemms import GEMM, GEMM_SUSTAINED
from sim.profile.hosts import COPY, LAUNCH
from sim.profile.streams import MEMORY_BOUND
from sim.profile.table import Table
from sim.registry import unknown
from sim.spec.find import names

SECTIONS = {
    section.name: section
    for section in (GEMM, GEMM_SUSTAINED, ATTENTION, ATTENTION_SUSTAINED, MEMORY_BOUND, LAUNCH, COPY)
}

MEMORY_FRAC = 0.85
"""Part of the memory that a case may fill: the rest is the library's and the allocator's."""

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Done:
    """What came of one section."""

    path: Path
    num_measured: int
    num_there: int
    num_skipped: int


def wanted_sections(only: Iterable[str]) -> list[Section]:
    """Sections by name, all where none is named. Raises SimError on a name that does not exist."""
    wanted = list(only)
    for name in wanted:
        if name not in SECTIONS:
            raise SimError(unknown("section", name, list(SECTIONS)))
    return [section for name, section in SECTIONS.items() if name in wanted or not wanted]


def open_device(kind: str, gpu: str | None = None) -> Device:
    """cuda, or cpu to try the script out; `gpu` is what its rows are said to be measured on.

    Raises SimError on another kind, and where PyTorch or the GPU is missing.
    """
    match kind:
        case "cuda":
            return cuda_device(gpu)
        case "cpu":
            return CpuDevice()
        case _:
            raise SimError(unknown("device", kind, ["cuda", "cpu"]))


def size_on(device: Device, *, is_quick: bool) -> Size:
    """How much is measured: on a CPU the least."""
    if device.kind == "cpu":
        return "tiny"
    return "quick" if is_quick else "full"


def check_gpu(gpu: str | None) -> None:
    """Raise SimError where the name is none of the catalogue."""
    if gpu is not None and gpu not in names("gpus"):
        raise SimError(unknown("GPU", gpu, list(names("gpus"))))


def measure_section(section: Section, device: Device, folder: Path, size: Size, *, gpu: str | None, tell: Tell) -> Done:
    """Write SECTION__GPU__torch-VERSION.csv; rows that are there stay. `tell` hears of each case.

    Raises SimError where the device does not answer any more.
    """
    version = re.sub(r"[^\w.+-]", "-", str(device.torch.__version__))
    name = gpu or re.sub(r"[^a-z0-9]+", "_", device.name.lower()).strip("_")
    table = Table(folder / f"{section.name}__{name}__torch-{version}.csv", section)
    measured = there = skipped = 0
    for case in section.cases(device, size):
        if table.has(case.key):
            there += 1
        elif (reason := _measure(case, device, table)) is None:
            measured += 1
            tell(f"{section.name}: {case.label}")
        else:
            skipped += 1
            tell(f"{section.name}: {case.label}: left out, {reason}")
    return Done(table.path, measured, there, skipped)


def _measure(case: Case, device: Device, table: Table) -> str | None:
    """Why the case was left out, None where its row was written."""
    if case.nbytes > MEMORY_FRAC * device.memory_bytes:
        return f"it needs {case.nbytes / 1e9:.1f} GB of {device.memory_bytes / 1e9:.1f} GB"
    device.release()
    try:
        found = case.measure(device)
    except RuntimeError as error:  # out of memory, or a kernel that does not take the shape
        return _reason(error, device)
    table.add({**case.key, **found})
    return None


def _reason(error: RuntimeError, device: Device) -> str:
    """The first line of what PyTorch said.

    Raises SimError where the device is lost, which it says when it is waited for.
    """
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    try:
        device.synchronize()
    except RuntimeError as lost:
        raise SimError(f"the device does not answer after: {reason} (allowed: start again, rows are kept)") from lost
    return reason
