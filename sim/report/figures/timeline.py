"""One pipeline over time: a Gantt chart of its ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Patch, PathPatch
from matplotlib.path import Path

from sim.engine.timeline import Timeline
from sim.program.operations import COMPUTE, STREAMS
from sim.program.ranks import STREAM_INDEX
from sim.program.table import Action, Cell, Kind, actions_of
from sim.report.figures import FIGURES
from sim.report.figures.style import INK, PAPER, sheet, time_axis
from sim.report.tables import percent, seconds, short_names
from sim.report.words import BUBBLE, KINDS, OPTIMIZER, Group
from sim.results.idle import compute_slots
from sim.simulation import Simulation
from sim.spec.topology import Floats, Ints

FORWARD, BACKWARD, WEIGHT = "#56B4E9", "#009E73", "#B5DDF5"
COLOURS = {Kind.F: FORWARD, Kind.B: BACKWARD, Kind.I: BACKWARD, Kind.W: WEIGHT}

MOST_BLOCKS = 64
"""Blocks of a rank that one panel can show with their numbers."""

FILL_FACTOR = 1.5
"""The beginning shows at least half as much again as it takes to reach the last rank."""

MANY_RANKS = 8
"""Rows get thinner beyond."""

DRAWABLE_FRAC = 1 / 800
"""Communication closer together than this part of a panel is drawn as one."""

ODD_TINT, CHUNK_TINT = 0.2, 0.5
FONT_SIZE, HALF_FONT_SIZE = 6.5, 4.5
BLOCK_TOP, BLOCK_BOTTOM, STRIPS_BOTTOM = -0.42, 0.1, 0.42


@dataclass(frozen=True)
class Blocks:
    """Cells of one pipeline rank: (blocks,) start and end on its compute stream, s; None is the end of the step."""

    actions: tuple[Cell | None, ...]
    start_s: Floats
    end_s: Floats


def one_pipeline(timeline: Timeline) -> list[int]:
    """Simulated ranks that stand for the pipeline of rank 0, by pipeline rank.

    The first rank at each place has coordinate 0 on every other axis.
    """
    found: dict[int, int] = {}
    for index, rank in enumerate(timeline.program.ranks):
        found.setdefault(rank.pp_rank, index)
    return [found[pp_rank] for pp_rank in sorted(found)]


def blocks_of(timeline: Timeline, index: int) -> Blocks:
    """Blocks of a simulated rank in order; of the end of the step, where ranks wait for each other, its operations."""
    program = timeline.program
    slots = compute_slots(timeline, index)
    actions = program.ranks[index].actions
    is_end = np.array([action is None for action in actions], dtype=bool)[program.block[slots]]
    is_first = np.append(True, np.diff(program.block[slots]) != 0) | is_end
    first = np.flatnonzero(is_first)
    last = np.append(first[1:], len(slots)) - 1
    return Blocks(
        actions=tuple(actions[number] for number in program.block[slots[first]].tolist()),
        start_s=timeline.start_s[slots[first]],
        end_s=timeline.end_s[slots[last]],
    )


def windows(rows: Sequence[Blocks], step_s: float) -> list[tuple[float, float]]:
    """Parts of the step that are drawn: all of it, or of a long one the beginning and the end, each with as many
    passes as can be told apart and at least until the pipeline is filled (or from when it empties)."""
    if max(len(row.actions) for row in rows) <= MOST_BLOCKS:
        return [(0.0, step_s)]
    half = MOST_BLOCKS // 2
    filled_s = FILL_FACTOR * max(float(row.start_s[0]) for row in rows)
    first_end_s = max(filled_s, min(float(row.end_s[half - 1]) for row in rows))
    last_start_s = max(float(row.start_s[-half]) for row in rows)
    return [(0.0, step_s)] if first_end_s >= last_start_s else [(0.0, first_end_s), (last_start_s, step_s)]


@final
class Pipeline:
    """A row for each pipeline rank: forward and backward passes by micro-batch, and communication below them."""

    title = "One pipeline over time"
    caption = (
        "Blue is forward, green backward, with the number of the micro-batch, lighter for later chunks of an "
        "interleaved schedule, one above the other where two passes share the GPU; hatched grey is where a rank "
        "computes nothing. The thin strips below a row are its communication by kind, whether or not it was hidden. Of "
        "the best layout; a long step by its beginning and its end, each on its own scale."
    )
    place = 2

    def applies(self, simulations: Sequence[Simulation]) -> bool:
        """Always."""
        return len(simulations) > 0

    def draw(self, simulations: Sequence[Simulation]) -> Canvas:
        """Gantt chart of the first simulation."""
        best = simulations[0]
        timeline = best.timeline
        pipeline = one_pipeline(timeline)
        rows = [blocks_of(timeline, index) for index in pipeline]
        parts = windows(rows, timeline.step_s)
        communication = [intervals_by_group(timeline, index) for index in pipeline]
        groups = list(dict.fromkeys(group for found in communication for group in found))
        canvas, panels = sheet(
            0.95 + len(parts) * (0.55 + (0.5 if len(rows) <= MANY_RANKS else 0.36) * len(rows)), rows=len(parts)
        )
        for axes, window in zip(panels, parts, strict=True):
            self._panel(axes, rows, communication, groups, window)
            time_axis(axes.xaxis, timeline.step_s, "time in the step")
        result = best.result
        if len(parts) > 1:
            panels[1].set_title("the end of the step", fontsize=9, fontweight="normal")
        bubble = f"bubble {percent(result.bubble_fraction)} of {seconds(result.step_time_s)}"
        panels[0].set_title(f"{short_names([result])[0]}: {bubble}" + (", the beginning" if len(parts) > 1 else ""))
        canvas.legend(handles=_legend(rows, groups), loc="outside lower center", ncols=4, handlelength=1.2)
        return canvas

    def _panel(
        self,
        axes: Axes,
        rows: Sequence[Blocks],
        communication: Sequence[dict[Group, tuple[Floats, Floats]]],
        groups: Sequence[Group],
        window: tuple[float, float],
    ) -> None:
        start_s, end_s = window
        axes.set_xlim(start_s, end_s)
        axes.set_ylim(len(rows) - 0.45, -0.55)
        axes.set_yticks(range(len(rows)), [f"pipeline rank {number}" for number in range(len(rows))])
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        strip = (STRIPS_BOTTOM - BLOCK_BOTTOM) / max(len(groups), 1)
        for y, (row, found) in enumerate(zip(rows, communication, strict=True)):
            idle = (np.array([start_s]), np.array([end_s]))
            _rectangles(
                axes, *idle, y + BLOCK_TOP, y + BLOCK_BOTTOM, facecolor=BUBBLE.colour, hatch="////", edgecolor=PAPER
            )
            _draw_blocks(axes, row, y, window)
            for position, group in enumerate(groups):
                if group in found:
                    top = y + BLOCK_BOTTOM + 0.02 + position * strip
                    _rectangles(
                        axes,
                        *_visible(*found[group], window),
                        top,
                        top + strip,
                        facecolor=group.colour,
                        edgecolor="none",
                    )


def _draw_blocks(axes: Axes, row: Blocks, y: int, window: tuple[float, float]) -> None:
    """Passes of one rank, those of odd micro-batches a little lighter; numbers where they have room. Of two passes side
    by side each has half of the height."""
    start_s, end_s = window
    shown = np.flatnonzero((row.end_s > start_s) & (row.start_s < end_s)).tolist()
    stages = sorted({action.stage for action in actions_of(cell for cell in row.actions if cell is not None)})
    boxes = [(index, *box) for index in shown for box in _boxes(row.actions[index])]
    looks: dict[tuple[str | tuple[float, float, float], float, float], list[int]] = {}
    for index, action, top, bottom in boxes:
        looks.setdefault((_colour(action, stages), top, bottom), []).append(index)
    for (colour, top, bottom), members in looks.items():
        bounds = (row.start_s[members], row.end_s[members])
        _rectangles(axes, *bounds, y + top, y + bottom, facecolor=colour, edgecolor=PAPER)
    for index, action, top, bottom in boxes:
        lo, hi = max(float(row.start_s[index]), start_s), min(float(row.end_s[index]), end_s)
        if action is not None and hi - lo > (end_s - start_s) * (0.006 + 0.005 * len(str(action.microbatch))):
            size = FONT_SIZE if bottom - top == BLOCK_BOTTOM - BLOCK_TOP else HALF_FONT_SIZE
            middle = y + (top + bottom) / 2
            # Black on both blues and the green: the numbers keep their colour on a dark page.
            axes.text(
                (lo + hi) / 2, middle, str(action.microbatch), ha="center", va="center", fontsize=size, color="black"
            )


def _boxes(cell: Cell | None) -> list[tuple[Action | None, float, float]]:
    """(action, top, bottom) of each box that stands for a cell; None is the end of the step."""
    actions = [None] if cell is None else list(actions_of([cell]))
    height = (BLOCK_BOTTOM - BLOCK_TOP) / len(actions)
    return [
        (action, BLOCK_TOP + number * height, BLOCK_TOP + (number + 1) * height)
        for number, action in enumerate(actions)
    ]


def _colour(action: Action | None, stages: Sequence[int]) -> str | tuple[float, float, float]:
    """Lighter for odd micro-batches, and the lighter the later the chunk of the rank's `stages`."""
    if action is None:
        return OPTIMIZER.colour
    red, green, blue = to_rgb(COLOURS[action.kind])
    tint = ODD_TINT * (action.microbatch % 2) + CHUNK_TINT * stages.index(action.stage) / len(stages)
    return (red + (1 - red) * tint, green + (1 - green) * tint, blue + (1 - blue) * tint)


