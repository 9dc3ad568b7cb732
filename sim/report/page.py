"""The report: one HTML page that opens offline, its figures, `summary.csv` and `result.json`."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sim import units
from sim.cost.power import power_model
from sim.program.memory import verdict
from sim.report.answer import answer
from sim.report.figures import FIGURES
from sim.report.figures.style import FAINT, INK, PAPER, Picture, render
from sim.report.html import template
from sim.report.spent import energy_rows
from sim.report.tables import (
    breakdown_rows,
    columns_for,
    comparison_rows,
    gibibytes,
    percent,
    ranking,
    seconds,
    short_names,
)
from sim.report.text import key_numbers
from sim.report.words import KINDS, MEMORY
from sim.results.result import Result
from sim.simulation import Simulation
from sim.spec.load import dump
from sim.spec.scenario import Scenario
from sim.spec.sourced import Sourced, is_estimated, numbers, source_of

GIB = " GiB"

SHORT_YAML = ("sources", "estimated")
"""Keys that the page shows as a table of their own."""


@dataclass(frozen=True)
class Table:
    """A table of the page: heads and rows of text, and which columns are numbers."""

    heads: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    is_number: tuple[bool, ...]
    is_total: bool = False
    """Whether the last row is the sum of the others."""


@dataclass(frozen=True)
class Section:
    """Details of one scenario."""

    name: str
    anchor: str
    headline: str
    numbers: list[tuple[str, str]]
    tables: list[tuple[str, Table]]
    scenario_yaml: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Constant:
    """A number of a catalogue entry: its value in SI, where it is from, and whether nobody measured it."""

    key: str
    value: str
    source: str
    is_estimated: bool


def write_report(simulations: Sequence[Simulation], folder: Path, title: str) -> Path:
    """Write `index.html`, `figures/*.svg` and `*.png`, `summary.csv` and `result.json`; the same bytes every time.

    `result.json` holds a list, in the order given, or the one result.
    """
    assert simulations, "a report needs a simulation"
    results = [simulation.result for simulation in simulations]
    place = {id(result): position for position, result in enumerate(ranking(results))}
    ranked = sorted(simulations, key=lambda simulation: place[id(simulation.result)])
    figures = folder / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    pictures = {}
    for name, figure in sorted(FIGURES.items(), key=lambda item: item[1].place):
        if figure.applies(ranked):
            pictures[name] = render(figure, ranked)
            (figures / f"{name}.svg").write_text(pictures[name].svg, encoding="utf-8", newline="\n")
            (figures / f"{name}.png").write_bytes(pictures[name].png)
    (folder / "summary.csv").write_text(summary_csv(results), encoding="utf-8", newline="\n")
    plain: Any = [result.to_dict() for result in results]
    text = json.dumps(plain[0] if len(plain) == 1 else plain, indent=2, allow_nan=False)
    (folder / "result.json").write_text(text + "\n", encoding="utf-8", newline="\n")
    page = folder / "index.html"
    page.write_text(_html(ranked, results, pictures, title), encoding="utf-8", newline="\n")
    return page


def summary_csv(results: Sequence[Result]) -> str:
    """One line for each result, the best first; an empty cell where a number does not exist."""
    rows = comparison_rows(results)
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _html(ranked: Sequence[Simulation], given: Sequence[Result], pictures: dict[str, Picture], title: str) -> str:
    best = ranked[0].result
    rows = comparison_rows([simulation.result for simulation in ranked])
    columns = columns_for(rows)
    names = short_names([simulation.result for simulation in ranked])
    return template("report.html").render(
        title=title,
        answer=answer(given),
        best=best,
        setting=_setting(best),
        tiles=key_numbers(best),
        columns=columns,
        comparison=[([column.text(row) for column in columns], row["fits"]) for row in rows],
        figures=[(name, FIGURES[name], inline(name, picture.svg)) for name, picture in pictures.items()],
        sections=[_section(*named, position) for position, named in enumerate(zip(ranked, names, strict=True))],
        constants=_constants(simulation.scenario for simulation in ranked),
        is_comparison=len(ranked) > 1,
    )


def _setting(result: Result) -> str:
    """What was trained where."""
    scenario = result.scenario
    training = scenario.training
    return (
        f"{scenario.model.name} on {result.num_gpus:,} {scenario.gpu.name} ({scenario.topology.name}), "
        f"{training.global_batch:,} sequences of {training.seq_len:,} tokens a step, {training.precision}; "
        f"simulated by version {result.version}, {result.fidelity}"
    )


def inline(name: str, svg: str) -> str:
    """An SVG file as an element of the page: no XML head, colours that follow the page's, ids of its own."""
    element = svg[svg.index("<svg") :]
    element = re.sub(r"<metadata>.*?</metadata>", "", element, flags=re.DOTALL)
    for colour, variable in ((INK, "--ink"), (PAPER, "--paper"), (FAINT, "--faint")):
        element = element.replace(colour, f"var({variable})")
    return re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{name}-", element)


