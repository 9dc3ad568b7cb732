"""Everything that can travel on the topology in a step: one flow for each (collective, group) and each pipeline hop."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from sim.cost.collectives import Pattern
from sim.cost.collectives.spread import Spread
from sim.cost.lines import Loaded, Way, latency_of, launch_of_sends_s, loaded
from sim.cost.network_time import choose
from sim.program.operations import PP_BACKWARD, PP_FORWARD, Collective, Payload, Send
from sim.spec.layout import Layout, groups, num_ranks
from sim.spec.network import Network
from sim.spec.topology import Fabric, Floats, Ints

CONTROL_BYTES = 4096
"""Messages up to this size take their latency and put no load on links: 0.1 us at 48 GB/s are left out, and the global
gradient norm, which joins all ranks, does not make every other flow look contended."""


@dataclass(frozen=True)
class FlowType:
    """What distinguishes flows on the same ranks: the stream, the collective and how it runs, and whether it carries
    only control messages. algorithm, protocol, piece, spread: see `sim.cost.lines.Way`."""

    stream: str
    op: str
    group: str
    algorithm: str
    is_control: bool = False
    protocol: str = "simple"
    piece: int = 0
    spread: Spread | None = None


@dataclass(frozen=True)
class Flows:
    """Flows by number, and the links that they load.

    A flow's progress is counted in bytes on the link that limits it when it is alone, so that two flows that meet on
    the link that limits both share it evenly.

    type: index into `types`.  latency_s: paid before the flow moves.  work_per_byte: progress that a byte of the
    message needs, 0 for control messages.  limit_per_s: progress/s that it never exceeds (see `sim.cost.lines.Loaded`),
    inf where only links limit it.  Rows (row_flow, row_link, row_load): bytes on the link per unit of progress.
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
                members = members_of(layout, payload.group)
                is_control = payload.nbytes <= CONTROL_BYTES
                loading = 0.0 if is_control else payload.nbytes
                way = choose(payload.op, loading, members, fabric, network, spread=payload.spread)
                types[payload] = FlowType(
                    payload.stream,
                    payload.op,
                    payload.group,
                    way.algorithm,
                    is_control,
                    way.protocol,
                    way.piece,
                    way.spread,
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


@dataclass(frozen=True)
class _Part:
    """Flows of one type, numbered from 0. Columns as in `Flows`; members: (flows, members) with roles (members,)."""

    latency_s: Floats
    work_per_byte: Floats
    limit_per_s: Floats
    row_flow: Ints
    row_link: Ints
    row_load: Floats
    members: Ints
    roles: Ints


def _loaded(kind: FlowType, layout: Layout, fabric: Fabric) -> tuple[Loaded, Ints, Ints]:
    """Loads of every flow of a type, and its members: (flows, members) and their roles (members,)."""
    if kind.stream in (PP_FORWARD, PP_BACKWARD):
        source, target = hops(layout, kind.stream)
        routes = fabric.routes(source, target)
        latency_s = routes.latency_s + launch_of_sends_s(source, target, fabric)
        sends = Pattern(routes.pair, routes.link, routes.share, latency_s)
        return Loaded(sends, np.full(len(source), np.inf)), np.stack([source, target], 1), np.arange(2)
    members = members_of(layout, kind.group)
    way = Way(kind.algorithm, kind.protocol, kind.piece, kind.spread)
    if kind.is_control:
        nothing = np.zeros(0, dtype=np.int64)
        pattern = Pattern(nothing, nothing, np.zeros(0), latency_of(way, kind.op, members, fabric))
        load = Loaded(pattern, np.full(len(members), np.inf))
    else:
        load = loaded(way, kind.op, members, fabric)
    return load, members, np.zeros(members.shape[1], dtype=np.int64)


def _part(kind: FlowType, layout: Layout, fabric: Fabric) -> _Part:
    load, members, roles = _loaded(kind, layout, fabric)
    pattern = load.pattern
    bytes_per_s = fabric.links.bytes_per_s[pattern.link]
    work = _work(len(members), pattern.group, pattern.bytes_per_byte, bytes_per_s)
    return _Part(
        latency_s=pattern.latency_s,
        work_per_byte=work,
        limit_per_s=np.where(work > 0, load.limit_bytes_per_s * np.where(work > 0, work, 1.0), np.inf),
        row_flow=pattern.group,
        row_link=pattern.link,
        row_load=pattern.bytes_per_byte / work[pattern.group],
        members=members,
        roles=roles,
    )


def flows(types: Iterable[FlowType], layout: Layout, fabric: Fabric) -> Flows:
    """All flows of these types on the topology."""
    ordered = tuple(types)
    assert num_ranks(layout) == fabric.num_gpus
    parts = [_part(kind, layout, fabric) for kind in ordered]
    sizes = [len(part.members) for part in parts]
    return Flows(
        types=ordered,
        type=np.repeat(np.arange(len(parts)), sizes),
        latency_s=_floats([part.latency_s for part in parts]),
        work_per_byte=_floats([part.work_per_byte for part in parts]),
        limit_per_s=_floats([part.limit_per_s for part in parts]),
        row_flow=_numbered([part.row_flow for part in parts], sizes),
        row_link=_ints([part.row_link for part in parts]),
        row_load=_floats([part.row_load for part in parts]),
        member_flow=_numbered([np.repeat(np.arange(len(p.members)), len(p.roles)) for p in parts], sizes),
        member_rank=_ints([part.members.ravel() for part in parts]),
        member_role=_ints([np.tile(part.roles, len(part.members)) for part in parts]),
        link_bytes_per_s=fabric.links.bytes_per_s,
        link_count=np.ones(len(fabric.links), dtype=np.int64),
        link_tier=fabric.links.tier,
        tiers=fabric.links.tiers,
    )


def _floats(parts: list[Floats]) -> Floats:
    return np.concatenate(parts) if parts else np.zeros(0)


def _ints(parts: list[Ints]) -> Ints:
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)


def _numbered(parts: list[Ints], sizes: list[int]) -> Ints:
    """The parts one after the other, each counted from the sum of the sizes before it."""
    joined = _ints(parts)
    end = base = 0
    for part, size in zip(parts, sizes, strict=True):
        start, end = end, end + len(part)
        joined[start:end] += base
        base += size
    return joined


def _work(num_flows: int, row_flow: Ints, row_load: Floats, row_bytes_per_s: Floats) -> Floats:
    """Load on the link that limits each flow alone (where several do, the greatest of their loads); 0 for control
    messages."""
    time = row_load / row_bytes_per_s
    slowest = np.zeros(num_flows)
    np.maximum.at(slowest, row_flow, time)
    limiting = np.where(time >= slowest[row_flow] * (1 - 1e-9), row_load, 0.0)
    work = np.zeros(num_flows)
    np.maximum.at(work, row_flow, limiting)
    return work
