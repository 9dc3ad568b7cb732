"""nccl-tests' table of a sweep: read from a log, and printed in the same columns."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sim.errors import Problem, SimError

GIGA = 1e9
MICRO = 1e-6

ELEMENT_BYTES = {"int8": 1, "half": 2, "bfloat16": 2, "float": 4, "double": 8}
"""Bytes of an element by nccl-tests' name of its type."""

PROGRAMS = {
    "all_reduce": "all_reduce",
    "all_gather": "all_gather",
    "reduce_scatter": "reduce_scatter",
    "all_to_all": "alltoall",
    "broadcast": "broadcast",
}
"""nccl-tests' name of each collective: that of its program without `_perf`."""

REDUCING = ("all_reduce", "reduce_scatter")
"""Collectives that add; the others have no operator."""

ALIGNMENT_BYTES = 16
"""nccl-tests rounds the part of a rank down to this (src/all_gather.cu, reduce_scatter.cu, alltoall.cu)."""

_OPS = {word.replace("_", ""): op for op, program in PROGRAMS.items() for word in (op, program)}
_STARTING = re.compile(r"# *Collective test starting: *(\w+)")
_RANK = re.compile(r"# *Rank +(\d+) .*? on +(\S+) +device +\d+ +\[[^\]]*\] +(.*\S)")
_TYPE = r"u?int\d+|half|float\w*|double|bfloat16|fp?8\w*"
_ROW = re.compile(
    rf"(\d+) +\d+ +({_TYPE}) +(?:[a-z]\w* +)?(?:-?\d+ +)?(\d+(?:\.\d*)?(?:e\+?\d+)?)(?: +[\d.e+]+){{2}}(?: |$)"
)
_PREFIX = re.compile(r"^(?:\[\d+,\d+\]<\w+>: ?| *\d+: )")
"""What mpirun and srun put before a line."""


def op_of(word: str) -> str | None:
    """Our name of a collective that a file names, None for none that is known.

    >>> op_of("AllReduce"), op_of("alltoall"), op_of("all_gather_perf"), op_of("sendrecv")
    ('all_reduce', 'all_to_all', 'all_gather', None)
    """
    return _OPS.get(re.sub(r"[^a-z]", "", word.lower()).removesuffix("perf"))


def bus_factor(op: str, num_gpus: int) -> float:
    """Bus bandwidth over algorithm bandwidth, of `num_gpus` ranks.

    What each rank must send over its share of the wire, so that a ring reads the wire's rate whatever its length.
    Source: doc/PERFORMANCE.md of NVIDIA/nccl-tests.

    >>> bus_factor("all_reduce", 8), bus_factor("all_gather", 8), bus_factor("broadcast", 8)
    (1.75, 0.875, 1.0)
    """
    match op:
        case "all_reduce":
            return 2 * (num_gpus - 1) / num_gpus
        case "all_gather" | "reduce_scatter" | "all_to_all":
            return (num_gpus - 1) / num_gpus
        case _:
            return 1.0


@dataclass(frozen=True)
class Line:
    """A size of a sweep. line: where it stands in the log, from 1.  nbytes: as nccl-tests counts it, the total buffer
    of all_gather, reduce_scatter and all_to_all.  time_s: out of place."""

    line: int
    nbytes: int
    element: str
    time_s: float


@dataclass(frozen=True)
class Log:
    """What nccl-tests printed of one run. hosts: that of each rank that it lists; devices: its names of the GPUs."""

    op: str | None
    hosts: tuple[str, ...]
    devices: tuple[str, ...]
    lines: tuple[Line, ...]

    @property
    def num_gpus(self) -> int:
        """Ranks of the run, 0 where the log does not list them."""
        return len(self.hosts)

    @property
    def num_nodes(self) -> int:
        """Servers of the run, 0 where the log does not list ranks."""
        return len(set(self.hosts))


def is_log(text: str) -> bool:
    """Whether a text has a line of nccl-tests' table, or the head of one."""
    return re.search(r"# +size +count +type", text) is not None or any(True for _ in _lines(text))


