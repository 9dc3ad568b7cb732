"""The cluster: two nodes, the switches above them, and which communication runs on which links."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import FancyBboxPatch, Rectangle

from sim import units
from sim.engine.timeline import Timeline
from sim.report.figures import FIGURES
from sim.report.figures.style import FAINT, INK, PAPER, sheet
from sim.report.tables import short_names
from sim.report.words import COMMUNICATION, KINDS, Group
from sim.simulation import Simulation
from sim.spec.topology import Fabric, Ints

NODES_DRAWN = 2
GPUS_DRAWN = 8
SPINES_DRAWN = 4

GAPS = {"nic": 1.0, "pcieswitch": 1.0, "root": 1.0, "leaf": 1.4, "router": 1.4}
"""Height of a kind of nodes above the one before it; NVSwitches stand below GPUs, which are at 1."""
OTHER_GAP = 1.2
SIZES = {
    "nvswitch": (4.0, 0.36),
    "gpu": (0.74, 0.46),
    "nic": (0.62, 0.34),
    "pcieswitch": (2.2, 0.36),
    "root": (2.2, 0.36),
    "leaf": (0.9, 0.38),
}
OTHER_SIZE = (1.3, 0.38)
PLURALS = {"nvswitch": "NVSwitch groups", "gpu": "GPUs", "nic": "NICs", "leaf": "leaves"}
IN_SERVER = ("gpu", "nvswitch", "nic", "pcieswitch", "root")
GPU_COLOUR, SWITCH_COLOUR = "#B5DDF5", "#C4C7CB"
NODE_GAP = 1.6
NOTE_GAP = 0.62

TIERS = {
    "nvlink": "NVLink, GPU to NVSwitch",
    "pcie": "PCIe, GPU to NIC",
    "nic": "network, NIC to leaf",
    "spine": "leaf to spine",
    "core": "spine to core",
    "local": "router to router of a group",
    "global": "group to group",
}
"""What tiers are called; others are by the kinds that they join."""

PLACES = {
    "core": "over cores",
    "spine": "over leaves and spines",
    "global": "between groups",
    "local": "over routers",
    "nic": "over leaves",
    "host": "over PCIe",
    "pcie": "over PCIe",
    "nvlink": "on NVLink",
}
"""Where communication runs that reaches a tier: the first of these that it does."""


def bytes_by_tier(timeline: Timeline) -> dict[str, dict[Group, float]]:
    """Bytes that each group of communication put on all links of a tier in the step."""
    flows = timeline.program.flows
    streams = [kind.stream for kind in flows.types]
    found: dict[str, dict[Group, float]] = {}
    row_bytes = flows.row_load * timeline.moved[flows.row_flow] * flows.link_count[flows.row_link]
    row_type, row_tier = flows.type[flows.row_flow], flows.link_tier[flows.row_link]
    for group in COMMUNICATION:
        numbers = [number for number, stream in enumerate(streams) if group_of(stream) is group]
        mine = np.isin(row_type, numbers)
        sums = np.bincount(row_tier[mine], weights=row_bytes[mine], minlength=len(flows.tiers)).tolist()
        for tier, nbytes in zip(flows.tiers, sums, strict=True):
            if nbytes > 0:
                found.setdefault(tier, {})[group] = nbytes
    return found


def group_of(stream: str) -> Group:
    """Group of a communication stream; the pipeline has two."""
    return KINDS["pp" if stream.startswith("pp_") else stream][0]


@dataclass(frozen=True)
class Sketch:
    """What is drawn of a fabric: numbers of the nodes, and the links among them, by tier.

    ends: kinds that each tier joins.  server: node of each GPU drawn.  crowd: how many nodes of its kind stand over
    one place.
    """

    position: dict[int, tuple[float, float]]
    kind: dict[int, str]
    name: dict[int, str]
    links: dict[str, list[tuple[int, int]]]
    hidden: dict[str, int]
    ends: dict[str, tuple[str, str]]
    server: dict[int, int]
    crowd: dict[str, int]


def sketch(fabric: Fabric) -> Sketch:
    """Two nodes with at most eight GPUs each, the leaves that they reach, and a few spines."""
    names = fabric.node_names()
    kinds = [name.rstrip("0123456789") for name in names]
    gpus = _gpus(fabric)
    shown = _shown(fabric, kinds, gpus)
    links = fabric.links
    is_drawn = np.isin(links.source, shown) & np.isin(links.target, shown) & (links.target > links.source)
    drawn = zip(
        links.source[is_drawn].tolist(), links.target[is_drawn].tolist(), links.tier[is_drawn].tolist(), strict=True
    )
    by_tier: dict[str, list[tuple[int, int]]] = {}
    for source, target, tier in drawn:
        by_tier.setdefault(links.tiers[tier], []).append((source, target))
    servers = dict(zip(gpus.tolist(), fabric.node_of(gpus).tolist(), strict=True))
    kind = {number: kinds[number] for number in shown}
    across, crowd = _across(kind, servers, [pair for pairs in by_tier.values() for pair in pairs])
    up = heights(dict.fromkeys(kinds))
    return Sketch(
        position={number: (across[number], up[kinds[number]]) for number in shown},
        kind=kind,
        name={number: names[number] for number in shown},
        links=by_tier,
        hidden={each: kinds.count(each) - sum(kinds[number] == each for number in shown) for each in up},
        ends=_ends(fabric, kinds),
        server=servers,
        crowd=crowd,
    )


def _gpus(fabric: Fabric) -> Ints:
    """GPUs of the first and of the last node, which shows whether leaves are shared by all nodes."""
    num_nodes = min(-(-fabric.num_gpus // fabric.gpus_per_node), NODES_DRAWN)
    last_node = int(fabric.node_of(np.array([fabric.num_gpus - 1]))[0])
    size = min(fabric.gpus_per_node, GPUS_DRAWN)
    return np.concatenate([node * fabric.gpus_per_node + np.arange(size) for node in [0, last_node][:num_nodes]])


def _shown(fabric: Fabric, kinds: Sequence[str], gpus: Ints) -> list[int]:
    """The GPUs and, kind by kind, what they reach upwards; few of what stands above leaves."""
    links = fabric.links
    shown: list[int] = gpus.tolist()
    order = list(dict.fromkeys(kinds))
    place = np.array([order.index(kind) for kind in kinds])
    level = gpus
    while len(level):
        is_up = np.isin(links.source, level) & (place[links.target] > place[links.source])
        above = np.unique(links.target[is_up])
        above = above[~np.isin(above, shown)]
        if len(above) > SPINES_DRAWN and kinds[int(above[-1])] not in (*IN_SERVER, *GAPS):
            above = above[np.linspace(0, len(above) - 1, SPINES_DRAWN).astype(np.int64)]
        shown += above.tolist()
        level = above
    return shown


def heights(kinds: Iterable[str]) -> dict[str, float]:
    """Height of each kind: NVSwitches below GPUs, the others above them in their order."""
    found: dict[str, float] = {}
    top = 1.0
    for kind in kinds:
        if kind not in ("gpu", "nvswitch"):
            top += GAPS.get(kind, OTHER_GAP)
        found[kind] = {"gpu": 1.0, "nvswitch": 0.0}.get(kind, top)
    return found


def _across(
    kind: dict[int, str], servers: dict[int, int], links: Sequence[tuple[int, int]]
) -> tuple[dict[int, float], dict[str, int]]:
    """GPUs side by side; what is in a server above or below the middle of its own; other switches evenly.

    Also how many nodes of a kind stand over one place, side by side.
    """
    x: dict[int, float] = {}
    order = sorted(set(servers.values()))
    for index, gpu in enumerate(servers):
        x[gpu] = index + NODE_GAP * order.index(servers[gpu])
    width = max(x.values()) + 1
    lower: dict[int, list[int]] = {}
    for low, high in links:
        lower.setdefault(high, []).append(low)
    crowd: dict[str, int] = {}
    for each in list(dict.fromkeys(kind.values()))[1:]:
        members = [number for number, own in kind.items() if own == each]
        if each in IN_SERVER:
            middle = {number: float(np.mean([x[low] for low in lower[number] if low in x])) for number in members}
            alike = Counter(middle.values())
            crowd[each] = max(alike.values())
            seen: Counter[float] = Counter()
            for number in members:
                at = middle[number]
                x[number] = at + (seen[at] - (alike[at] - 1) / 2) / crowd[each]
                seen[at] += 1
        else:
            for index, number in enumerate(members):
                x[number] = (index + 0.5) * width / len(members) - 0.5
    return x, crowd


@final
class Topology:
    """Schematic of the cluster with the communication of the best layout on it."""

    title = "Which communication runs on which links"
    caption = (
        "The first and the last node of the cluster and the switches that join them; each tier's lines are in the "
        "colour of the communication that put most bytes on it. Rates are the datasheet's for one "
        "direction; bytes are those of all links of the tier in one step."
    )
    place = 5

    def applies(self, simulations: Sequence[Simulation]) -> bool:
        """Always."""
        return len(simulations) > 0

    def draw(self, simulations: Sequence[Simulation]) -> Canvas:
        """Fabric of the first simulation."""
        best = simulations[0]
        drawing = sketch(best.fabric)
        traffic = bytes_by_tier(best.timeline)
        notes = _note_heights(drawing)
        top = max(*(y for _, y in drawing.position.values()), *notes.values(), 1.0)
        right = max(x for x, _ in drawing.position.values()) + 0.9
        canvas, (axes,) = sheet(0.9 + 0.78 * (top + 1))
        axes.set_axis_off()
        axes.set_xlim(-1.0, right + max(0.55 * right, 9.0))
        axes.set_ylim(-0.75, top + 0.4)
        for tier, links in drawing.links.items():
            segments = [_line(drawing.position[source], drawing.position[target]) for source, target in links]
            loads = traffic.get(tier, {})
            colour = max(loads, key=lambda group: loads[group]).colour if loads else FAINT
            axes.add_collection(LineCollection(segments, colors=colour, linewidths=1.1, zorder=1))
        _servers(axes, drawing)
        for number, (x, y) in drawing.position.items():
            _box(axes, drawing, number, x, y)
        for tier, (lower, upper) in drawing.ends.items():
            text = TIERS.get(tier) if _is_known(drawing) else None
            place = (text or f"{tier}, {lower} to {upper}", right, notes[tier])
            _note(axes, best.fabric, tier, traffic.get(tier, {}), place)
        hidden = [f"{count:,} {PLURALS.get(kind, f'{kind}s')}" for kind, count in drawing.hidden.items() if count]
        if hidden:
            axes.text(-0.6, -0.62, f"not drawn: {', '.join(hidden)}", fontsize=7.5, va="center")
        axes.set_title(_point(best, traffic))
        return canvas


def _line(start: tuple[float, float], end: tuple[float, float]) -> list[tuple[float, float]]:
    """A straight line; between neighbours of equal height an arc below them."""
    if start[1] != end[1]:
        return [start, end]
    turn = np.linspace(0, np.pi, 13)
    reach = abs(end[0] - start[0])
    depth = 0.35 + 0.6 * (1 - np.exp(-reach / 8))
    middle, half = (start[0] + end[0]) / 2, (end[0] - start[0]) / 2
    points: list[list[float]] = np.stack([middle - half * np.cos(turn), start[1] - depth * np.sin(turn)], 1).tolist()
    return [(x, y) for x, y in points]


def _is_known(drawing: Sketch) -> bool:
    """Whether tiers have their usual ends: NICs between GPUs and leaves or routers, no PCIe switches."""
    kinds = set(drawing.kind.values())
    return "pcieswitch" not in kinds and bool({"nvswitch", "nic"} & kinds)


def _ends(fabric: Fabric, kinds: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Kinds that the links of each tier join; of those that have links."""
    links = fabric.links
    tiers, first = np.unique(links.tier, return_index=True)
    rows = zip(tiers.tolist(), links.source[first].tolist(), links.target[first].tolist(), strict=True)
    return {links.tiers[tier]: (kinds[source], kinds[target]) for tier, source, target in rows}


