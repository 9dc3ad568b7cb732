"""The command line: one file a command. Only typer and the standard library are imported before a command runs."""

from __future__ import annotations

import typer

from sim.cli import (
    bench,
    bench_longrun,
    calibrate,
    collective,
    compare,
    listing,
    longrun,
    placement,
    plan,
    profile,
    report,
    results,
    run,
    schedule,
    schema,
    search,
    show,
    sweep,
    validate,
    whatif,
)
from sim.cli.group import Command, Group, epilog

app = typer.Typer(
    cls=Group,
    name="sim",
    help="Simulate LLM pretraining: how long a step takes, where every second goes, and whether it fits in memory.",
    epilog="\b\nStart with:\n  sim list scenarios\n  sim run llama2-70b_128xh100_tp8-pp2-dp8",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

for name, module in (
    ("run", run),
    ("compare", compare),
    ("sweep", sweep),
    ("report", report),
    ("search", search),
    ("whatif", whatif),
    ("placement", placement),
    ("show", show),
    ("list", listing),
    ("plan", plan),
    ("schedule", schedule),
    ("schema", schema),
    ("collective", collective),
    ("longrun", longrun),
    ("profile", profile),
):
    app.command(name, cls=Command, epilog=epilog(module.EXAMPLES))(module.command)

benches = typer.Typer(help="How good the simulator itself is.", no_args_is_help=True)
benches.command("engine", cls=Command, epilog=epilog(bench.EXAMPLES))(bench.command)
benches.command("longrun", cls=Command, epilog=epilog(bench_longrun.EXAMPLES))(bench_longrun.command)
app.add_typer(benches, name="bench")
app.add_typer(results.app, name="results")
app.add_typer(validate.app, name="validate")
app.add_typer(calibrate.app, name="calibrate")