def read_log(text: str, file: str) -> Log:
    """The sweep of a log, whatever else was printed around it.

    Raises SimError where the log has no line of a sweep, or those of several collectives.
    """
    lines = tuple(_lines(text))
    if not lines:
        raise SimError(Problem("no line of a sweep (allowed what nccl-tests prints)", file=file))
    started = sorted({op_of(word) or word for word in _STARTING.findall(text)})
    if len(started) > 1:
        message = f"several collectives (got {', '.join(started)}, allowed a file for each)"
        raise SimError(Problem(message, file=file))
    ranks = {int(rank): (host, device) for rank, host, device in _RANK.findall(text)}
    complete = sorted(ranks) == list(range(len(ranks)))
    hosts = tuple(ranks[rank][0] for rank in sorted(ranks)) if complete else ()
    devices = tuple(dict.fromkeys(device for _, device in ranks.values()))
    return Log(started[0] if started else None, hosts, devices, lines)


def _lines(text: str) -> Iterator[Line]:
    for number, raw in enumerate(text.splitlines(), start=1):
        match = _ROW.match(_PREFIX.sub("", raw).strip())
        if match is not None:
            yield Line(number, int(match[1]), match[2], float(match[3]) * MICRO)


def sizes(first: int, last: int, factor: int) -> list[int]:
    """Sizes that nccl-tests runs with `-b first -e last -f factor`.

    >>> sizes(1024, 8192, 2)
    [1024, 2048, 4096, 8192]
    """
    found = [first]
    while found[-1] * factor <= last:
        found.append(found[-1] * factor)
    return found


def parse_size(text: str) -> int | None:
    """Bytes of a size as nccl-tests reads it: K, M, G and T are powers of 1024; None for no size.

    >>> parse_size("8"), parse_size("1K"), parse_size("16g"), parse_size("1.5M"), parse_size("x")
    (8, 1024, 17179869184, 1572864, None)
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if match is None:
        return None
    return int(float(match[1]) * 1024 ** " KMGT".index(match[2].upper() or " "))


def counted(op: str, nbytes: int, num_gpus: int, element_bytes: int) -> tuple[int, int]:
    """Size and count that nccl-tests prints for a size that was asked for.

    Of all_gather, reduce_scatter and all_to_all the count is the part of one rank, rounded down to 16 bytes, and the
    size that of all parts.

    >>> counted("all_reduce", 1024, 8, 4), counted("all_gather", 1024, 8, 4), counted("all_gather", 1000, 8, 4)
    ((1024, 256), (1024, 32), (896, 28))
    """
    count = nbytes // element_bytes
    if op not in ("all_gather", "reduce_scatter", "all_to_all"):
        return count * element_bytes, count
    step = ALIGNMENT_BYTES // element_bytes
    part = count // num_gpus // step * step
    return part * num_gpus * element_bytes, part


HEAD = (
    "#                                                              out-of-place",
    "#       size         count      type   redop    root     time   algbw   busbw  #wrong",
    "#        (B)    (elements)                               (us)  (GB/s)  (GB/s)        ",
)
"""As nccl-tests 2.17 prints it, without the columns of the run in place, which a simulation does not tell apart."""


def head(more: Sequence[str]) -> list[str]:
    """The head of a table with columns after nccl-tests' own, each as wide as `more` is."""
    return [HEAD[0], "  ".join((HEAD[1], *more)), HEAD[2].rstrip()]


def row(op: str, nbytes: int, count: int, element: str, *, time_s: float, num_gpus: int) -> str:
    """A line of the table. Source of the layout: src/util.cu of NVIDIA/nccl-tests 2.17."""
    algbw = nbytes / GIGA / time_s
    busbw = algbw * bus_factor(op, num_gpus)
    redop, root = ("sum" if op in REDUCING else "none"), (0 if op == "broadcast" else -1)
    left = f"{nbytes:12d}  {count:12d}  {element:>8}  {redop:>6}  {root:6d}"
    return f"{left}  {_number(time_s / MICRO, 7)}  {_number(algbw, 6)}  {_number(busbw, 6)}     N/A"


def _number(value: float, width: int) -> str:
    """As many decimals as fit: two, one or none.

    >>> _number(21.714, 7), _number(12345.6, 7), _number(1234567.0, 7), _number(480.25, 6)
    ('  21.71', '12345.6', '1234567', '480.25')
    """
    digits = len(str(math.floor(value)))
    return f"{value:{width}.{max(0, min(2, width - 1 - digits))}f}"