def intervals_by_group(timeline: Timeline, index: int) -> dict[Group, tuple[Floats, Floats]]:
    """Start and end of a rank's communication by group, in order of start; what arrives counts too."""
    program = timeline.program
    bounds = program.ranks[index]
    own = np.arange(bounds.first, bounds.end)
    slots = np.concatenate(
        [own[program.stream[own] != STREAM_INDEX[COMPUTE]], np.flatnonzero(program.receiver == index)]
    )
    kind_of = [
        KINDS["pp"][0] if stream.startswith("pp_") else KINDS[stream][0] for stream in STREAMS if stream != COMPUTE
    ]
    names = [stream for stream in STREAMS if stream != COMPUTE]
    found: dict[Group, list[Ints]] = {}
    for name, group in zip(names, kind_of, strict=True):
        mine = slots[program.stream[slots] == STREAM_INDEX[name]]
        if len(mine):
            found.setdefault(group, []).append(mine)
    result = {}
    for group, parts in found.items():
        joined = np.concatenate(parts)
        joined = joined[np.argsort(timeline.start_s[joined], kind="stable")]
        result[group] = (timeline.start_s[joined], timeline.end_s[joined])
    return result


def _visible(start_s: Floats, end_s: Floats, window: tuple[float, float]) -> tuple[Floats, Floats]:
    """Intervals within the window, joined where the gap between them is too small to be seen."""
    inside = (end_s > window[0]) & (start_s < window[1])
    start_s, end_s = start_s[inside], np.maximum.accumulate(end_s[inside]) if inside.any() else end_s[inside]
    if not len(start_s):
        return start_s, end_s
    is_new = np.concatenate([[True], start_s[1:] - end_s[:-1] > DRAWABLE_FRAC * (window[1] - window[0])])
    last = np.append(np.flatnonzero(is_new)[1:] - 1, len(start_s) - 1)
    return start_s[is_new], end_s[last]


