"""Help is quick, shows an example of every command, and every example is a command line that is understood."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator

import pytest
import typer
from typer.testing import CliRunner

from sim.cli import (
    app,
    bench,
    bench_longrun,
    calibrate,
    calibrate_collectives,
    calibrate_step,
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

COMMANDS: dict[str, tuple[str, ...]] = {
    "run": run.EXAMPLES,
    "compare": compare.EXAMPLES,
    "sweep": sweep.EXAMPLES,
    "report": report.EXAMPLES,
    "search": search.EXAMPLES,
    "whatif": whatif.EXAMPLES,
    "placement": placement.EXAMPLES,
    "show": show.EXAMPLES,
    "list": listing.EXAMPLES,
    "plan": plan.EXAMPLES,
    "schedule": schedule.EXAMPLES,
    "schema": schema.EXAMPLES,
    "collective": collective.EXAMPLES,
    "longrun": longrun.EXAMPLES,
    "profile": profile.EXAMPLES,
    "bench engine": bench.EXAMPLES,
    "bench longrun": bench_longrun.EXAMPLES,
    **{f"results {name}": examples for name, examples in results.EXAMPLES.items()},
    **{f"validate {kind}": examples for kind, examples in validate.EXAMPLES.items()},
    "calibrate gpu": calibrate.EXAMPLES,
    "calibrate collectives": calibrate_collectives.EXAMPLES,
    "calibrate step": calibrate_step.EXAMPLES,
}
"""Examples of each command."""
HEAVY = ["numpy", "pandas", "matplotlib", "networkx", "pydantic", "yaml", "simpy", "jinja2", "rich"]


def leaves(group: typer.core.TyperGroup, prefix: tuple[str, ...] = ()) -> Iterator[str]:
    """Names of all commands, those inside groups too."""
    for name, command in group.commands.items():
        if isinstance(command, typer.core.TyperGroup):
            yield from leaves(command, (*prefix, name))
        else:
            yield " ".join((*prefix, name))


def listed(*arguments: str) -> set[str]:
    """What the help of a group lists."""
    output = CliRunner().invoke(app, [*arguments, "--help"]).output
    return {line.split()[0] for line in output.split("Commands:")[1].splitlines() if line.strip()}


def test_every_command_has_its_tests_here():
    assert list(leaves(typer.main.get_group(app))) == list(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_listed_by_its_group(name: str):
    *groups, last = name.split()
    assert last in listed(*groups)


@pytest.mark.parametrize("group", [[], ["bench"], ["validate"], ["calibrate"]])
def test_the_list_of_commands_cuts_no_summary(group: list[str]):
    output = CliRunner().invoke(app, [*group, "--help"]).output
    assert "..." not in output.split("Commands:")[1]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_the_examples_of_a_command(name: str):
    result = CliRunner().invoke(app, [*name.split(), "--help"])
    assert result.exit_code == 0
    assert COMMANDS[name]
    for example in COMMANDS[name]:
        assert f"  {example}\n" in result.output


@pytest.mark.parametrize(
    ("name", "example"), [(name, example) for name, examples in COMMANDS.items() for example in examples]
)
def test_an_example_is_understood(name: str, example: str):
    program, *words = shlex.split(example)
    path = name.split()
    assert [program, *words[: len(path)]] == ["sim", *path]
    command = typer.main.get_command(app)
    for word in path:
        command = command.commands[word]
    with command.make_context(name, words[len(path) :]) as context:
        assert context.command is command


def test_calibrate_without_the_name_of_a_command_is_that_of_a_gpu():
    for words in (["nowhere"], ["gpu", "nowhere"]):
        result = CliRunner().invoke(app, ["calibrate", *words])
        assert result.exit_code == 2
        assert result.stderr.startswith("no measurement of this GPU ships (got 'nowhere'")


def test_no_command_shows_the_help():
    assert "Commands:" in CliRunner().invoke(app, []).output


def test_an_unknown_option_exits_with_2():
    assert CliRunner().invoke(app, ["run", "x", "--nonsense"]).exit_code == 2


@pytest.mark.parametrize("module", ["sim", "sim.cli", "sim.__main__"])
def test_importing_the_command_line_imports_nothing_heavy(module: str, python: Callable):
    code = f"import sys, {module}; print(*sorted(set({HEAVY}) & set(sys.modules)))"
    done = python("-c", code)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")


def test_help_takes_less_than_a_third_of_a_second_of_cpu(python: Callable):
    code = (
        "import resource, sys\n"
        "from typer.testing import CliRunner\n"
        "from sim.cli import app\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_utime)"
    )
    assert min(float(python("-c", code).stdout) for _ in range(3)) < 0.3


def test_python_dash_m_is_the_command_line(python: Callable):
    done = python("-m", "sim", "--help")
    assert done.returncode == 0
    assert "Usage: python -m sim" in done.stdout
