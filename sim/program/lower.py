"""Scenario -> Program."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sim.errors import SimError
from sim.program.flows import Flows, FlowType, flow_types, flows
from sim.program.fold import Folding, fold, unfolded
from sim.program.operations import COMPUTE, PP_BACKWARD, PP_FORWARD, Block, Collective, Payload, Send
from sim.program.pairing import paired, side_by_side
from sim.program.program import Program, SimulatedRank
from sim.program.ranks import STREAM_INDEX, Payloads, RankTable, rank_table
from sim.program.schedule_file import schedule_of
from sim.program.shapes import BYTES, shapes
from sim.program.stage import (
    DEFAULT_PREFETCH_LAYERS,
    Hop,
    Unit,
    backward_block,
    end_block,
    forward_block,
    input_gradient_block,
    replication,
    units_of_stage,
    weight_gradient_block,
)
from sim.program.table import (
    RELEASES,
    Action,
    Cell,
    Kind,
    Pair,
    Table,
    actions_of,
    awaited,
    is_mirrored,
    rank_of,
    stages_of,
)
from sim.spec.conditions import Conditions, operation_factors, speeds
from sim.spec.layout import Layout, num_stages, pp_ranks
from sim.spec.scenario import Scenario
from sim.spec.topology import Fabric, Floats, Ints

Fidelity = Literal["full", "folded", "fused"]

MAX_OPERATIONS = 30_000_000
"""Operations that are played take about 0.4 KB each."""


def num_microbatches(scenario: Scenario) -> int:
    """global batch / (micro-batch x dp)."""
    assert scenario.layout.dp is not None
    return scenario.training.global_batch // (scenario.training.micro_batch * scenario.layout.dp)


def schedule_table(scenario: Scenario) -> Table:
    """The table of the scenario's schedule, in pairs where that hides the communication of experts."""
    layout = scenario.layout
    table = schedule_of(layout.schedule).table(layout.pp, layout.vpp, num_microbatches(scenario))
    return paired(table) if scenario.training.overlap.expert else table


def stages_of_rank(layout: Layout, pp_rank: int) -> tuple[int, ...]:
    """Virtual stages of a pipeline rank, by chunk, where the layout's schedule puts them."""
    return stages_of(pp_rank, layout.pp, layout.vpp, schedule_of(layout.schedule).placement)


def lower(scenario: Scenario, fabric: Fabric, fidelity: Fidelity) -> Program:
    """The operations of the scenario's step: of every rank (`full`) or of one for each class of like ranks (`folded`;
    `fused` too, where the engine plays runs of them as one event).

    Raises SimError for more than MAX_OPERATIONS.
    """
    payloads = Payloads()
    tables = _rank_tables(scenario, payloads)
    types = flow_types(payloads.items, scenario.layout, fabric, scenario.network)
    everything = flows(dict.fromkeys(types.values()), scenario.layout, fabric)
    rank_program = pp_ranks(scenario.layout)
    speed = speeds(scenario.conditions, len(rank_program), scenario.seed)
    if fidelity == "full":
        folding = unfolded(len(rank_program), everything)
    else:
        folding = fold(_unlike(rank_program, speed, scenario.conditions), everything)
    _refuse_what_is_too_large(tables, rank_program[folding.representative], _why_unfolded(scenario, fidelity))
    return _paced(assemble(tables, payloads.items, types, folding, rank_program, fidelity), scenario, speed)


def _why_unfolded(scenario: Scenario, fidelity: Fidelity) -> str:
    if fidelity == "full":
        return "full fidelity plays every rank"
    jitter = scenario.conditions.jitter
    return "with jitter no two ranks are alike" if jitter.per_rank or jitter.per_operation else "few ranks are alike"


def _refuse_what_is_too_large(tables: list[RankTable], pp_rank: Ints, why: str) -> None:
    """Raise SimError where a program would not fit in memory. pp_rank: (simulated ranks,)."""
    sizes = np.array([len(table.payload) for table in tables])
    num_operations = int(sizes[pp_rank].sum())
    if num_operations > MAX_OPERATIONS:
        raise SimError(
            f"too many operations to play: {why} (got {num_operations:,} operations of {len(pp_rank):,} ranks, "
            f"allowed up to {MAX_OPERATIONS:,})"
        )


def _unlike(rank_program: Ints, speed: Floats, conditions: Conditions) -> Ints:
    """A number for each rank, equal where ranks run the same operations in the same times: (ranks,)."""
    if conditions.jitter.per_operation:
        return np.arange(len(rank_program))
    if (speed == 1.0).all():
        return rank_program
    pairs = np.stack([rank_program.astype(np.float64), speed], axis=1)
    number: Ints = np.unique(pairs, axis=0, return_inverse=True)[1].ravel()
    return number