def _section(simulation: Simulation, name: str, position: int) -> Section:
    result = simulation.result
    tables = [
        ("Where the step goes", _breakdown(result)),
        ("Communication", _communication(result)),
        ("Memory of one GPU by pipeline rank (GiB)", _memory(result)),
        ("Links", _links(result)),
        ("Energy of a step", _energy(result)),
    ]
    return Section(
        name=name,
        anchor=f"scenario-{position}",
        headline=f"{seconds(result.step_time_s)}, MFU {percent(result.mfu)}, {verdict(result.memory)}",
        numbers=key_numbers(result),
        tables=[(head, table) for head, table in tables if table.rows],
        scenario_yaml=scenario_yaml(simulation.scenario),
        notes=result.notes,
    )


def scenario_yaml(scenario: Scenario) -> str:
    """The resolved scenario in SI, without the sources of its constants."""
    values = dump(scenario)
    for part in ("gpu", "topology"):
        values[part] = {key: value for key, value in values[part].items() if key not in SHORT_YAML}
    return yaml.safe_dump(values, sort_keys=False, width=100)


def _breakdown(result: Result) -> Table:
    rows = [(name, meaning, seconds(value), percent(share)) for name, meaning, value, share in breakdown_rows(result)]
    rows.append(("step", "sum of the above", seconds(result.step_time_s), percent(1.0)))
    return Table(("cause", "what it is", "time", "share"), rows, (False, False, True, True), is_total=True)


def _communication(result: Result) -> Table:
    rows = [
        (KINDS[kind][1], seconds(exposed_s), percent(exposed_s / result.step_time_s), percent(overlap))
        for kind, exposed_s in result.exposed_s_by_kind.items()
        for overlap in (result.overlap_fraction_by_kind[kind],)
    ]
    return Table(("kind", "exposed", "share of the step", "overlapped"), rows, (False, True, True, True))


def _memory(result: Result) -> Table:
    heads = ("pipeline rank", *(MEMORY[key][0] for key in result.memory[0].parts_bytes), "peak", "verdict")
    rows = []
    for stage in result.memory:
        parts = [gibibytes(nbytes).removesuffix(GIB) for nbytes in (*stage.parts_bytes.values(), stage.peak_bytes)]
        rows.append((str(stage.pp_rank), *parts, verdict([stage])))
    return Table(heads, rows, (False, *[True] * (len(heads) - 1)))


def _links(result: Result) -> Table:
    rows = [
        (tier, f"{use.num_links:,}", units.text(use.bytes, "bytes"), percent(use.mean_use), percent(use.max_use))
        for tier, use in result.link_use.items()
    ]
    heads = ("tier", "links", "bytes in the step", "mean use", "use of the busiest link")
    return Table(heads, rows, (False, True, True, True, True))


def _energy(result: Result) -> Table:
    heads = ("GPUs that run, or else", "power of one", "energy of all", "share of the data centre's")
    return Table(heads, energy_rows(result), (False, True, True, True), is_total=True)


def _constants(scenarios: Iterable[Scenario]) -> dict[str, list[Constant]]:
    """Constants of every distinct GPU, topology and stack, and those of power, by name."""
    found: dict[str, list[Constant]] = {}
    for scenario in scenarios:
        for kind, entry in (("GPU", scenario.gpu), ("topology", scenario.topology), ("stack", scenario.stack)):
            found.setdefault(f"{kind} {entry.name}", _sourced(entry))
    return found | {"power": _sourced(power_model())}


def _sourced(entry: Sourced) -> list[Constant]:
    return [
        Constant(key, f"{value:.6g}", source_of(entry, key), is_estimated(entry, key))
        for key, value in numbers(entry).items()
    ]
