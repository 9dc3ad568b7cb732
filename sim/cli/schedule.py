"""`sim schedule`: a pipeline schedule by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sim.cli.output import console, refuse_file, writing

EXAMPLES = (
    "sim schedule 1f1b --pp 4 --microbatches 8",
    "sim schedule zb_h1 --pp 4 --microbatches 8 --times 2,2,1",
    "sim schedule dualpipe --pp 8 --microbatches 20 --times 2,2,1,4",
    "sim schedule zb_v --pp 4 --vpp 2 --microbatches 8 --svg reports/zb_v.svg",
)


def command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="See `sim list schedules`; or a CSV file.")],
    pp: Annotated[int, typer.Option("--pp", min=1, help="Pipeline ranks.")],
    microbatches: Annotated[int, typer.Option("--microbatches", min=1, help="Micro-batches of the step.")],
    vpp: Annotated[int, typer.Option("--vpp", min=1, help="Chunks of the model on each rank.")] = 1,
    times: Annotated[
        str,
        typer.Option(
            "--times",
            metavar="F,I,W[,F&B]",
            help="Units of time of a chunk's passes; B takes I + W, F and B side by side F&B or else F + B.",
        ),
    ] = "1,1,1",
    svg: Annotated[str | None, typer.Option("--svg", metavar="FILE", help="Write the picture here.")] = None,
) -> None:
    """Draw a pipeline schedule: its grid, bubble and memory.

    Stages are equal and communication takes no time. One row a rank, one cell a unit of time: F forward, B backward, I
    input gradient, W weight gradient, and the micro-batch; with several chunks, the virtual stage before it. F1&B0 are
    two passes side by side.
    """
    from sim.report.schedule import drawing, parsed_times, print_drawing, schedule_svg  # noqa: PLC0415 - see sim.cli.run

    refuse_file(svg)
    drawn = drawing(name, pp, vpp, microbatches, parsed_times(times))
    print_drawing(drawn, console())
    if svg is not None:
        with writing(svg):
            Path(svg).parent.mkdir(parents=True, exist_ok=True)
            Path(svg).write_text(schedule_svg(drawn), encoding="utf-8")
        typer.echo(f"SVG: {svg}")