def _note_heights(drawing: Sketch) -> dict[str, float]:
    """Height of each tier's note: the middle of its links (the top, where none is drawn), clear of the one below."""
    top = max(y for _, y in drawing.position.values())
    middle = dict.fromkeys(drawing.ends, top)
    middle |= {tier: sum(drawing.position[end][1] for end in links[0]) / 2 for tier, links in drawing.links.items()}
    found: dict[str, float] = {}
    least = -np.inf
    for tier in sorted(middle, key=lambda each: middle[each]):
        found[tier] = max(middle[tier], least)
        least = found[tier] + NOTE_GAP
    return found


def _box(axes: Axes, drawing: Sketch, number: int, x: float, y: float) -> None:
    """A GPU or NIC with its number, a switch with its name."""
    kind = drawing.kind[number]
    width, height = SIZES.get(kind, OTHER_SIZE)
    width /= drawing.crowd.get(kind, 1)
    name = drawing.name[number]
    label = name.removeprefix(kind) if kind in ("gpu", "nic") else name
    style = "round,pad=0,rounding_size=0.06"
    corner = (x - width / 2, y - height / 2)
    colour = GPU_COLOUR if kind == "gpu" else SWITCH_COLOUR
    axes.add_patch(
        FancyBboxPatch(corner, width, height, style, facecolor=colour, edgecolor=PAPER, linewidth=0.6, zorder=2)
    )
    axes.text(x, y, label, ha="center", va="center", fontsize=6.8, color="black", zorder=3)


