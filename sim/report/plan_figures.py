"""Pictures of a plan: cost against serving demand, laws, layouts, memory by stage, value of repeats, time that
trains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure as Canvas

from sim.decide import recovery, repeated
from sim.decide.answer import Grid
from sim.decide.planner import Decided
from sim.decide.wording import said
from sim.report.figures.style import INK, sheet

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MUTED = "#8c939b"
MOST_BARS = 14


@dataclass(frozen=True)
class PlanFigure:
    """A picture of the answer `number`."""

    name: str
    number: int
    caption: str
    applies: Callable[[Decided], bool]
    draw: Callable[[Decided], Canvas]


def grid_of(decided: Decided, name: str) -> Grid | None:
    """The table of that name in any answer."""
    return next((grid for answer in decided.answers for grid in answer.grids if grid.name == name), None)


def _rows(decided: Decided, name: str) -> list[dict[str, object]]:
    grid = grid_of(decided, name)
    assert grid is not None, name
    return [{column.head: cell for column, cell in zip(grid.columns, row, strict=True)} for row in grid.rows]


def _number(value: object) -> float:
    assert isinstance(value, (int, float)), value
    return float(value)


def _strategies(decided: Decided) -> Canvas:
    """Training and serving FLOP of each strategy over the tokens served."""
    rows = [row for row in _rows(decided, "strategies") if row["training FLOP"] is not None]
    demand = max(_number(decided.answers[0].values["demand_tokens"]), 1e9)
    served = np.geomspace(demand / 100, demand * 100, 80)
    canvas, (axes,) = sheet(3.6)
    for row, colour in zip(rows, COLOURS, strict=False):
        total = _number(row["training FLOP"]) + 2 * _number(row["parameters"]) * served
        label = f"{row['strategy']}, {said(_number(row['parameters']), 'parameters')}"
        axes.loglog(served, total, color=colour, label=label)
    axes.axvline(demand, color=INK, linestyle="--", linewidth=1)
    axes.set_title("Training and serving, at one loss")
    axes.set_xlabel("tokens served over the model's life (dashed: the plan)")
    axes.set_ylabel("FLOP")
    axes.grid(which="major")
    axes.legend()
    return canvas


def _laws(decided: Decided) -> Canvas:
    """Tokens a parameter of the budget's optimum by each law, and of the plan."""
    rows = _rows(decided, "laws")
    canvas, (axes,) = sheet(0.9 + 0.28 * len(rows))
    for place, row in enumerate(rows):
        ratio = _number(row["tokens a parameter"])
        label = f"  {said(_number(row['parameters']), 'parameters')} on {said(_number(row['tokens']), 'tokens')}"
        axes.scatter(ratio, place, s=34, color=COLOURS[0], zorder=3)
        axes.text(ratio, place, label, va="center", fontsize=8)
    values = decided.answers[1].values
    axes.axvline(
        _number(values["tokens_per_parameter"]), color=COLOURS[1], linestyle="--", linewidth=1.2, label="the plan"
    )
    axes.set_yticks(range(len(rows)), [str(row["law"]) for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xscale("log")
    axes.margins(x=0.2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel("tokens a parameter")
    axes.set_title(f"How {said(values['flop'], 'FLOP')} FLOP are best spent, by law")
    axes.grid(which="major", axis="x")
    axes.legend(loc="upper right")
    return canvas


def _ranking(decided: Decided) -> Canvas:
    """Step time of the best layouts, and of those that the plan names."""
    ranking = [each for each in decided.ranking if each.step is not None]
    shown = [each for place, each in enumerate(ranking) if place < MOST_BARS or ":" in each.name]
    canvas, (axes,) = sheet(0.9 + 0.26 * len(shown))
    for place, each in enumerate(shown):
        assert each.step is not None
        colour = MUTED if not each.fits else COLOURS[2] if place == 0 else COLOURS[0]
        axes.barh(place, each.step.time_s, color=colour)
        axes.text(each.step.time_s, place, f" {each.step.time_s:.2f} s", va="center", fontsize=8)
    axes.set_yticks(range(len(shown)), [each.name for each in shown])
    axes.invert_yaxis()
    axes.set_xlabel("step (s); grey does not fit")
    axes.set_title("Layouts")
    return canvas


def _memory(decided: Decided) -> Canvas:
    """State of a GPU by ZeRO stage, and the whole memory."""
    rows, stages = _rows(decided, "zero_rank"), _rows(decided, "zero_stages")
    canvas, (axes,) = sheet(3.2)
    bottom = np.zeros(len(rows))
    for name, colour in zip(("parameters, 2 B", "gradients, 2 B", "optimizer, 12 B"), COLOURS, strict=False):
        part = np.array([_number(row[name]) for row in rows]) / 1e9
        axes.bar(range(len(rows)), part, bottom=bottom, color=colour, label=name, width=0.5)
        bottom += part
    peaks = [
        (place, _number(row["memory of a GPU"]) / 1e9) for place, row in enumerate(stages) if row["memory of a GPU"]
    ]
    axes.scatter(
        [place for place, _ in peaks], [peak for _, peak in peaks], color=INK, marker="_", s=900, label="whole memory"
    )
    axes.axhline(
        decided.planned.gpu.memory_bytes / 1e9, color=COLOURS[1], linestyle="--", linewidth=1, label="the GPU has"
    )
    axes.set_xticks(range(len(rows)), [str(row["stage"]) for row in rows])
    axes.set_ylabel("GB a GPU")
    axes.set_title("Memory by ZeRO stage")
    axes.legend()
    return canvas


def _repeats(decided: Decided) -> Canvas:
    """What all epochs and the last one are worth, and where the plan's sources stand."""
    epochs = np.geomspace(1, 60, 120)
    canvas, (axes,) = sheet(3.2)
    axes.plot(epochs, [repeated.value_of_epochs(float(each)) for each in epochs], color=COLOURS[0], label="all tokens")
    axes.plot(
        epochs, [repeated.marginal_value(float(each)) for each in epochs], color=COLOURS[1], label="the last epoch's"
    )
    for row in _rows(decided, "sources"):
        passes = _number(row["epochs"])
        if passes > 1:
            at = (passes, repeated.value_of_epochs(passes))
            axes.scatter(*at, color=INK, zorder=3, s=24)
            axes.annotate(str(row["source"]), at, xytext=(5, 4), textcoords="offset points", fontsize=8)
    axes.set(xscale="log", xlabel="epochs", ylabel="of a fresh token", ylim=(0, 1.05))
    axes.set_xticks([1, 2, 4, 8, 16, 40], ["1", "2", "4", "8", "16", "40"])
    axes.set_title("What repeated data is worth")
    axes.grid(which="major")
    axes.legend()
    return canvas


def _intervals(decided: Decided) -> Canvas:
    """Share of the time that trains against the checkpoint interval."""
    values = decided.answers[5].values
    mtbf, cost = _number(values["mtbf_s"]), _number(values["checkpoint_cost_s"])
    best, restart = _number(values["best_interval_s"]), _number(values["lost_s"])
    interval = np.geomspace(best / 30, best * 30, 120)
    share = [recovery.training_share(float(each), mtbf, cost, restart) for each in interval]
    canvas, (axes,) = sheet(3.2)
    axes.plot(interval / 60, share, color=COLOURS[0])
    axes.scatter(
        _number(values["checkpoint_interval_s"]) / 60,
        _number(values["training_share"]),
        color=INK,
        zorder=3,
        label="the plan",
    )
    axes.set(xscale="log", xlabel="checkpoint interval (min)", ylabel="share of the time that trains")
    axes.set_title("How often to save")
    axes.grid(which="major")
    axes.legend()
    return canvas


def _has(name: str) -> Callable[[Decided], bool]:
    return lambda decided: grid_of(decided, name) is not None


FIGURES = (
    PlanFigure(
        "strategies",
        1,
        "Where lines cross, the smaller model has paid for its longer training.",
        _has("strategies"),
        _strategies,
    ),
    PlanFigure("laws", 2, "Each law's best use of the plan's training compute.", _has("laws"), _laws),
    PlanFigure("ranking", 3, "Simulated steps; those with a name are the plan's own.", _has("ranking"), _ranking),
    PlanFigure(
        "zero",
        4,
        "State by closed form (16 bytes a parameter); whole memory by simulation.",
        _has("zero_rank"),
        _memory,
    ),
    PlanFigure(
        "repeats",
        5,
        "The data-constrained law (arXiv 2305.16264); dots are the plan's sources.",
        _has("sources"),
        _repeats,
    ),
    PlanFigure(
        "intervals", 6, "Renewal form; failures come also while the job restarts.", _has("intervals"), _intervals
    ),
)
