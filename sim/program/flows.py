"""Everything that can travel on the topology in a step: one flow for each (collective, group) and each pipeline hop."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from sim.cost.collectives import Pattern
from sim.cost.network_time import LAUNCH_S, choose, pattern_of, share_in_node
from sim.program.operations import PP_BACKWARD, PP_FORWARD, Collective, Payload, Send
from sim.spec.layout import Layout, groups, num_ranks
from sim.spec.network import Network
from sim.spec.topology import Fabric, Floats, Ints

CONTROL_BYTES = 4096
"""Messages up to this size take their latency and put no load on links: 0.1 us at 48 GB/s are left out, and the global
gradient norm, which joins all ranks, does not make every other flow look contended."""


@dataclass(frozen=True)
class FlowType:
    """What distinguishes flows on the same ranks: the stream, the collective and its algorithm, and whether it carries
    only control messages."""

    stream: str
    op: str
    group: str
    algorithm: str
    is_control: bool = False


@dataclass(frozen=True)
class Flows:
    """Flows by number, and the links that they load.

    A flow's progress is counted in bytes on the link that limits it when it is alone, so that two flows that meet on
    the link that limits both share it evenly.

    type: index into `types`.  latency_s: paid before the flow moves.  work_per_byte: progress that a byte of the
    message needs, 0 for control messages.  limit_per_s: progress/s that it never exceeds (see `share_in_node`), inf
    between nodes.  Rows (row_flow, row_link, row_load): bytes on the link per unit of progress.
    Members (member_flow, member_rank, member_role): ranks that take part; role 0 for a group's members and for the
    sender of a pipeline hop, 1 for its receiver.
    link_bytes_per_s: capacity of each link.  link_count: how many links it stands for.
    """

    types: tuple[FlowType, ...]
    type: Ints
    latency_s: Floats
    work_per_byte: Floats
    limit_per_s: Floats
    row_flow: Ints
    row_link: Ints
    row_load: Floats
    member_flow: Ints
    member_rank: Ints
    member_role: Ints
    link_bytes_per_s: Floats
    link_count: Ints
    link_tier: Ints
    tiers: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.type)


def members_of(layout: Layout, group: str) -> Ints:
    """Groups of a collective's axis: (groups, members). `embedding` joins the first and the last pipeline rank."""
    if group == "embedding":
        return groups(layout, "pp")[:, [0, -1]]
    return groups(layout, group)


def flow_types(
    payloads: Iterable[Payload], layout: Layout, fabric: Fabric, network: Network
) -> dict[Payload, FlowType]:
    """The flow type of each payload that communicates; the algorithm is chosen by size here."""
    types: dict[Payload, FlowType] = {}
    for payload in payloads:
        match payload:
            case Collective():
                wanted = getattr(network.algorithms, payload.op)
                members = members_of(layout, payload.group)
                algorithm = choose(payload.op, payload.nbytes, members, fabric, wanted)
                types[payload] = FlowType(
                    payload.stream, payload.op, payload.group, algorithm, payload.nbytes <= CONTROL_BYTES
                )
            case Send():
                types[payload] = FlowType(payload.stream, "send", "pp", "send")
    return types


def hops(layout: Layout, stream: str) -> tuple[Ints, Ints]:
    """(source, target) ranks of the pipeline's hops; the last rank sends to the first only between chunks."""
    ring = groups(layout, "pp")
    source, target = ring, np.roll(ring, -1, axis=1)
    if layout.vpp == 1:
        source, target = source[:, :-1], target[:, :-1]
    if stream == PP_BACKWARD:
        source, target = target, source
    return source.ravel(), target.ravel()


