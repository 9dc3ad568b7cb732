"""Scenario -> Program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sim.errors import SimError
from sim.program.flows import Flows, FlowType, flow_types, flows
from sim.program.fold import Folding, fold, unfolded
from sim.program.operations import COMPUTE, PP_BACKWARD, PP_FORWARD, Block, Collective, Payload, Send
from sim.program.pairing import paired, side_by_side
from sim.program.pass_costs import rank_costs
from sim.program.program import Program, SimulatedRank
from sim.program.ranks import STREAM_INDEX, Payloads, RankTable, rank_table
from sim.program.replication import replication
from sim.program.roles import EVEN, Place, Role, roles
from sim.program.schedule_file import schedule_of
from sim.program.schedules.zb_auto import AutomaticZeroBubble
from sim.program.shapes import BYTES, Shapes, shapes
from sim.program.stage import (
    DEFAULT_PREFETCH_LAYERS,
    Hop,
    Unit,
    backward_block,
    end_block,
    forward_block,
    input_gradient_block,
    units_of_stage,
    weight_gradient_block,
)
from sim.program.table import (
    RELEASES,
    SCHEDULES,
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
from sim.spec.layout import Layout, num_stages
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
    """The table of the scenario's schedule, found for the times of its passes where it depends on them, and in pairs
    where that hides the communication of experts."""
    layout = scenario.layout
    schedule = schedule_of(layout.schedule)
    if isinstance(schedule, AutomaticZeroBubble):
        schedule = schedule.fitted(rank_costs(scenario))
    numbers = (layout.pp, layout.vpp, num_microbatches(scenario))
    # A schedule that is made for the scenario is asked for once in a while only.
    is_shared = layout.schedule in list(SCHEDULES) and not isinstance(schedule, AutomaticZeroBubble)
    table = _table(layout.schedule, *numbers) if is_shared else schedule.table(*numbers)
    return paired(table) if scenario.training.overlap.expert else table


@lru_cache(maxsize=4)
def _table(schedule: str, p: int, v: int, m: int) -> Table:
    """Of a registered schedule; kept, as checks, memory and lowering of many layouts of a pipeline ask for the same."""
    return SCHEDULES[schedule].table(p, v, m)


def stages_of_rank(layout: Layout, pp_rank: int) -> tuple[int, ...]:
    """Virtual stages of a pipeline rank, by chunk, where the layout's schedule puts them."""
    return stages_of(pp_rank, layout.pp, layout.vpp, schedule_of(layout.schedule).placement)


def lower(scenario: Scenario, fabric: Fabric, fidelity: Fidelity) -> Program:
    """The operations of the scenario's step: of every rank (`full`) or of one for each class of like ranks (`folded`;
    `fused` too, where the engine plays runs of them as one event).

    Raises SimError for more than MAX_OPERATIONS.
    """
    payloads = Payloads()
    played, rank_role = roles(scenario)
    tables = _rank_tables(scenario, played, payloads)
    types = flow_types(payloads.items, scenario.layout, fabric, scenario.network)
    everything = flows(dict.fromkeys(types.values()), scenario.layout, fabric)
    speed = speeds(scenario.conditions, len(rank_role), scenario.seed)
    if fidelity == "full":
        folding = unfolded(len(rank_role), everything)
    else:
        folding = fold(_unlike(rank_role, speed, scenario.conditions), everything)
    _refuse_what_is_too_large(tables, rank_role[folding.representative], _why_unfolded(scenario, fidelity))
    step = assemble(tables, played, payloads.items, types, folding, rank_role, fidelity)
    return _paced(step, scenario, speed)


def _why_unfolded(scenario: Scenario, fidelity: Fidelity) -> str:
    if fidelity == "full":
        return "full fidelity plays every rank"
    jitter = scenario.conditions.jitter
    return "with jitter no two ranks are alike" if jitter.per_rank or jitter.per_operation else "few ranks are alike"


def _refuse_what_is_too_large(tables: list[RankTable], role: Ints, why: str) -> None:
    """Raise SimError where a program would not fit in memory. role: (simulated ranks,) index into `tables`."""
    sizes = np.array([len(table.payload) for table in tables])
    num_operations = int(sizes[role].sum())
    if num_operations > MAX_OPERATIONS:
        raise SimError(
            f"too many operations to play: {why} (got {num_operations:,} operations of {len(role):,} ranks, "
            f"allowed up to {MAX_OPERATIONS:,})"
        )


def _unlike(rank_role: Ints, speed: Floats, conditions: Conditions) -> Ints:
    """A number for each rank, equal where ranks run the same operations in the same times: (ranks,)."""
    if conditions.jitter.per_operation:
        return np.arange(len(rank_role))
    if (speed == 1.0).all():
        return rank_role
    pairs = np.stack([rank_role.astype(np.float64), speed], axis=1)
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


def _rank_tables(scenario: Scenario, played: Sequence[Role], payloads: Payloads) -> list[RankTable]:
    """One table for each role."""
    prefetch = scenario.training.prefetch_layers
    ahead = DEFAULT_PREFETCH_LAYERS if prefetch is None else prefetch
    blocks = _Blocks(scenario)
    schedule = schedule_table(scenario)
    tables = []
    for role in played:
        cells = schedule[role.pp_rank]
        sequence: list[Cell | None] = [*cells, None]
        tables.append(rank_table(sequence, blocks.of_role(role, cells), payloads, prefetch=ahead))
    return tables