def _servers(axes: Axes, drawing: Sketch) -> None:
    """A frame around everything that is built into one server."""
    ys = [y for number, (_, y) in drawing.position.items() if drawing.kind[number] in IN_SERVER]
    for server in sorted(set(drawing.server.values())):
        mine = [drawing.position[gpu][0] for gpu, own in drawing.server.items() if own == server]
        corner = (min(mine) - 0.62, min(ys) - 0.4)
        size = (max(mine) - min(mine) + 1.24, max(ys) - min(ys) + 0.76)
        style = "round,pad=0,rounding_size=0.12"
        axes.add_patch(FancyBboxPatch(corner, *size, style, facecolor="none", edgecolor=INK, linewidth=0.9))


def _note(axes: Axes, fabric: Fabric, tier: str, loads: dict[Group, float], place: tuple[str, float, float]) -> None:
    """Beside a tier: its rate, and who uses it how much. place: what it is called, and where the note stands."""
    what, x, y = place
    links = fabric.links
    is_mine = links.tier == links.tiers.index(tier)
    rate = units.text(float(links.wire_bytes_per_s[is_mine].max()), "bytes/s")
    axes.text(
        x, y + 0.15, f"{what}: {rate} on each of {int(is_mine.sum()):,}", fontsize=8.5, fontweight="bold", va="center"
    )
    if not loads:
        axes.text(x, y - 0.2, "no traffic in this layout", fontsize=8, va="center")
    for position, (group, nbytes) in enumerate(loads.items()):
        left = x + 3.6 * position
        axes.add_patch(Rectangle((left, y - 0.28), 0.2, 0.17, facecolor=group.colour, edgecolor=INK, linewidth=0.3))
        axes.text(left + 0.32, y - 0.2, f"{group.short} {units.text(nbytes, 'bytes')}", fontsize=8, va="center")


def _point(best: Simulation, traffic: dict[str, dict[Group, float]]) -> str:
    by_group: dict[Group, list[str]] = {}
    for tier, loads in traffic.items():
        for group in loads:
            by_group.setdefault(group, []).append(tier)
    by_place: dict[str, list[str]] = {}
    for group, tiers in by_group.items():
        where = next((text for tier, text in PLACES.items() if tier in tiers), f"on {' and '.join(tiers)} links")
        by_place.setdefault(where, []).append(group.short)
    parts = [f"{' and '.join(shorts)} {where}" for where, shorts in by_place.items()]
    return f"{short_names([best.result])[0]}: {', '.join(parts) or 'no communication'}"


FIGURES.register("topology")(Topology())
