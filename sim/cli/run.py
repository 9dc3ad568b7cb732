"""`sim run`: one scenario."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sim.cli.options import (
    Fidelity,
    FidelityOption,
    JsonOption,
    ScenarioArgument,
    SetOption,
    TraceOption,
    VariantOption,
)
from sim.cli.output import STDOUT, console, refuse_file, refuse_folder, write_json, writing

if TYPE_CHECKING:
    from sim.validation.intervals import Interval

EXAMPLES = (
    "sim run llama2-70b_128xh100_tp8-pp2-dp8",
    "sim run llama2-70b_128xh100_tp8-pp2-dp8 --set layout.tp=4 --set layout.pp=4 --report reports/tp4",
    "sim run llama2-70b_128xh100_layouts --variant tp2-pp8-dp8 --trace reports/trace",
    "sim run llama2-70b_128xh100_tp8-pp2-dp8 --json -",
)


def command(
    scenario: ScenarioArgument,
    variant: VariantOption = None,
    settings: SetOption = None,
    json: JsonOption = None,
    report: Annotated[Path | None, typer.Option("--report", metavar="DIR", help="Write the HTML report here.")] = None,
    trace: TraceOption = None,
    fidelity: FidelityOption = Fidelity.FUSED,
) -> None:
    """Simulate one step: how long, and where the time goes."""
    # Imported here, as in every command: they cost more than all of --help may take.
    from sim.simulation import load, run  # noqa: PLC0415 - see above

    refuse_file(json)
    refuse_folder(report)
    refuse_folder(trace)
    simulation = run(load(scenario, settings or (), variant=variant), fidelity.value)
    from sim.validation.intervals import interval_of  # noqa: PLC0415 - see above

    around = interval_of(simulation.scenario)
    if json is not None:
        write_json(
            simulation.result.to_dict() | {"step_time_interval": _ends(around, simulation.result.step_time_s)}, json
        )
    is_quiet = json == STDOUT
    if not is_quiet:
        from sim.report.text import print_result  # noqa: PLC0415 - see above

        print_result(simulation.result, console())
        typer.echo(_interval_text(around, simulation.result.step_time_s))
    if report is not None:
        from sim.report.page import write_report  # noqa: PLC0415 - see above

        with writing(report):
            page = write_report([simulation], report, simulation.result.name)
        typer.echo(f"report: {page}", err=is_quiet)
    if trace is not None:
        from sim.report.trace import write_traces  # noqa: PLC0415 - see above

        with writing(trace):
            paths = write_traces(simulation, trace)
        typer.echo(f"traces: {len(paths)} in {trace}", err=is_quiet)


def _ends(around: Interval | None, step_s: float) -> dict[str, Any] | None:
    """The interval in seconds, and which measured steps it is from."""
    from sim.validation.intervals import COVERAGE  # noqa: PLC0415 - see above

    if around is None:
        return None
    return {
        "low_s": around.low_frac * step_s,
        "high_s": around.high_frac * step_s,
        "coverage": COVERAGE,
        "num_rows": around.num_rows,
        "like": around.like,
    }


def _interval_text(around: Interval | None, step_s: float) -> str:
    from sim import units  # noqa: PLC0415 - see above

    if around is None:
        return "80 % interval: none, as no comparable step was measured"
    low, high = (units.text(share * step_s, "s") for share in (around.low_frac, around.high_frac))
    return f"80 % interval: {low} to {high}, from {around.num_rows} measured steps of {around.like}"
