"""What a step sends: volume, frequency and links of every kind of parallelism, before any time passes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sim.program.flows import Flows, FlowType, hops, members_of
from sim.program.operations import PP_BACKWARD, PP_FORWARD, Compute, Payload
from sim.program.program import Program
from sim.program.ranks import STREAM_INDEX
from sim.spec.layout import Layout
from sim.spec.scenario import Scenario
from sim.spec.topology import Fabric, Floats, Ints


@dataclass(frozen=True)
class TrafficRow:
    """All calls of one collective over the groups of one axis, or all hops of the pipeline in one direction.

    kind: of communication (tp, cp, ep, etp, dp_reduce, dp_gather, pp, ..).  group: the axis whose ranks take part.
    num_groups, group_size: groups of the real step, and ranks of each.  nodes_per_group: most nodes that one spans.
    min_nbytes, max_nbytes: of a call, as nccl-tests counts it (see `sim.cost.collectives.Pattern`).
    calls_per_step, bytes_per_step: of the rank that sends most.
    bytes_by_tier: bytes that all groups together put on the links of each tier of the topology in a step; none for
    control messages, which are priced by their latency and load no link.
    """

    kind: str
    op: str
    group: str
    algorithm: str
    protocol: str
    num_groups: int
    group_size: int
    nodes_per_group: int
    min_nbytes: float
    max_nbytes: float
    calls_per_step: int
    bytes_per_step: float
    bytes_by_tier: dict[str, float]


def traffic(program: Program, scenario: Scenario, fabric: Fabric) -> tuple[TrafficRow, ...]:
    """One row for each kind, collective, axis and algorithm, in the order of the streams."""
    nbytes = np.array([getattr(payload, "nbytes", 0.0) for payload in program.payloads])
    type_of = _type_of_payload(program)
    calls = _calls_by_rank(program)
    tiers = _bytes_by_type_and_tier(program, nbytes)
    rows = []
    for number, kind in enumerate(program.flows.types):
        chosen = np.flatnonzero(type_of == number)
        sent = calls[:, chosen] @ nbytes[chosen]
        busiest = int(np.argmax(sent))
        num_groups, group_size, nodes = _groups(kind, scenario.layout, fabric)
        rows.append(
            TrafficRow(
                kind=_kind(program.payloads[chosen[0]]),
                op=_op(kind),
                group=kind.group,
                algorithm=kind.algorithm,
                protocol=kind.protocol,
                num_groups=num_groups,
                group_size=group_size,
                nodes_per_group=nodes,
                min_nbytes=float(nbytes[chosen].min()),
                max_nbytes=float(nbytes[chosen].max()),
                calls_per_step=int(calls[busiest, chosen].sum()),
                bytes_per_step=float(sent[busiest]),
                bytes_by_tier=tiers[number],
            )
        )
    order = {kind: index for index, kind in enumerate(program.flows.types)}
    streams = [(STREAM_INDEX[kind.stream], order[kind]) for kind in program.flows.types]
    return tuple(row for _, row in sorted(zip(streams, rows, strict=True), key=lambda pair: pair[0]))


def _kind(payload: Payload) -> str:
    assert not isinstance(payload, Compute)
    return payload.kind


def _op(kind: FlowType) -> str:
    """The collective, and of one of experts, which; or the direction of a pipeline's hop."""
    names = {PP_FORWARD: "send forward", PP_BACKWARD: "send backward"}
    if kind.spread is not None:
        return f"{kind.op} {'combine' if kind.spread.is_combine else 'dispatch'}"
    return names.get(kind.stream, kind.op)


def _type_of_payload(program: Program) -> Ints:
    """Flow type of every payload: (payloads,), -1 for compute."""
    moves = program.flow >= 0
    type_of = np.full(len(program.payloads), -1, dtype=np.int64)
    type_of[program.payload[moves]] = program.flows.type[program.flow[moves]]
    return type_of


def _calls_by_rank(program: Program) -> Ints:
    """How often each simulated rank runs each payload: (ranks, payloads)."""
    size = len(program.payloads)
    cell = program.rank * size + program.payload
    counts: Ints = np.bincount(cell, minlength=len(program.ranks) * size).reshape(-1, size)
    return counts


def _bytes_by_type_and_tier(program: Program, nbytes: Floats) -> list[dict[str, float]]:
    """Bytes on all links of a tier, for each flow type; tiers that it does not cross are left out.

    A row of the flows stands for every link of its class, and its load for every flow of the class that crosses one.
    """
    flows: Flows = program.flows
    nodes = program.nodes()
    nodes = nodes[program.flow[nodes] >= 0]
    message = np.bincount(program.flow[nodes], weights=nbytes[program.payload[nodes]], minlength=len(flows))
    moved = message * flows.work_per_byte
    on_link = flows.row_load * flows.link_count[flows.row_link] * moved[flows.row_flow]
    size = len(flows.tiers)
    cell = flows.type[flows.row_flow] * size + flows.link_tier[flows.row_link]
    total = np.bincount(cell, weights=on_link, minlength=len(flows.types) * size).reshape(-1, size)
    return [{tier: value for tier, value in zip(flows.tiers, row, strict=True) if value > 0} for row in total.tolist()]


def _groups(kind: FlowType, layout: Layout, fabric: Fabric) -> tuple[int, int, int]:
    """Groups of a flow type, ranks of each, and the most nodes that one of them (or one hop) spans."""
    if kind.stream in (PP_FORWARD, PP_BACKWARD):
        members = np.stack(hops(layout, kind.stream), axis=1)
        num_groups, group_size = len(members_of(layout, "pp")), layout.pp
    else:
        members = members_of(layout, kind.group)
        num_groups, group_size = members.shape
    node = np.sort(fabric.node_of(members.ravel()).reshape(members.shape), axis=1)
    spanned = 1 + (np.diff(node, axis=1) > 0).sum(axis=1)
    return num_groups, group_size, int(spanned.max())
