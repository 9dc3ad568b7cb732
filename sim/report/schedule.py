"""A pipeline schedule as a picture: one row a rank, one cell a unit of time, on a terminal or as SVG."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Patch, Rectangle
from rich.console import Console
from rich.text import Text

from sim.errors import SimError
from sim.program.schedule_file import schedule_of
from sim.program.table import Action, Kind, Pair, PassTimes, actions_of, in_flight
from sim.program.timing import Timed, TimedTable, chunk_times, timed
from sim.report.figures.style import INK, PAPER, picture
from sim.report.figures.timeline import COLOURS
from sim.report.tables import percent
from sim.report.words import BUBBLE

NAMES = {Kind.F: "forward", Kind.B: "backward", Kind.I: "input gradient", Kind.W: "weight gradient"}
SVG_COLOURS = COLOURS | {Kind.I: "#7CCDB5"}
"""Where a full backward pass and an input gradient meet in one picture, they must differ."""

PAIR_COLOUR = "#E69F00"
"""Of two passes side by side on a terminal; a picture has both of their colours."""

IDLE = "."
FRAME = 0.03
CELL_IN, ROW_IN, LEFT_IN = 0.27, 0.34, 1.0
MOST_CELLS_IN = 60.0
"""A longer picture gets narrower cells."""


@dataclass(frozen=True)
class Drawing:
    """A schedule with its numbers, played with `times` for the passes of a micro-batch on a rank.

    has_copies: whether each stage lies on two ranks, for micro-batches in both directions.
    """

    name: str
    p: int
    v: int
    m: int
    times: PassTimes
    played: TimedTable
    in_flight: tuple[int, ...]
    has_copies: bool
    facts: tuple[tuple[str, str], ...]


def parsed_times(text: str) -> PassTimes:
    """`F,I,W` in whole units, or `F,I,W,F&B`. Raises SimError for anything else.

    >>> parsed_times("2,2,1").total
    Fraction(5, 1)
    >>> parsed_times("2,2,1,4").forward_and_backward
    Fraction(4, 1)
    """
    parts = text.split(",")
    if len(parts) not in (3, 4) or not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise SimError(
            f"--times: no times of F, I and W (got {text!r}, allowed three whole numbers from 1 such as 1,1,1, or four "
            "with F&B, what two passes side by side take)"
        )
    return PassTimes(*(Fraction(int(part)) for part in parts))


def drawing(name: str, p: int, v: int, m: int, chunk: PassTimes) -> Drawing:
    """The schedule `name` (or of a file) with `chunk` for the passes of a micro-batch through one chunk.

    Raises SimError where the schedule does not exist or refuses the numbers.
    """
    schedule = schedule_of(name)
    refusal = schedule.refusal(p, v, m)
    if refusal is not None:
        raise SimError(refusal)
    table = schedule.table(p, v, m)
    if chunk.pair is not None and not any(isinstance(cell, Pair) for row in table for cell in row):
        raise SimError(f"--times: {name} runs no two passes side by side (got F&B {chunk.pair}, allowed F,I,W)")
    pair = None if chunk.pair is None else chunk.pair * v
    times = PassTimes(chunk.forward * v, chunk.input_gradient * v, chunk.weight_gradient * v, pair)
    played = timed(table, p * v, chunk_times(times, v))
    held = in_flight(table)
    broken = schedule.bubble_assumptions(p, v, m, times)
    ideal = schedule.bubble_of_ideal(p, v, m, times)
    work, span = m * times.total, played.span(schedule.span)
    idle = max(span - sum(each.end - each.start for each in row) for row in played.rows)
    if broken is not None or ideal is None:
        formula = broken or "no closed form is published for this schedule"
    else:
        formula = f"{_share(ideal, span, work)}, for equal stages without communication"
    of = "the pipeline's window" if schedule.span == "pipeline" else "the longest span of a rank, first to last action"
    side_by_side = f", F&B {times.forward_and_backward / v}" if _has_pairs(played) else ""
    passes = f"F {chunk.forward}, I {chunk.input_gradient}, W {chunk.weight_gradient}{side_by_side}"
    facts = (
        ("schedule", f"{name}, pp {p}, vpp {v}, {m} micro-batches"),
        ("passes", f"{passes} (B is I + W) of a chunk"),
        ("length", f"{played.length} of which a rank computes {_busy(played)}"),
        ("bubble", f"{_share(idle / work, span, work)}, of {of}"),
        ("closed form", formula),
        ("in flight", f"{' '.join(map(str, held))} (stage, micro-batch) pairs at most, by rank"),
    )
    return Drawing(name, p, v, m, times, played, held, schedule.placement == "both", facts)


def _has_pairs(played: TimedTable) -> bool:
    """Whether two passes run side by side anywhere."""
    return any(isinstance(each.cell, Pair) for row in played.rows for each in row)


def _busy(played: TimedTable) -> str:
    """What a rank computes: `60`, or `45 to 47` where ranks have different numbers of pairs."""
    busy = sorted({sum((each.end - each.start for each in row), Fraction(0)) for row in played.rows})
    return str(busy[0]) if len(busy) == 1 else f"{busy[0]} to {busy[-1]}"


def _share(of_ideal: Fraction, span: Fraction, ideal: Fraction) -> str:
    """Idle time as a part of the ideal time and of the whole span.

    >>> _share(Fraction(1, 4), Fraction(5), Fraction(4))
    '25.0 % of the ideal time (1/4), 20.0 % of all'
    """
    of_all = of_ideal * ideal / span
    return f"{percent(float(of_ideal))} of the ideal time ({of_ideal}), {percent(float(of_all))} of all"


def print_drawing(drawn: Drawing, console: Console) -> None:
    """The numbers, then the grid, cut into parts of time that fit the console."""
    for name, value in drawn.facts:
        console.print(Text.assemble((f"  {name:<12}", "dim"), f" {value}"), soft_wrap=True)
    rows = [_cells(row, drawn) for row in drawn.played.rows]
    width = 1 + max(len(text) for row in rows for text, _ in row)
    head = len(f"rank {drawn.p - 1}") + 1
    fitting = max((console.width - head) // width, 1)
    for first in range(0, len(rows[0]), fitting):
        console.print()
        console.print(Text(f"{'time':<{head}}{first}", style="dim"), soft_wrap=True)
        for rank, row in enumerate(rows):
            line = Text(f"{f'rank {rank}':<{head}}")
            for text, colour in row[first : first + fitting]:
                line.append(text.ljust(width - 1), style=f"black on {colour}" if colour else "dim")
                line.append(" ")
            line.rstrip()
            console.print(line, soft_wrap=True)


def _cells(row: tuple[Timed, ...], drawn: Drawing) -> list[tuple[str, str | None]]:
    """A cell for each unit of time: what runs at its beginning and its colour, or idle time."""
    cells: list[tuple[str, str | None]] = [(IDLE, None)] * int(-(-drawn.played.length // 1))
    for each in row:
        for unit in range(int(-(-each.start // 1)), int(-(-each.end // 1))):
            colour = PAIR_COLOUR if isinstance(each.cell, Pair) else SVG_COLOURS[each.cell.kind]
            cells[unit] = (_label(each, drawn.v), colour)
    return cells


def _label(each: Timed, v: int) -> str:
    """`F0`, or `F1&B0` of two passes side by side; with the virtual stage before it where a rank has several chunks."""
    return str(each.cell) if v > 1 else "&".join(f"{act.kind}{act.microbatch}" for act in actions_of([each.cell]))


def schedule_svg(drawn: Drawing) -> str:
    """The grid as SVG: the same bytes for the same schedule."""
    return picture(lambda: _canvas(drawn)).svg


def _canvas(drawn: Drawing) -> Canvas:
    length = float(drawn.played.length)
    cell_in = CELL_IN if length * CELL_IN <= MOST_CELLS_IN else MOST_CELLS_IN / length
    size = (LEFT_IN + max(cell_in * length, 5.0), 1.3 + ROW_IN * drawn.p)
    canvas = Canvas(figsize=size, layout="constrained")
    axes = canvas.subplots()
    axes.set_xlim(0, length)
    axes.set_ylim(drawn.p - 0.5, -0.5)
    axes.set_yticks(range(drawn.p), [f"rank {rank}" for rank in range(drawn.p)])
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("time in passes of a chunk")
    axes.set_title(drawn.facts[0][1])
    kinds: set[Kind] = set()
    for rank, row in enumerate(drawn.played.rows):
        axes.add_patch(Rectangle((0, rank - 0.45), length, 0.9, facecolor=BUBBLE.colour, edgecolor="none"))
        for each in row:
            kinds |= {action.kind for action in actions_of([each.cell])}
            _draw_cell(axes, each, rank, drawn)
    handles = [Patch(facecolor=SVG_COLOURS[kind], label=NAMES[kind]) for kind in Kind if kind in kinds]
    handles.append(Patch(facecolor=BUBBLE.colour, label="idle"))
    if drawn.v > 1 or drawn.has_copies:
        framed = "the other direction" if drawn.has_copies else "later chunks"
        handles.append(Patch(facecolor=PAPER, edgecolor=INK, label=f"framed: {framed}"))
    canvas.legend(handles=handles, loc="outside lower center", ncols=3, handlelength=1.2)
    return canvas


def _draw_cell(axes: Axes, each: Timed, rank: int, drawn: Drawing) -> None:
    """A box with the micro-batch; of two passes side by side one above the other."""
    actions = list(actions_of([each.cell]))
    height = 0.9 / len(actions)
    size = 6.5 if len(actions) == 1 else 5.0
    for number, action in enumerate(actions):
        top = rank - 0.45 + number * height
        axes.add_patch(_box(each, action, top, height, is_framed=_is_framed(action, drawn)))
        at = (float(each.start + each.end) / 2, top + height / 2)
        axes.text(*at, str(action.microbatch), ha="center", va="center", fontsize=size, color="black")


def _is_framed(action: Action, drawn: Drawing) -> bool:
    """Whether an action is of a later chunk, or of the micro-batches that enter at the last rank."""
    return action.microbatch >= drawn.m // 2 if drawn.has_copies else action.stage >= drawn.p


def _box(each: Timed, action: Action, top: float, height: float, *, is_framed: bool) -> Rectangle:
    """An action over `height` of its row."""
    return Rectangle(
        (float(each.start), top + FRAME if is_framed else top),
        float(each.end - each.start),
        height - 2 * FRAME if is_framed else height,
        facecolor=SVG_COLOURS[action.kind],
        edgecolor=INK if is_framed else PAPER,
        linewidth=0.8 if is_framed else 0.5,
    )
