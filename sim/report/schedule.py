"""A pipeline schedule as a picture: one row a rank, one cell a unit of time, on a terminal or as SVG."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Patch, Rectangle
from rich.console import Console
from rich.text import Text

from sim.errors import SimError
from sim.program.schedule_file import schedule_of
from sim.program.table import Kind, PassTimes, in_flight
from sim.program.timing import Timed, TimedTable, chunk_times, timed
from sim.report.figures.style import INK, PAPER, picture
from sim.report.figures.timeline import COLOURS
from sim.report.tables import percent
from sim.report.words import BUBBLE

NAMES = {Kind.F: "forward", Kind.B: "backward", Kind.I: "input gradient", Kind.W: "weight gradient"}
SVG_COLOURS = COLOURS | {Kind.I: "#7CCDB5"}
"""Where a full backward pass and an input gradient meet in one picture, they must differ."""

IDLE = "."
CELL_IN, ROW_IN, LEFT_IN = 0.27, 0.34, 1.0
MOST_CELLS_IN = 60.0
"""A longer picture gets narrower cells."""


@dataclass(frozen=True)
class Drawing:
    """A schedule with its numbers, played with `times` for the passes of a micro-batch on a rank."""

    name: str
    p: int
    v: int
    m: int
    times: PassTimes
    played: TimedTable
    in_flight: tuple[int, ...]
    facts: tuple[tuple[str, str], ...]


def parsed_times(text: str) -> PassTimes:
    """`F,I,W` in whole units. Raises SimError for anything else.

    >>> parsed_times("2,2,1").total
    Fraction(5, 1)
    """
    parts = text.split(",")
    if len(parts) != 3 or not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise SimError(
            f"--times: no times of F, I and W (got {text!r}, allowed three whole numbers from 1 such as 1,1,1)"
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
    times = PassTimes(chunk.forward * v, chunk.input_gradient * v, chunk.weight_gradient * v)
    table = schedule.table(p, v, m)
    played = timed(table, p * v, chunk_times(times, v))
    held = in_flight(table)
    broken = schedule.bubble_assumptions(p, v, m, times)
    ideal = schedule.bubble_of_ideal(p, v, m, times)
    if broken is not None or ideal is None:
        formula = broken or "no closed form is published for this schedule"
    else:
        formula = f"{_share(ideal)}, for equal stages without communication"
    of = "the pipeline's window" if schedule.span == "pipeline" else "the longest span of a rank, first to last action"
    work = m * times.total
    facts = (
        ("schedule", f"{name}, pp {p}, vpp {v}, {m} micro-batches"),
        ("passes", f"F {chunk.forward}, I {chunk.input_gradient}, W {chunk.weight_gradient} (B is I + W) of a chunk"),
        ("length", f"{played.length} of which a rank computes {work}"),
        ("bubble", f"{_share((played.span(schedule.span) - work) / work)}, of {of}"),
        ("closed form", formula),
        ("in flight", f"{' '.join(map(str, held))} (stage, micro-batch) pairs at most, by rank"),
    )
    return Drawing(name, p, v, m, times, played, held, facts)


def _share(of_ideal: Fraction) -> str:
    """Of the ideal time and of the whole.

    >>> _share(Fraction(1, 4))
    '25.0 % of the ideal time (1/4), 20.0 % of all'
    """
    return (
        f"{percent(float(of_ideal))} of the ideal time ({of_ideal}), {percent(float(of_ideal / (1 + of_ideal)))} of all"
    )


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
            for text, kind in row[first : first + fitting]:
                line.append(text.ljust(width - 1), style=f"black on {SVG_COLOURS[kind]}" if kind else "dim")
                line.append(" ")
            line.rstrip()
            console.print(line, soft_wrap=True)


def _cells(row: tuple[Timed, ...], drawn: Drawing) -> list[tuple[str, Kind | None]]:
    """A cell for each unit of time: the action that runs at its beginning, or idle time."""
    cells: list[tuple[str, Kind | None]] = [(IDLE, None)] * int(-(-drawn.played.length // 1))
    for each in row:
        for unit in range(int(-(-each.start // 1)), int(-(-each.end // 1))):
            cells[unit] = (_label(each, drawn.v), each.action.kind)
    return cells


def _label(each: Timed, v: int) -> str:
    """`F0`, with the virtual stage before it where a rank has several."""
    action = each.action
    return str(action) if v > 1 else f"{action.kind}{action.microbatch}"


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
    kinds = set()
    for rank, row in enumerate(drawn.played.rows):
        axes.add_patch(Rectangle((0, rank - 0.45), length, 0.9, facecolor=BUBBLE.colour, edgecolor="none"))
        for each in row:
            kinds.add(each.action.kind)
            axes.add_patch(_box(each, rank, is_late=each.action.stage >= drawn.p))
            middle = float(each.start + each.end) / 2
            axes.text(middle, rank, str(each.action.microbatch), ha="center", va="center", fontsize=6.5, color="black")
    handles = [Patch(facecolor=SVG_COLOURS[kind], label=NAMES[kind]) for kind in Kind if kind in kinds]
    handles.append(Patch(facecolor=BUBBLE.colour, label="idle"))
    if drawn.v > 1:
        handles.append(Patch(facecolor=PAPER, edgecolor=INK, label="framed: later chunks"))
    canvas.legend(handles=handles, loc="outside lower center", ncols=3, handlelength=1.2)
    return canvas


def _box(each: Timed, rank: int, *, is_late: bool) -> Rectangle:
    """An action, framed where it is of a later chunk."""
    return Rectangle(
        (float(each.start), rank - 0.45 if not is_late else rank - 0.42),
        float(each.end - each.start),
        0.9 if not is_late else 0.84,
        facecolor=SVG_COLOURS[each.action.kind],
        edgecolor=INK if is_late else PAPER,
        linewidth=0.8 if is_late else 0.5,
    )