def _paced(program: Program, scenario: Scenario, speed: Floats) -> Program:
    """The program with the times of its kernels as the scenario's conditions make them."""
    conditions = scenario.conditions
    pace = 1.0 / speed[np.array([rank.rank for rank in program.ranks])][program.rank]
    if conditions.jitter.per_operation:
        for rank in program.ranks:
            own = np.arange(rank.first, rank.end)
            own = own[program.stream[own] == STREAM_INDEX[COMPUTE]]
            pace[own] *= operation_factors(conditions, scenario.seed, rank.rank, len(own))
    return replace(program, pace=pace, is_irregular=conditions.jitter.per_operation > 0)


def _rank_tables(scenario: Scenario, payloads: Payloads) -> list[RankTable]:
    """One table for each pipeline rank."""
    prefetch = scenario.training.prefetch_layers
    ahead = DEFAULT_PREFETCH_LAYERS if prefetch is None else prefetch
    blocks = _Blocks(scenario)
    tables = []
    for pp_rank, cells in enumerate(schedule_table(scenario)):
        sequence: list[Cell | None] = [*cells, None]
        tables.append(rank_table(sequence, blocks.of_rank(pp_rank, cells), payloads, prefetch=ahead))
    return tables


class _Blocks:
    """Blocks of actions, on whatever rank; those that do the same are one."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._rep = replication(scenario)
        self._shapes = shapes(scenario)
        s, layout = self._shapes, scenario.layout
        # The residual stream of a micro-batch, or its gradient.
        nbytes = float(BYTES * s.tokens_sp * scenario.model.hidden)
        scattered = scenario.stack.sends == "scattered" and layout.tp > 1 and not layout.sequence_parallel
        self._gather = Collective("tp", "all_gather", "tp", nbytes) if scattered else None
        nbytes /= layout.tp if scattered else 1
        self._sends = {stream: Send(stream, nbytes) for stream in (PP_FORWARD, PP_BACKWARD)}
        self._units: dict[Unit, Unit] = {}
        self._built: dict[tuple[object, ...], Block] = {}
        self._pairs: dict[tuple[int, int], Block] = {}

    def of_rank(self, pp_rank: int, cells: tuple[Cell, ...]) -> list[Block]:
        """A block for each cell of a pipeline rank, and the one that ends the step."""
        units = {stage: self._units_of(stage) for stage in stages_of_rank(self._scenario.layout, pp_rank)}
        actions = list(actions_of(cells))
        first = {action.stage: action for action in reversed(actions) if action.kind is Kind.F}
        last = {action.stage: action for action in actions if action.kind in RELEASES}

        def block(action: Action, *, delays: bool = False) -> Block:
            is_edge = action in (first[action.stage], last[action.stage])
            return self._block(units[action.stage], action.kind, self._hop(action), is_edge=is_edge, delays=delays)

        blocks = []
        for cell in cells:
            match cell:
                case Action():
                    blocks.append(block(cell))
                case Pair():
                    blocks.append(self._pair(block(cell.forward), block(cell.backward, delays=True)))
        return [*blocks, end_block(self._scenario, pp_rank, self._rep, units)]

    def _pair(self, forward: Block, backward: Block) -> Block:
        """Two blocks, which `_built` keeps, as one."""
        key = (id(forward), id(backward))
        if key not in self._pairs:
            self._pairs[key] = side_by_side(forward, backward)
        return self._pairs[key]

    def _units_of(self, stage: int) -> tuple[Unit, ...]:
        """Units of a stage, one object for all that are equal."""
        units = units_of_stage(self._scenario, stage, self._shapes)
        return tuple(self._units.setdefault(unit, unit) for unit in units)

    def _hop(self, action: Action) -> Hop:
        """What an action sends on, and gathers of what it got; nothing at the pipeline's ends and within a rank."""
        if action.kind is Kind.W:
            return Hop()
        step = 1 if action.kind is Kind.F else -1
        layout = self._scenario.layout
        is_copy = is_mirrored(
            action.microbatch, num_microbatches(self._scenario), schedule_of(layout.schedule).placement
        )
        stream = hop_stream(action.stage, action.stage + step, layout, is_copy=is_copy)
        comes = hop_stream(action.stage - step, action.stage, layout, is_copy=is_copy)
        return Hop(
            send=None if stream is None else self._sends[stream],
            gather=None if comes is None else self._gather,
        )

    def _block(self, units: tuple[Unit, ...], kind: Kind, hop: Hop, *, is_edge: bool, delays: bool) -> Block:
        key = (*map(id, units), kind, hop, is_edge, delays)
        if key not in self._built:
            self._built[key] = self._build(units, kind, hop, is_edge=is_edge, delays=delays)
        return self._built[key]

    def _build(self, units: tuple[Unit, ...], kind: Kind, hop: Hop, *, is_edge: bool, delays: bool) -> Block:
        rep, s, training = self._rep, self._shapes, self._scenario.training
        match kind:
            case Kind.F:
                return forward_block(units, rep, s, is_first=is_edge, hop=hop)
            case Kind.B:
                return backward_block(units, rep, s, training, is_last=is_edge, hop=hop, delays=delays)
            case Kind.I:
                return input_gradient_block(units, rep, s, training, hop=hop)
            case Kind.W:
                return weight_gradient_block(units, rep, is_last=is_edge)


