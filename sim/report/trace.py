"""Traces of the played step in the form that PyTorch's Kineto writes, for Perfetto and HolisticTraceAnalysis.

What the reader of HolisticTraceAnalysis 0.5 needs (https://github.com/facebookresearch/HolisticTraceAnalysis): one
file for each rank; `"rank": N` with a blank after the colon; GPU work as category `kernel` with an integer
`args.stream`; communication kernels named `nccl...Kernel...`; a `cudaLaunchKernel` of category `cuda_runtime` with the
same `args.correlation` for each kernel; slices of one thread id that nest; a `ProfilerStep#k` annotation (the last
step, here the only one, is read with `include_last_profiler_step=True`).
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sim.engine.timeline import Timeline
from sim.errors import SimError
from sim.program.operations import COMPUTE, STREAMS, Collective, Compute, Send
from sim.program.program import SimulatedRank
from sim.program.ranks import STREAM_INDEX
from sim.simulation import Simulation
from sim.spec.topology import Floats, Ints

HOST_TID = 1
SCHEDULE_TID = 2
FIRST_STREAM = 7
"""PyTorch's first stream of its own is number 7 in most profiles; the numbers only have to differ."""

RECEIVE = "receive"
LANES = (*STREAMS, *(f"{stream} {RECEIVE}" for stream in STREAMS if stream.startswith("pp_")))
"""A stream each; what arrives runs beside what the rank sends, so receives have streams of their own."""

NS_BY_S = 1e9
NS_BY_US = 1e3

NCCL_NAMES = {
    "all_reduce": "AllReduce_Sum",
    "all_gather": "AllGather",
    "reduce_scatter": "ReduceScatter_Sum",
    "all_to_all": "SendRecv",
    "broadcast": "Broadcast",
    "ring_shift": "SendRecv",
}


def write_traces(simulation: Simulation, folder: Path, ranks: Iterable[int] | None = None) -> list[Path]:
    """Write `rank<N>.json.gz` for each simulated rank (or those in `ranks`); the same step gives the same bytes.

    Raises SimError where one of `ranks` was not simulated: a folded run plays one rank of each class.
    """
    program = simulation.timeline.program
    index_by_rank = {rank.rank: index for index, rank in enumerate(program.ranks)}
    chosen = list(index_by_rank) if ranks is None else sorted(set(ranks))
    missing = [rank for rank in chosen if rank not in index_by_rank]
    if missing:
        allowed = ", ".join(str(rank) for rank in index_by_rank)
        raise SimError(
            f"no trace for rank {missing[0]}: it was not simulated (allowed {allowed}; full plays every rank)"
        )
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for rank in chosen:
        path = folder / f"rank{rank}.json.gz"
        text = "".join(_document(simulation, index_by_rank[rank]))
        path.write_bytes(gzip.compress(text.encode("ascii"), compresslevel=1, mtime=0))
        paths.append(path)
    return paths


def _document(simulation: Simulation, index: int) -> Iterator[str]:
    """The trace of one simulated rank as pieces of JSON."""
    gpu, rank = simulation.scenario.gpu, simulation.timeline.program.ranks[index]
    head = {
        "schemaVersion": 1,
        "deviceProperties": [
            {"id": 0, "name": gpu.name, "totalGlobalMem": int(gpu.memory_bytes), "numSms": gpu.num_sms}
        ],
        "distributedInfo": {"backend": "nccl", "rank": rank.rank, "world_size": simulation.result.num_gpus},
        "displayTimeUnit": "ms",
    }
    yield json.dumps(head)[:-1] + ', "traceEvents": [\n'
    events = [*_metadata(rank), *_annotations(simulation.timeline, index), *_kernels(simulation.timeline, index)]
    yield ",\n".join(events)
    yield "\n]}\n"


def _metadata(rank: SimulatedRank) -> Iterator[str]:
    """Names of the process and its threads, in the order in which they are shown."""
    title = f"rank {rank.rank}, pipeline rank {rank.pp_rank}"
    if rank.count > 1:
        title += f", stands for {rank.count} ranks"
    yield json.dumps({"ph": "M", "name": "process_name", "pid": rank.rank, "tid": 0, "args": {"name": title}})
    names = {HOST_TID: "host", SCHEDULE_TID: "schedule"}
    names |= {FIRST_STREAM + lane: f"stream {FIRST_STREAM + lane}: {name}" for lane, name in enumerate(LANES)}
    for tid, name in names.items():
        where = {"pid": rank.rank, "tid": tid}
        yield json.dumps({"ph": "M", "name": "thread_name", **where, "args": {"name": name}})
        yield json.dumps({"ph": "M", "name": "thread_sort_index", **where, "args": {"sort_index": tid}})


