"""The page of a long run: figures, tables and JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sim.longrun.grid import Trial
from sim.longrun.run import play
from sim.longrun.summary import Summary
from sim.report.figures.style import picture
from sim.report.html import template
from sim.report.longrun import content, sections
from sim.report.longrun_figures import drawings
from sim.report.page import inline


def write_longrun(found: Summary, trials: Sequence[Trial], folder: Path) -> Path:
    """Write `index.html`, `figures/*.svg` and `*.png`, and `result.json`; the same bytes every time.

    The course is that of the first run, played once more.
    """
    figures = folder / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    first = play(found.plan, np.random.SeedSequence(found.plan.file.seed).spawn(1)[0], with_bands=True)
    pictures = []
    for name, (title, draw) in drawings(found, first.bands, first.wall_s).items():
        drawn = picture(draw)
        (figures / f"{name}.svg").write_text(drawn.svg, encoding="utf-8", newline="\n")
        (figures / f"{name}.png").write_bytes(drawn.png)
        pictures.append((title, inline(name, drawn.svg)))
    text = json.dumps(content(found, trials), indent=2, allow_nan=False)
    (folder / "result.json").write_text(text + "\n", encoding="utf-8", newline="\n")
    page = folder / "index.html"
    html = template("longrun.html").render(
        title=found.plan.file.name,
        pictures=pictures,
        sections=sections(found, trials),
        notes=found.plan.notes,
    )
    page.write_text(html, encoding="utf-8", newline="\n")
    return page
