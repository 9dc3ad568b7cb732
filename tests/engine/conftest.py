"""A pipeline of equal stages on a network that costs nothing: what closed forms are about."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from sim.cost.host import HostCosts
from sim.cost.kernels import Stream
from sim.engine.play import play
from sim.engine.timeline import Timeline
from sim.program.flows import Flows, FlowType
from sim.program.fold import fold
from sim.program.lower import assemble, hop_stream
from sim.program.operations import PP_BACKWARD, PP_FORWARD, Block, BlockBuilder, Send
from sim.program.pairing import side_by_side
from sim.program.ranks import Payloads, rank_table
from sim.program.roles import Role
from sim.program.schedule_file import schedule_of
from sim.program.table import Action, Cell, Kind, Pair, Table, actions_of, is_mirrored
from sim.spec.gpu import Gpu, StreamConstants, StreamRate
from sim.spec.layout import Layout

FREE = 1e30


def toy_gpu() -> Gpu:
    """A GPU that moves one byte a second, so that a Stream of n bytes takes n seconds."""
    constants = StreamConstants.model_construct(elementwise=StreamRate(hbm_frac=1.0), launch_s=0.0)
    return Gpu.model_construct().model_copy(update={"hbm_bytes_per_s": 1.0, "memory_bound": constants})


def _hops(p: int, v: int) -> Flows:
    """Every rank sends to the next and to the one before, each over a link of its own that costs nothing."""
    types = (FlowType(PP_FORWARD, "send", "pp", "send"), FlowType(PP_BACKWARD, "send", "pp", "send"))
    pairs = [(r, (r + step) % p, kind) for kind, step in enumerate((1, -1)) for r in range(p)]
    if v == 1:
        pairs = [(a, b, kind) for a, b, kind in pairs if abs(a - b) == 1 and b - a == (1, -1)[kind]]
    count = len(pairs)
    return Flows(
        types=types,
        type=np.array([kind for _, _, kind in pairs], dtype=np.int64),
        latency_s=np.zeros(count),
        work_per_byte=np.ones(count),
        limit_per_s=np.full(count, np.inf),
        row_flow=np.arange(count),
        row_link=np.arange(count),
        row_load=np.ones(count),
        member_flow=np.repeat(np.arange(count), 2),
        member_rank=np.array([rank for a, b, _ in pairs for rank in (a, b)], dtype=np.int64),
        member_role=np.tile([0, 1], count),
        link_bytes_per_s=np.full(count, FREE),
        link_count=np.ones(count, dtype=np.int64),
        link_tier=np.zeros(count, dtype=np.int64),
        tiers=("free",),
    )


def _block_of_cell(cell: Cell, m: int, layout: Layout, kernels: dict[Kind, tuple[Stream, ...]]) -> Block:
    blocks = [_block(action, m, layout, kernels) for action in actions_of([cell])]
    return side_by_side(*blocks) if isinstance(cell, Pair) else blocks[0]


def _block(action: Action, m: int, layout: Layout, kernels: dict[Kind, tuple[Stream, ...]]) -> Block:
    builder = BlockBuilder()
    builder.compute(str(action.kind), kernels[action.kind])
    is_copy = is_mirrored(action.microbatch, m, schedule_of(layout.schedule).placement)
    step = 1 if action.kind is Kind.F else -1
    stream = hop_stream(action.stage, action.stage + step, layout, is_copy=is_copy)
    if stream is not None and action.kind is not Kind.W:
        builder.communicate(Send(stream, 1.0))
    return builder.build()


def play_table(
    table: Table,
    v: int,
    forward_s: float,
    backward_s: float,
    *,
    weight_s: float = 0.0,
    schedule: str = "1f1b",
    parts: int = 1,
    host: HostCosts | None = None,
) -> Timeline:
    """Play a schedule's table; every stage takes the same time, in so many equal kernels each way, and communication
    costs nothing. weight_s: part of backward_s that W takes.  schedule: one with the table's placement of stages."""
    p = len(table)
    payloads = Payloads()
    kernels = {
        kind: tuple(Stream(str(kind), each_s / parts) for _ in range(parts))
        for kind, each_s in (
            (Kind.F, forward_s),
            (Kind.B, backward_s),
            (Kind.I, backward_s - weight_s),
            (Kind.W, weight_s),
        )
    }
    layout = Layout(pp=p, vpp=v, schedule=schedule)
    m = 1 + max(action.microbatch for row in table for action in actions_of(row))
    blocks = [[_block_of_cell(cell, m, layout, kernels) for cell in row] for row in table]
    tables = [rank_table(row, own, payloads, prefetch=0) for row, own in zip(table, blocks, strict=True)]
    flows = _hops(p, v)
    types = {item: FlowType(item.stream, "send", "pp", "send") for item in payloads.items if isinstance(item, Send)}
    ranks = np.arange(p)
    played = [Role(rank) for rank in range(p)]
    program = assemble(tables, played, payloads.items, types, fold(ranks, flows), ranks, "folded")
    return play(program, toy_gpu(), slows_compute=False, host=host)


@pytest.fixture
def playing() -> Callable[..., Timeline]:
    """`play_table` as a fixture."""
    return play_table
