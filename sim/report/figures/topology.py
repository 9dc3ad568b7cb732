"""The cluster: two nodes, the switches above them, and which communication runs on which links."""

from __future__ import annotations

from collections.abc import Sequence
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
from sim.spec.topology import Fabric

NODES_DRAWN = 2
GPUS_DRAWN = 8
SPINES_DRAWN = 4

HEIGHTS = {"nvswitch": 0.0, "gpu": 1.0, "nic": 2.0, "leaf": 3.4, "spine": 4.6}
SIZES = {"nvswitch": (4.0, 0.36), "gpu": (0.74, 0.46), "nic": (0.62, 0.34), "leaf": (0.9, 0.38), "spine": (1.3, 0.38)}
PLURALS = {"nvswitch": "NVSwitch groups", "gpu": "GPUs", "nic": "NICs", "leaf": "leaves", "spine": "spines"}
GPU_COLOUR, SWITCH_COLOUR = "#B5DDF5", "#C4C7CB"
NODE_GAP = 1.6

TIERS = {
    "nvlink": ("NVLink, GPU to NVSwitch", 0.5),
    "pcie": ("PCIe, GPU to NIC", 1.5),
    "nic": ("network, NIC to leaf", 2.7),
    "spine": ("leaf to spine", 4.0),
}
"""What each tier is called, and the height of its note."""


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
    """What is drawn of a fabric: numbers of the nodes, and the links among them, by tier."""

    position: dict[int, tuple[float, float]]
    kind: dict[int, str]
    name: dict[int, str]
    links: dict[str, list[tuple[int, int]]]
    hidden: dict[str, int]


def sketch(fabric: Fabric) -> Sketch:
    """Two nodes with at most eight GPUs each, the leaves that they reach, and a few spines."""
    names = fabric.node_names()
    kinds = [name.rstrip("0123456789") for name in names]
    links = fabric.links
    num_nodes = min(-(-fabric.num_gpus // fabric.gpus_per_node), NODES_DRAWN)
    gpus_shown = min(fabric.gpus_per_node, GPUS_DRAWN)
    # The second node is the last one: it shows whether leaves are shared by all nodes.
    last_node = int(fabric.node_of(np.array([fabric.num_gpus - 1]))[0])
    nodes = [0, last_node][:num_nodes]
    gpus = np.concatenate([node * fabric.gpus_per_node + np.arange(gpus_shown) for node in nodes])
    shown = [int(gpu) for gpu in gpus]
    level = gpus
    for _ in range(3):
        above = np.unique(links.target[np.isin(links.source, level) & (links.target > links.source)])
        above = above[~np.isin(above, shown)]
        if len(above) and kinds[int(above[-1])] == "spine":
            above = above[:SPINES_DRAWN]
        shown += above.tolist()
        level = above
    is_drawn = np.isin(links.source, shown) & np.isin(links.target, shown) & (links.target > links.source)
    drawn = zip(
        links.source[is_drawn].tolist(), links.target[is_drawn].tolist(), links.tier[is_drawn].tolist(), strict=True
    )
    by_tier: dict[str, list[tuple[int, int]]] = {}
    for source, target, tier in drawn:
        by_tier.setdefault(links.tiers[tier], []).append((source, target))
    return Sketch(
        position=_positions(shown, kinds, by_tier, gpus_shown),
        kind={number: kinds[number] for number in shown},
        name={number: names[number] for number in shown},
        links=by_tier,
        hidden={kind: kinds.count(kind) - sum(kinds[number] == kind for number in shown) for kind in HEIGHTS},
    )


def _positions(
    shown: Sequence[int], kinds: Sequence[str], links: dict[str, list[tuple[int, int]]], gpus_shown: int
) -> dict[int, tuple[float, float]]:
    """GPUs side by side; NVSwitch and NICs above or below the middle of theirs; leaves and spines spread evenly."""
    x: dict[int, float] = {}
    gpus = [number for number in shown if kinds[number] == "gpu"]
    for index, gpu in enumerate(gpus):
        x[gpu] = index + NODE_GAP * (index // gpus_shown)
    width = max(x.values()) + 1
    for tier in ("nvlink", "pcie"):
        for upper in sorted({target for _, target in links.get(tier, [])}):
            mine = [x[source] for source, target in links[tier] if target == upper]
            x[upper] = sum(mine) / len(mine)
    for kind in ("leaf", "spine"):
        members = [number for number in shown if kinds[number] == kind]
        for index, number in enumerate(members):
            x[number] = (index + 0.5) * width / len(members) - 0.5
    return {number: (x[number], HEIGHTS[kinds[number]]) for number in shown}


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
        top = max(y for _, y in drawing.position.values())
        right = max(x for x, _ in drawing.position.values()) + 0.9
        canvas, (axes,) = sheet(0.9 + 0.78 * (top + 1))
        axes.set_axis_off()
        axes.set_xlim(-1.0, right + max(0.55 * right, 9.0))
        axes.set_ylim(-0.75, top + 0.4)
        for tier, links in drawing.links.items():
            segments = [[drawing.position[source], drawing.position[target]] for source, target in links]
            loads = traffic.get(tier, {})
            colour = max(loads, key=lambda group: loads[group]).colour if loads else FAINT
            axes.add_collection(LineCollection(segments, colors=colour, linewidths=1.1, zorder=1))
        _servers(axes, drawing)
        for number, (x, y) in drawing.position.items():
            _box(axes, drawing, number, x, y)
        for tier in drawing.links:
            _note(axes, best.fabric, tier, traffic.get(tier, {}), right)
        hidden = [f"{count:,} {PLURALS[kind]}" for kind, count in drawing.hidden.items() if count]
        if hidden:
            axes.text(-0.6, -0.62, f"not drawn: {', '.join(hidden)}", fontsize=7.5, va="center")
        axes.set_title(_point(best, traffic))
        return canvas


def _box(axes: Axes, drawing: Sketch, number: int, x: float, y: float) -> None:
    """A GPU or NIC with its number, a switch with its name."""
    kind = drawing.kind[number]
    width, height = SIZES[kind]
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
    top = max(y for number, (_, y) in drawing.position.items() if drawing.kind[number] in ("gpu", "nic"))
    for switch in (number for number, kind in drawing.kind.items() if kind == "nvswitch"):
        mine = [drawing.position[source][0] for source, target in drawing.links["nvlink"] if target == switch]
        corner = (min(mine) - 0.62, -0.4)
        size = (max(mine) - min(mine) + 1.24, top + 0.76)
        style = "round,pad=0,rounding_size=0.12"
        axes.add_patch(FancyBboxPatch(corner, *size, style, facecolor="none", edgecolor=INK, linewidth=0.9))


def _note(axes: Axes, fabric: Fabric, tier: str, loads: dict[Group, float], x: float) -> None:
    """Beside a tier: its rate, and who uses it how much."""
    links = fabric.links
    is_mine = links.tier == links.tiers.index(tier)
    rate = units.text(float(links.wire_bytes_per_s[is_mine].max()), "bytes/s")
    what, y = TIERS[tier]
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
        outside = [tier for tier in ("spine", "nic") if tier in tiers]
        where = {"spine": "over leaves and spines", "nic": "over leaves"}[outside[0]] if outside else "on NVLink"
        by_place.setdefault(where, []).append(group.short)
    parts = [f"{' and '.join(shorts)} {where}" for where, shorts in by_place.items()]
    return f"{short_names([best.result])[0]}: {', '.join(parts) or 'no communication'}"


FIGURES.register("topology")(Topology())
