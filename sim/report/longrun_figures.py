"""Pictures of a long run: its course, its losses, goodput over size and interval, and when it ends."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from matplotlib.colors import Colormap
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import PercentFormatter

from sim import units
from sim.longrun.grid import around, grid
from sim.longrun.hazards import DAY_S
from sim.longrun.job import Band
from sim.longrun.ledger import CAUSES
from sim.longrun.summary import Summary
from sim.report.figures.style import FAINT, INK, sheet
from sim.report.longrun import WORDS

COLOURS = {
    "progress": "#009E73",
    "straggler": "#B6D7A8",
    "degraded": "#7FB2A5",
    "lost": "#D55E00",
    "checkpoint": "#56B4E9",
    "detect": "#F0E442",
    "diagnose": "#E69F00",
    "reschedule": "#CC79A7",
    "wait_spare": "#882255",
    "reconfigure": "#AA4499",
    "init": "#0072B2",
    "load": "#332288",
    "catch_up": "#88CCEE",
    "alarm": "#999933",
    "spare_idle": "#BBBBBB",
    "repair": "#666666",
}
BINS = 120
MINUTE_S = 60.0
BILLION = 1e9


def course(bands: tuple[Band, ...], wall_s: float) -> Canvas:
    """Share of each part of the run that went to each cause: one run, from its start to its end.

    Time in steps is shown as such even where they were rolled back later.
    """
    canvas, (axes,) = sheet(2.8)
    edges = np.linspace(0, wall_s, BINS + 1)
    shares = {cause: np.zeros(BINS) for cause in CAUSES}
    for start_s, end_s, cause in bands:
        first, last = np.searchsorted(edges, [start_s, end_s], side="right") - 1
        for index in range(int(first), min(int(last), BINS - 1) + 1):
            overlap_s = min(end_s, edges[index + 1]) - max(start_s, edges[index])
            shares[cause][index] += max(0.0, overlap_s) * BINS / wall_s
    bottom = np.zeros(BINS)
    edges_d = edges / DAY_S
    for cause, values in shares.items():
        if values.any():
            label = "training" if cause == "progress" else WORDS[cause]
            top = bottom + values
            low, high = (np.append(each, each[-1]) for each in (bottom, top))
            axes.fill_between(edges_d, low, high, step="post", color=COLOURS[cause], label=label, linewidth=0)
            bottom = top
    axes.set_xlim(0, wall_s / DAY_S)
    axes.set_ylim(min(0.95, max(0.0, float(shares["progress"].min()) - 0.05)), 1)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_xlabel("time since the start (days)")
    axes.set_ylabel("share of the time")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return canvas


def losses(found: Summary) -> Canvas:
    """What each cause takes of the time of all nodes, but for steps that are kept."""
    shown = {cause: share for cause, share in found.node_share_by_cause.items() if share > 0 and cause != "progress"}
    ordered = sorted(shown, key=lambda cause: shown[cause])
    canvas, (axes,) = sheet(1.0 + 0.28 * max(len(ordered), 2))
    axes.barh(ordered, [100 * shown[cause] for cause in ordered], color=[COLOURS[cause] for cause in ordered])
    for row, cause in enumerate(ordered):
        axes.annotate(
            f" {100 * shown[cause]:.2f} %  {WORDS[cause]}", (100 * shown[cause], row), va="center", fontsize=8
        )
    axes.set_xlim(0, 1.6 * 100 * max(shown.values(), default=1.0))
    axes.set_xlabel("share of the time of all nodes (%)")
    return canvas


def heat(found: Summary) -> Canvas:
    """ETTR over GPUs and interval, with the line of best intervals and this run."""
    plan = found.plan
    sizes, intervals_s = around(plan)
    cells = grid(plan, found.restart_s, sizes, intervals_s)
    minutes = np.array(intervals_s) / MINUTE_S
    canvas, (axes,) = sheet(3.6)
    drawn = axes.pcolormesh(
        sizes,
        minutes,
        cells.ettr.T,
        cmap=_colours(),
        vmin=0,
        vmax=1,
        shading="gouraud",
        rasterized=True,
    )
    lines = axes.contour(sizes, minutes, cells.ettr.T, levels=[0.5, 0.7, 0.8, 0.9, 0.95], colors=INK, linewidths=0.6)
    axes.clabel(lines, fmt=lambda level: f"{level:.0%}", fontsize=7)
    axes.plot(sizes, np.array(cells.best_s) / MINUTE_S, color="#D55E00", linewidth=2, label="best interval")
    phase = max(plan.phases, key=lambda each: each.steps * each.step_s)
    here_s = phase.tiers[0].every_steps * phase.step_s
    axes.plot([plan.num_gpus], [here_s / MINUTE_S], "o", color=INK, label="this run")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_ylim(minutes[0], minutes[-1])
    axes.set_xlim(sizes[0], sizes[-1])
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel("GPUs of the job")
    axes.set_ylabel("training between checkpoints (min)")
    axes.legend(loc="upper right", facecolor=FAINT, frameon=True)
    canvas.colorbar(drawn, ax=axes, format=PercentFormatter(1, decimals=0), label="ETTR")
    return canvas


def _colours() -> Colormap:
    import matplotlib as mpl  # noqa: PLC0415 - the registry of colour maps is only there once it is imported

    return mpl.colormaps["viridis"]


def finish(found: Summary) -> Canvas:
    """When the runs end, or what they have trained where the window ends first."""
    canvas, (axes,) = sheet(2.6)
    is_window = not any(outcome.is_finished for outcome in found.outcomes)
    runs = found.outcomes
    values = [run.tokens / BILLION if is_window else run.wall_s / DAY_S for run in runs]
    axes.hist(values, bins=min(40, max(5, len(values) // 5)), color="#0072B2")
    middle = float(np.percentile(values, 50))
    axes.axvline(middle, color=INK, linewidth=1.2)
    unit = "B" if is_window else "days"
    axes.annotate(f" half of the runs: {middle:,.1f} {unit}", (middle, 1), xycoords=("data", "axes fraction"), va="top")
    window = units.text(found.plan.file.window_s or 0.0, "s")
    axes.set_xlabel(f"tokens after {window} (billions)" if is_window else "time until the last step (days)")
    axes.set_ylabel("runs")
    return canvas


def drawings(found: Summary, bands: tuple[Band, ...], wall_s: float) -> dict[str, tuple[str, Callable[[], Canvas]]]:
    """Name -> (title, how to draw it), in the order of the page."""
    return {
        "course": ("One run from start to end", lambda: course(bands, wall_s)),
        "losses": ("Where the rest of the time goes", lambda: losses(found)),
        "heat": ("Goodput against cluster size and checkpoint interval", lambda: heat(found)),
        "finish": ("When it ends", lambda: finish(found)),
    }