def _pattern(kind: FlowType, layout: Layout, fabric: Fabric) -> tuple[Pattern, Ints, Ints]:
    """Load of every flow of a type, and its members: (flows, members) and their roles (members,)."""
    if kind.stream in (PP_FORWARD, PP_BACKWARD):
        source, target = hops(layout, kind.stream)
        routes = fabric.routes(source, target)
        return (
            Pattern(routes.pair, routes.link, routes.share, routes.latency_s),
            np.stack([source, target], 1),
            np.arange(2),
        )
    members = members_of(layout, kind.group)
    pattern = pattern_of(kind.algorithm, kind.op, members, fabric)
    if kind.is_control:
        nothing = np.zeros(0, dtype=np.int64)
        pattern = Pattern(nothing, nothing, np.zeros(0), pattern.latency_s)
    pattern = replace(pattern, latency_s=pattern.latency_s + LAUNCH_S)
    return pattern, members, np.zeros(members.shape[1], dtype=np.int64)


def flows(types: Iterable[FlowType], layout: Layout, fabric: Fabric) -> Flows:
    """All flows of these types on the topology."""
    ordered = tuple(types)
    assert num_ranks(layout) == fabric.num_gpus
    columns: dict[str, list[Ints]] = {name: [] for name in ("type", "row_flow", "row_link", "flow", "rank", "role")}
    loads: list[Floats] = []
    latencies: list[Floats] = []
    limits: list[Floats] = []
    base = 0
    for number, kind in enumerate(ordered):
        pattern, members, roles = _pattern(kind, layout, fabric)
        size = len(members)
        columns["type"].append(np.full(size, number))
        columns["row_flow"].append(pattern.group + base)
        columns["row_link"].append(pattern.link)
        columns["flow"].append(np.repeat(np.arange(size) + base, members.shape[1]))
        columns["rank"].append(members.ravel())
        columns["role"].append(np.tile(roles, size))
        loads.append(pattern.bytes_per_byte)
        latencies.append(pattern.latency_s)
        limits.append(_limit(kind, members, fabric))
        base += size
    joined = {name: _join(parts) for name, parts in columns.items()}
    row_load = np.concatenate(loads) if loads else np.zeros(0)
    work, lone_per_s = _alone(base, joined["row_flow"], row_load, fabric.links.bytes_per_s[joined["row_link"]])
    return Flows(
        types=ordered,
        type=joined["type"],
        latency_s=np.concatenate(latencies) if latencies else np.zeros(0),
        work_per_byte=work,
        limit_per_s=np.concatenate(limits) * lone_per_s if limits else np.zeros(0),
        row_flow=joined["row_flow"],
        row_link=joined["row_link"],
        row_load=row_load / work[joined["row_flow"]],
        member_flow=joined["flow"],
        member_rank=joined["rank"],
        member_role=joined["role"],
        link_bytes_per_s=fabric.links.bytes_per_s,
        link_count=np.ones(len(fabric.links), dtype=np.int64),
        link_tier=fabric.links.tier,
        tiers=fabric.links.tiers,
    )


def _join(parts: list[Ints]) -> Ints:
    return np.concatenate(parts).astype(np.int64) if parts else np.zeros(0, dtype=np.int64)


def _limit(kind: FlowType, members: Ints, fabric: Fabric) -> Floats:
    """Share of its lone rate that each flow reaches at most: (flows,), inf where nothing but links limits it."""
    node = fabric.node_of(members)
    is_inside = (node == node[:, :1]).all(axis=1) & (kind.op != "send")
    return np.where(is_inside, share_in_node(kind.op, members.shape[1]), np.inf)


def _alone(num_flows: int, row_flow: Ints, row_load: Floats, row_bytes_per_s: Floats) -> tuple[Floats, Floats]:
    """Load on the link that limits each flow alone (where several do, the greatest of their loads), and the progress/s
    of the flow then; 0 and inf for control messages."""
    time = row_load / row_bytes_per_s
    slowest = np.zeros(num_flows)
    np.maximum.at(slowest, row_flow, time)
    limits = time >= slowest[row_flow] * (1 - 1e-9)
    work = np.zeros(num_flows)
    np.maximum.at(work, row_flow[limits], row_load[limits])
    rate = np.full(num_flows, np.inf)
    np.divide(work, slowest, out=rate, where=slowest > 0)
    return work, rate