def _annotations(timeline: Timeline, index: int) -> Iterator[str]:
    """The step on the host's thread, and the schedule's actions on a thread of their own."""
    rank = timeline.program.ranks[index]
    step = _slice("user_annotation", "ProfilerStep#0", rank.rank, HOST_TID)
    yield f'{step} {_us(0)}, "dur": {_us(_ns(timeline.step_s))}}}'
    for name, start_s, end_s in actions(timeline, index):
        lead = _slice("user_annotation", name, rank.rank, SCHEDULE_TID)
        start = _ns(start_s)
        yield f'{lead} {_us(start)}, "dur": {_us(_ns(end_s) - start)}}}'


def actions(timeline: Timeline, index: int) -> Iterator[tuple[str, float, float]]:
    """(`0F3`, start, end) of each of a rank's actions on its compute stream, and `end of step`, s."""
    program = timeline.program
    rank = program.ranks[index]
    slots = np.arange(rank.first, rank.end)
    slots = slots[program.stream[slots] == STREAM_INDEX[COMPUTE]]
    blocks, first = np.unique(program.block[slots], return_index=True)
    last = np.append(first[1:], len(slots)) - 1
    starts, ends = timeline.start_s[slots[first]].tolist(), timeline.end_s[slots[last]].tolist()
    for block, start_s, end_s in zip(blocks.tolist(), starts, ends, strict=True):
        yield str(rank.actions[block] or "end of step"), start_s, end_s


def _ns(value_s: float) -> int:
    return round(value_s * NS_BY_S)


def _us(value_ns: int) -> str:
    return f"{value_ns / NS_BY_US:.3f}"


def _slice(category: str, name: str, pid: int, tid: int) -> str:
    """A complete event up to the value of `ts`."""
    fields = {"ph": "X", "cat": category, "name": name, "pid": pid, "tid": tid}
    return json.dumps(fields)[:-1] + ', "ts":'


@dataclass(frozen=True)
class _Events:
    """GPU work of one rank as columns: its template, lane, slot, start and end in whole ns."""

    template: Ints
    lane: Ints
    slot: Ints
    start_ns: Ints
    end_ns: Ints


def _kernels(timeline: Timeline, index: int) -> Iterator[str]:
    """Every kernel and, on the host's thread, its launch.

    The host of the model is always ahead: a kernel is launched when the one before it on its stream starts.
    """
    program = timeline.program
    rank = program.ranks[index]
    events, templates = _columns(timeline, index)
    launched_ns = np.empty(len(events.lane), dtype=np.int64)
    for lane in range(len(LANES)):
        mine = np.flatnonzero(events.lane == lane)
        launched_ns[mine] = np.concatenate([[0], events.start_ns[mine][:-1]])[: len(mine)]
    order = np.lexsort((events.lane, events.start_ns, launched_ns))
    labels = ['"' + str(action or "end of step") + '"' for action in rank.actions]
    labels.append('"receive"')
    block = np.where(events.lane < len(STREAMS), program.block[events.slot], len(labels) - 1)
    starts_us, lengths_us = events.start_ns / NS_BY_US, (events.end_ns - events.start_ns) / NS_BY_US
    columns = (events.template, launched_ns / NS_BY_US, starts_us, lengths_us, block)
    rows = zip(*(column[order].tolist() for column in columns), strict=True)
    launch = (
        _slice("cuda_runtime", "cudaLaunchKernel", rank.rank, HOST_TID)
        + ' %.3f, "dur": 0, "args": {"correlation": %d}}'
    )
    for correlation, (template, launched, start, length, action) in enumerate(rows, start=1):
        yield launch % (launched, correlation)
        yield templates[template] % (start, length, correlation, labels[action])