def _rectangles(axes: Axes, start_s: Floats, end_s: Floats, top: float, bottom: float, **look: Any) -> None:
    """Boxes of one look as one path, cut at the edges of the panel."""
    if not len(start_s):
        return
    lo, hi = axes.get_xlim()
    left, right = np.clip(start_s, lo, hi), np.clip(end_s, lo, hi)
    x = np.stack([left, right, right, left, left], axis=1)
    y = np.broadcast_to([top, top, bottom, bottom, top], x.shape)
    codes = np.tile([Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY], len(left))
    axes.add_artist(PathPatch(Path(np.stack([x.ravel(), y.ravel()], axis=1), codes), linewidth=0.4, **look))


def _legend(rows: Sequence[Blocks], groups: Sequence[Group]) -> list[Patch]:
    cells = (cell for row in rows for cell in row.actions if cell is not None)
    kinds = {action.kind for action in actions_of(cells)}
    names = {Kind.F: "forward", Kind.B: "backward", Kind.I: "input gradient", Kind.W: "weight gradient"}
    handles = [Patch(facecolor=COLOURS[kind], label=names[kind]) for kind in Kind if kind in kinds]
    handles.append(Patch(facecolor=OPTIMIZER.colour, label="optimizer"))
    handles.append(Patch(facecolor=BUBBLE.colour, edgecolor=PAPER, hatch="////", label="idle"))
    return handles + [Patch(facecolor=group.colour, label=group.name, edgecolor=INK, linewidth=0.3) for group in groups]


FIGURES.register("timeline")(Pipeline())