def hop_stream(source: int, target: int, layout: Layout, *, is_copy: bool = False) -> str | None:
    """The stream on which virtual stage `source` sends to its neighbour `target`, by whether that lies on the next
    pipeline rank or on the one before; None where there is no such stage, or it lies on the same rank.

    is_copy: through the second copy of the model, where there are two.
    """
    if not (0 <= source < num_stages(layout) and 0 <= target < num_stages(layout)):
        return None
    placement = schedule_of(layout.schedule).placement
    if rank_of(source, layout.pp, placement) == rank_of(target, layout.pp, placement):
        return None
    is_reversed = is_copy or (placement == "v" and source // layout.pp % 2 == 1)
    return PP_FORWARD if (target > source) != is_reversed else PP_BACKWARD


def assemble(
    tables: list[RankTable],
    payloads: list[Payload],
    types: dict[Payload, FlowType],
    folding: Folding,
    rank_program: Ints,
    fidelity: str,
) -> Program:
    """Put the tables of the simulated ranks side by side and join what they do together."""
    ranks = _simulated_ranks(tables, folding, rank_program)
    mine = [tables[rank.pp_rank] for rank in ranks]
    flow_of = _FlowIndex(folding.flows)
    payload = np.concatenate([table.payload for table in mine])
    stream = np.concatenate([table.stream for table in mine])
    rank = np.repeat(np.arange(len(ranks)), [len(table.payload) for table in mine])
    type_of = np.array([flow_of.number[types[item]] if item in types else -1 for item in payloads], dtype=np.int64)
    flow = flow_of.flows(type_of[payload], rank)
    node = _join(payloads, payload, stream, rank, flow, flow_of.is_joint)
    edges = [(table.source + r.first, table.target + r.first) for table, r in zip(mine, ranks, strict=True)]
    receiver = np.full(len(payload), -1, dtype=np.int64)
    is_send = np.array([isinstance(item, Send) for item in payloads], dtype=bool)[payload]
    receiver[is_send] = flow_of.receiver[flow[is_send]]
    edges += _arrivals(tables, ranks, flow_of)
    return Program(
        payloads=tuple(payloads),
        ranks=ranks,
        payload=payload,
        stream=stream,
        rank=rank,
        block=np.concatenate([table.block for table in mine]),
        node=node,
        flow=flow,
        source=node[np.concatenate([source for source, _ in edges])],
        target=node[np.concatenate([target for _, target in edges])],
        receiver=receiver,
        is_beside=np.concatenate([table.is_beside for table in mine]),
        pace=np.ones(len(payload)),
        is_irregular=False,
        flows=folding.flows,
        fidelity=fidelity,
    )


def _simulated_ranks(tables: list[RankTable], folding: Folding, rank_program: Ints) -> tuple[SimulatedRank, ...]:
    ranks = []
    first = 0
    for rank, count in zip(folding.representative.tolist(), folding.multiplicity.tolist(), strict=True):
        pp_rank = int(rank_program[rank])
        table = tables[pp_rank]
        end = first + len(table.payload)
        ranks.append(SimulatedRank(rank, pp_rank, count, first, end, table.actions, table.shapes))
        first = end
    return tuple(ranks)


class _FlowIndex:
    """Which flow a simulated rank uses for each flow type, and who is at the other end of its sends.

    receiver: (flows,) the rank at the end of a pipeline hop, -1 for collectives.  is_joint: (flows,) collectives of
    several simulated ranks.
    """

    def __init__(self, flows: Flows) -> None:
        self.number = {kind: index for index, kind in enumerate(flows.types)}
        num_ranks = int(flows.member_rank.max()) + 1 if len(flows) else 1
        is_receiver = flows.member_role == 1
        flow, rank = flows.member_flow[~is_receiver], flows.member_rank[~is_receiver]
        self._table = np.full((len(flows.types), num_ranks), -1, dtype=np.int64)
        self._table[flows.type[flow], rank] = flow
        self.is_joint = np.bincount(flow, minlength=len(flows)) > 1
        sender = np.full(len(flows), -1, dtype=np.int64)
        sender[flow] = rank
        self.receiver = np.full(len(flows), -1, dtype=np.int64)
        self.receiver[flows.member_flow[is_receiver]] = flows.member_rank[is_receiver]
        hops = np.flatnonzero(self.receiver >= 0)
        streams = [flows.types[kind].stream for kind in flows.type[hops].tolist()]
        self.sender = dict(
            zip(zip(self.receiver[hops].tolist(), streams, strict=True), sender[hops].tolist(), strict=True)
        )

    def flows(self, type_of_slot: Ints, rank: Ints) -> Ints:
        """Flow of each slot, -1 for compute."""
        result = np.full(len(rank), -1, dtype=np.int64)
        moves = type_of_slot >= 0
        result[moves] = self._table[type_of_slot[moves], rank[moves]]
        assert (result[moves] >= 0).all(), "a rank communicates in a group that it is no member of"
        return result


def _join(
    payloads: list[Payload], payload: Ints, stream: Ints, rank: Ints, flow: Ints, is_joint: NDArray[np.bool_]
) -> Ints:
    """Node of each slot: the n-th calls of all simulated members of a group are one node."""
    node = np.arange(len(payload))
    if not is_joint.any():
        return node
    is_collective = np.array([isinstance(item, Collective) for item in payloads], dtype=bool)[payload]
    slots = np.flatnonzero(is_collective & is_joint[flow])
    # Calls of a rank on a stream are in the same order on every member, so they are matched by their number.
    key = flow[slots]
    order = np.lexsort((slots, key, rank[slots]))
    runs = np.stack([rank[slots], key], axis=1)[order]
    starts = np.flatnonzero(np.r_[True, (runs[1:] != runs[:-1]).any(axis=1)]) if len(slots) else np.zeros(0, np.int64)
    number = np.empty(len(slots), dtype=np.int64)
    lengths = np.diff(np.r_[starts, len(slots)])
    number[order] = np.arange(len(slots)) - np.repeat(starts, lengths)
    call = key * (len(payload) + 1) + number
    _, first, inverse = np.unique(call, return_index=True, return_inverse=True)
    node[slots] = slots[first[inverse]]
    assert (payload[node[slots]] == payload[slots]).all(), "members of a group call different collectives"
    assert (stream[node[slots]] == stream[slots]).all()
    return node


def _arrivals(
    tables: list[RankTable], ranks: tuple[SimulatedRank, ...], flow_of: _FlowIndex
) -> list[tuple[Ints, Ints]]:
    """Edges from each send to the operations of the receiver that consume it."""
    local: dict[tuple[int, str], tuple[int, Ints, Ints]] = {}
    pp = len(tables)
    num_stages = 1 + max(action.stage for table in tables for action in table.entries)
    edges = []
    for index, rank in enumerate(ranks):
        for stream, step in ((PP_FORWARD, -1), (PP_BACKWARD, 1)):
            sender_pp = (rank.pp_rank + step) % pp
            key = (rank.pp_rank, stream)
            if key not in local:
                local[key] = (sender_pp, *_matched(tables[sender_pp], tables[rank.pp_rank], stream, num_stages))
            _, sent, consumed = local[key]
            if len(sent):
                sender = ranks[flow_of.sender[index, stream]]
                assert sender.pp_rank == sender_pp
                edges.append((sent + sender.first, consumed + rank.first))
    return edges


def _matched(sender: RankTable, receiver: RankTable, stream: str, num_stages: int) -> tuple[Ints, Ints]:
    """(send, consuming operation) pairs between two pipeline ranks on a stream, matched by stage and micro-batch."""
    pairs = []
    for action, entries in receiver.entries.items():
        for source in awaited(action, num_stages):
            send = sender.sends.get(source)
            if send is not None and sender.stream[send] == STREAM_INDEX[stream]:
                pairs += [(send, entry) for entry in entries]
    table = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return table[:, 0], table[:, 1]
