"""Draws the pictures of this folder and rewrites the measured parts of README.md.

From the root of the repository: `.venv/bin/python reports/gallery/refresh.py`
"""  # noqa: INP001 - a script beside its pictures, no module of the package

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
SCENARIO = "llama2-70b_128xh100_layouts"
PICTURES = ("comparison", "timeline", "breakdown")
COLOURS = 64
"""The pictures have few colours; a palette makes them a third as large."""

INSIDE, ACROSS = "tp8-pp2-dp8 zero1", "tp8-pp2-dp8 tp across nodes"


def play(folder: Path, options: Iterable[str]) -> dict[str, str]:
    """The measured parts of the README by name, from a run of the command of `make demo`; `folder` is for its files."""
    path = folder / "results.json"
    command = [sys.executable, "-m", "sim", "compare", f"scenarios/{SCENARIO}.yaml", "--json", str(path), *options]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)  # noqa: S603 - our own command
    shown = [line for line in done.stdout.splitlines() if not line.startswith(("JSON: ", "report: "))]
    screen = [*shown, f"report: reports/{SCENARIO}/index.html"]
    variants = {result["scenario"]["variant"]: result for result in json.loads(path.read_text(encoding="utf-8"))}
    return {
        "first screen": "\n".join(["```text", *screen, "```"]),
        "placement": placement(variants[INSIDE], variants[ACROSS]),
    }


def placement(inside: Mapping[str, Any], across: Mapping[str, Any]) -> str:
    """The same layout in two rank orders, side by side."""
    both = (inside, across)
    steps_s = [result["step_time_s"] for result in both]
    exposed_s = [result["exposed_s_by_kind"]["tp"] for result in both]
    rest_s = [step_s - waited_s for step_s, waited_s in zip(steps_s, exposed_s, strict=True)]
    rows = [
        ("`layout.order`", [f"`{result['scenario']['layout']['order']}`" for result in both]),
        (
            "links of a tensor-parallel group",
            [_link(inside, "nvlink", "NVLink"), _link(across, "nic", "one NIC a GPU")],
        ),
        ("step", [f"{step_s:.2f} s" for step_s in steps_s]),
        ("exposed tensor-parallel communication", [f"{value_s:.2f} s" for value_s in exposed_s]),
        ("all the rest of the step", [f"{value_s:.2f} s" for value_s in rest_s]),
        ("MFU", [f"{100 * result['mfu']:.1f} %" for result in both]),
    ]
    lines = [f"| {name} | {' | '.join(values)} |" for name, values in rows]
    return "\n".join(["| TP8 x PP2 x DP8, ZeRO-1 | TP inside the node | TP across nodes |", "|---|---|---|", *lines])


def _link(result: Mapping[str, Any], tier: str, name: str) -> str:
    port = result["scenario"]["topology"][tier]
    return f"{name}, {port['bytes_per_s'] * port['efficiency'] / 1e9:.0f} GB/s"


def replaced(text: str, parts: Mapping[str, str]) -> str:
    """The README with new measured parts."""
    for name, part in parts.items():
        begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        assert text.count(begin) == text.count(end) == 1, f"README.md has no part {name!r}"
        before, rest = text.split(begin)
        text = f"{before}{begin}{part}\n{end}{rest.split(end)[1]}"
    return text


def main() -> None:
    """Play once, then write everything."""
    readme = ROOT / "README.md"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parts = play(folder, ["--report", str(folder / "report")])
        for picture in PICTURES:
            with Image.open(folder / "report" / "figures" / f"{picture}.png") as image:
                few = image.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
                few.save(Path(__file__).parent / f"{picture}.png", optimize=True)
    readme.write_text(replaced(readme.read_text(encoding="utf-8"), parts), encoding="utf-8")


if __name__ == "__main__":
    main()
