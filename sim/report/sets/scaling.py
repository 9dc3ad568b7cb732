"""What more GPUs bring: for the same batch, and for the same batch of each GPU."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import final

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import NullLocator

from sim.report.figures.style import PNG_DPI, WIDTH_IN
from sim.report.points import Point
from sim.report.sets import SET_FIGURES

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = "os^Dvp"
GUIDE = "#8c939b"
HEIGHT_IN = 4.0
BATCH, LENGTH = "training.global_batch", "training.seq_len"

Curve = list[tuple[int, float]]


@final
class Scaling:
    """Strong scaling on the left, weak scaling on the right."""

    title = "Scaling"
    caption = (
        "Tokens/s of a GPU over that of the smallest cluster of the curve, the fastest result that fits at each size. "
        "Strong: the same model and global batch. Weak: the same model and tokens of a step for each GPU."
    )
    place = 6

    def applies(self, points: Sequence[Point]) -> bool:
        """Where a model is there on clusters of several sizes."""
        return bool(curves(points, _strong) or curves(points, _weak))

    def draw(self, points: Sequence[Point]) -> Canvas:
        """A panel for each kind that there is."""
        kinds = [(name, curves(points, key)) for name, key in (("strong", _strong), ("weak", _weak))]
        kinds = [(name, found) for name, found in kinds if found]
        canvas = Canvas(figsize=(WIDTH_IN, HEIGHT_IN), dpi=PNG_DPI, layout="constrained")
        for axes, (name, found) in zip(canvas.subplots(1, len(kinds), squeeze=False)[0], kinds, strict=True):
            _panel(axes, name, found)
        return canvas


def _strong(point: Point) -> tuple[str, str]:
    tokens = float(point.settings[BATCH]) * float(point.settings[LENGTH])
    return str(point.settings["model"]), f"{tokens:,.0f} tokens a step"


def _weak(point: Point) -> tuple[str, str]:
    tokens = float(point.settings[BATCH]) * float(point.settings[LENGTH]) / float(point.settings["num_gpus"])
    return str(point.settings["model"]), f"{tokens:,.0f} tokens a step and GPU"


def curves(points: Sequence[Point], key: Callable[[Point], tuple[str, str]]) -> dict[tuple[str, str], Curve]:
    """(GPUs, tokens/s of a GPU of the fastest that fits) by size, for each key that has several sizes."""
    best: dict[tuple[str, str], dict[int, float]] = defaultdict(dict)
    for point in points:
        if point.fits and all(path in point.settings for path in ("model", "num_gpus", BATCH, LENGTH)):
            sizes, gpus = best[key(point)], int(point.settings["num_gpus"])
            sizes[gpus] = max(sizes.get(gpus, 0.0), point.answers["tokens_per_s_per_gpu"])
    return {name: sorted(sizes.items()) for name, sizes in sorted(best.items()) if len(sizes) > 1}


def _panel(axes: Axes, name: str, found: dict[tuple[str, str], Curve]) -> None:
    sizes = sorted({gpus for curve in found.values() for gpus, _ in curve})
    for number, ((model, load), curve) in enumerate(found.items()):
        shares = [100 * speed / curve[0][1] for _, speed in curve]
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        axes.plot([gpus for gpus, _ in curve], shares, color=colour, marker=marker, label=f"{model}, {load}")
    axes.axhline(100, color=GUIDE, linestyle=(0, (4, 3)), linewidth=1)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.xaxis.set_minor_locator(NullLocator())
    top = max(speed / curve[0][1] for curve in found.values() for _, speed in curve)
    axes.set_ylim(0, 100 * max(1.1, 1.05 * top))
    axes.set_xlabel("GPUs")
    axes.set_ylabel("efficiency (%)")
    axes.grid(visible=True)
    axes.legend(loc="lower left")
    last = next(iter(found.values()))
    kept = 100 * last[-1][1] / last[0][1]
    axes.set_title(f"{name}: {last[-1][0] / last[0][0]:g} x the GPUs, {kept:.0f} % of the speed of each")


SET_FIGURES.register("scaling")(Scaling())