class _Blocks:
    """Blocks of actions, on whatever rank; those that do the same are one."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._rep = replication(scenario)
        self._shapes: dict[Place, Shapes] = {}
        s, layout = self._shapes_of(EVEN), scenario.layout
        # The residual stream of a micro-batch, or its gradient.
        nbytes = float(BYTES * s.tokens_sp * scenario.model.hidden)
        scattered = scenario.stack.sends == "scattered" and layout.tp > 1 and not layout.sequence_parallel
        self._gather = Collective("tp", "all_gather", "tp", nbytes) if scattered else None
        nbytes /= layout.tp if scattered else 1
        self._sends = {stream: Send(stream, nbytes) for stream in (PP_FORWARD, PP_BACKWARD)}
        overlaps = scenario.training.overlap.pipeline
        self._blocks_sends = layout.schedule in scenario.stack.blocking_sends if overlaps is None else not overlaps
        self._units: dict[Unit, Unit] = {}
        self._built: dict[tuple[object, ...], Block] = {}
        self._pairs: dict[tuple[int, int], Block] = {}

    def of_role(self, role: Role, cells: tuple[Cell, ...]) -> list[Block]:
        """A block for each cell of a rank, and the one that ends the step."""
        s = self._shapes_of(role.place)
        units = {stage: self._units_of(stage, s) for stage in stages_of_rank(self._scenario.layout, role.pp_rank)}
        actions = list(actions_of(cells))
        first = {action.stage: action for action in reversed(actions) if action.kind is Kind.F}
        last = {action.stage: action for action in actions if action.kind in RELEASES}

        def block(action: Action, *, delays: bool = False) -> Block:
            is_edge = action in (first[action.stage], last[action.stage])
            return self._block(units[action.stage], action.kind, self._hop(action), s, is_edge=is_edge, delays=delays)

        blocks = []
        for cell in cells:
            match cell:
                case Action():
                    blocks.append(block(cell))
                case Pair():
                    blocks.append(self._pair(block(cell.forward), block(cell.backward, delays=True)))
        return [*blocks, end_block(self._scenario, role.pp_rank, self._rep, units)]

    def _shapes_of(self, place: Place) -> Shapes:
        if place not in self._shapes:
            self._shapes[place] = shapes(self._scenario, place)
        return self._shapes[place]

    def _pair(self, forward: Block, backward: Block) -> Block:
        """Two blocks, which `_built` keeps, as one."""
        key = (id(forward), id(backward))
        if key not in self._pairs:
            self._pairs[key] = side_by_side(forward, backward)
        return self._pairs[key]

    def _units_of(self, stage: int, s: Shapes) -> tuple[Unit, ...]:
        """Units of a stage, one object for all that are equal."""
        units = units_of_stage(self._scenario, stage, s)
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
            blocks=self._blocks_sends and stream is not None,
        )

    def _block(self, units: tuple[Unit, ...], kind: Kind, hop: Hop, s: Shapes, *, is_edge: bool, delays: bool) -> Block:
        key = (*map(id, units), kind, hop, id(s), is_edge, delays)
        if key not in self._built:
            self._built[key] = self._build(units, kind, hop, s, is_edge=is_edge, delays=delays)
        return self._built[key]

    def _build(self, units: tuple[Unit, ...], kind: Kind, hop: Hop, s: Shapes, *, is_edge: bool, delays: bool) -> Block:
        rep, training = self._rep, self._scenario.training
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
    played: Sequence[Role],
    payloads: list[Payload],
    types: dict[Payload, FlowType],
    folding: Folding,
    rank_role: Ints,
    fidelity: str,
) -> Program:
    """Put the tables of the simulated ranks side by side and join what they do together. tables: one for each role that
    is `played`.  rank_role: (ranks,) index into them."""
    ranks = _simulated_ranks(tables, folding, played, rank_role)
    mine = [tables[role] for role in rank_role[folding.representative].tolist()]
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
    edges += _arrivals(mine, ranks, flow_of)
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


def _simulated_ranks(
    tables: list[RankTable], folding: Folding, played: Sequence[Role], rank_role: Ints
) -> tuple[SimulatedRank, ...]:
    ranks = []
    first = 0
    for rank, count in zip(folding.representative.tolist(), folding.multiplicity.tolist(), strict=True):
        role = int(rank_role[rank])
        table = tables[role]
        end = first + len(table.payload)
        ranks.append(SimulatedRank(rank, played[role].pp_rank, count, first, end, table.actions, table.shapes))
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
    """Edges from each send to the operations of the receiver that consume it. tables: of each simulated rank."""
    matched: dict[tuple[int, int, str], tuple[Ints, Ints]] = {}
    num_stages = 1 + max(action.stage for table in tables for action in table.entries)
    edges = []
    for (index, stream), sender in flow_of.sender.items():
        key = (id(tables[sender]), id(tables[index]), stream)
        if key not in matched:
            matched[key] = _matched(tables[sender], tables[index], stream, num_stages)
        sent, consumed = matched[key]
        edges.append((sent + ranks[sender].first, consumed + ranks[index].first))
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