def _columns(timeline: Timeline, index: int) -> tuple[_Events, list[str]]:
    """All GPU work of a rank, stream by stream in order, and the templates that it is written with."""
    program = timeline.program
    rank = program.ranks[index]
    templates: list[str] = []
    parts = []
    own = np.arange(rank.first, rank.end)
    for lane, name in enumerate(LANES):
        stream = STREAM_INDEX[name.removesuffix(f" {RECEIVE}")]
        if lane < len(STREAMS):
            slots = own[program.stream[own] == stream]
        else:
            slots = np.flatnonzero((program.receiver == index) & (program.stream == stream))
            slots = slots[np.argsort(timeline.end_s[slots], kind="stable")]
        if not len(slots):
            continue
        _, example, inverse = np.unique(program.payload[slots], return_index=True, return_inverse=True)
        first_of = np.empty(len(example), dtype=np.int64)
        for position, slot in enumerate(slots[example].tolist()):
            first_of[position] = len(templates)
            templates += _templates(timeline, slot, rank.rank, lane)
        parts.append(_expanded(timeline, slots, first_of[inverse], lane))
    joined = [np.concatenate([getattr(part, name) for part in parts]) for name in _Events.__dataclass_fields__]
    return _Events(*joined), templates


def _expanded(timeline: Timeline, slots: Ints, template: Ints, lane: int) -> _Events:
    """One event for each kernel of each slot; neighbours share an edge, and the last ends with its slot. Kernels of an
    operation that took longer than alone (slowed, on a slow GPU) all took longer by the same factor."""
    program = timeline.program
    sizes = np.array([max(len(times), 1) for times in timeline.kernel_s], dtype=np.int64)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    edges: Floats = np.concatenate([np.cumsum(times) if times else np.zeros(1) for times in timeline.kernel_s])
    size = sizes[program.payload[slots]]
    slot = np.repeat(slots, size)
    first = np.cumsum(size) - size
    position = np.arange(len(slot)) - np.repeat(first, size)
    alone_s = edges[offsets[program.payload[slots]] + size - 1]
    took_s = timeline.end_s[slots] - timeline.start_s[slots]
    stretch = np.divide(took_s, alone_s, out=np.ones(len(slots)), where=alone_s > 0)
    end_s = timeline.start_s[slot] + edges[offsets[program.payload[slot]] + position] * np.repeat(stretch, size)
    end_s[first + size - 1] = timeline.end_s[slots]
    end_ns = np.round(end_s * NS_BY_S).astype(np.int64)
    start_ns = np.concatenate([[0], end_ns[:-1]])
    start_ns[first] = np.round(timeline.start_s[slots] * NS_BY_S).astype(np.int64)
    return _Events(np.repeat(template, size) + position, np.full(len(slot), lane), slot, start_ns, end_ns)


def _templates(timeline: Timeline, slot: int, pid: int, lane: int) -> list[str]:
    """One `%`-template for each kernel of a payload: start and length in us, correlation, action."""
    program = timeline.program
    payload = program.payloads[program.payload[slot]]
    named: list[tuple[str, dict[str, Any]]]
    match payload:
        case Compute():
            named = [
                (
                    kernel.name,
                    {"cause": "recompute" if payload.is_recompute else kernel.cause, "operation": payload.label},
                )
                for kernel in payload.kernels
            ]
        case Collective():
            flow = program.flows.types[program.flows.type[program.flow[slot]]]
            name = f"ncclDevKernel_{NCCL_NAMES[payload.op]}_{flow.algorithm.upper()}"
            call = {
                "kind": payload.kind,
                "Collective name": payload.op,
                "group": payload.group,
                "bytes": payload.nbytes,
            }
            named = [(name, call)]
        case Send():
            way = "recv" if lane >= len(STREAMS) else "send"
            named = [
                (
                    f"ncclDevKernel_SendRecv_{way}",
                    {"kind": payload.kind, "Collective name": way, "bytes": payload.nbytes},
                )
            ]
    texts = []
    for name, known in named:
        lead = _slice("kernel", name, pid, FIRST_STREAM + lane).replace("%", "%%")
        args = json.dumps({"device": 0, "stream": FIRST_STREAM + lane, **known}).replace("%", "%%")
        texts.append(f'{lead} %.3f, "dur": %.3f, "args": {args[:-1]}, "correlation": %d, "action": %s}}}}')
    return texts
