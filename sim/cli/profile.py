"""`sim profile`: measure this machine's GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sim.cli.output import refuse_folder, writing

EXAMPLES = (
    "sim profile --out measured",
    "sim profile --out measured --gpu h100-sxm --only gemm,attention --quick",
)


def command(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Write a CSV file for each section here.")],
    gpu: Annotated[
        str | None,
        typer.Option("--gpu", metavar="NAME", help="Which GPU of `sim list gpus` it is; else what PyTorch calls it."),
    ] = None,
    only: Annotated[
        str,
        typer.Option(
            "--only",
            metavar="A,B",
            help="Of gemm, gemm_sustained, attention, attention_sustained, memory_bound, launch, copy; else all.",
        ),
    ] = "",
    *,
    quick: Annotated[bool, typer.Option("--quick", help="A few shapes of each: minutes, not hours.")] = False,
    device: Annotated[str, typer.Option("--device", hidden=True)] = "cuda",
) -> None:
    """Measure this machine's GPU with PyTorch.

    Kernels, launches and copies, in files for `sim calibrate` and `sim validate`. Rows are written as they are
    measured; the same command again goes on where it stopped.
    """
    from sim.profile import run  # noqa: PLC0415 - see sim.cli.run

    refuse_folder(out)
    run.check_gpu(gpu)
    sections = run.wanted_sections(name.strip() for name in only.split(",") if name.strip())
    opened = run.open_device(device, gpu)
    size = run.size_on(opened, is_quick=quick)
    for section in sections:
        with writing(out):
            done = run.measure_section(
                section, opened, out, size, gpu=gpu, tell=lambda line: typer.echo(line, err=True)
            )
        counts = f"{done.num_measured} measured, {done.num_there} there before, {done.num_skipped} left out"
        typer.echo(f"{done.path}: {counts}")
