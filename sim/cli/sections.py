"""The sections of `sim show`. Imported by the command that prints them, because what it needs is heavy."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import yaml

from sim import simulation, units
from sim.cli.output import columns
from sim.program.lower import num_microbatches, stages_of_rank
from sim.program.shapes import shapes
from sim.program.stage import units_of_stage
from sim.results.result import Result
from sim.results.traffic import TrafficRow, traffic
from sim.spec.conditions import built_fabric
from sim.spec.flops import forward_flop_by_term, model_flop
from sim.spec.layout import edp, layers_of_stages, num_ranks
from sim.spec.load import dump
from sim.spec.parameters import parameters
from sim.spec.quotient import classes
from sim.spec.scenario import Scenario
from sim.spec.topology import Fabric
from sim.study.unused import unused, unused_tiers

TRAFFIC_HEAD = (
    *("kind", "collective", "over", "algorithm", "groups", "ranks", "nodes", "a call", "calls/step", "bytes/step"),
    *("exposed", "hidden", "bytes on links, all groups"),
)


def sections(scenario: Scenario) -> list[tuple[str, str]]:
    """(title, text) of what was understood, and of what a step sends as it was played."""
    fabric = built_fabric(scenario)
    played = simulation.run(scenario)
    rows = traffic(played.timeline.program, scenario, fabric)
    sent = columns(list(_traffic(rows, played.result))) if rows else "nothing: one rank"
    idle = [[path, reason] for path, reason in unused(scenario, fabric, rows)]
    idle += [[f"topology: {tier} links", "no traffic"] for tier in unused_tiers(fabric, rows)]
    return [
        ("ranks", columns(list(_ranks(scenario)))),
        ("parallelism: what a step sends", sent),
        ("the cluster, folded: nodes that cannot be told apart", columns(list(_cluster(fabric)))),
        ("parameters", columns([["term", "count"], *_parameters(scenario)])),
        ("model FLOPs of a step", columns([["term", "FLOP", "share"], *_flop(scenario)])),
        ("no effect here", columns([["what", "why"], *idle])),
        ("resolved scenario, in SI units (sources left out)", _resolved(scenario)),
    ]


def _resolved(scenario: Scenario) -> str:
    """The scenario as YAML: every value that the simulation reads, whoever wrote it."""
    values = dump(scenario)
    for part in ("gpu", "topology"):
        values[part] = {key: value for key, value in values[part].items() if key not in ("sources", "estimated")}
    text: str = yaml.safe_dump(values, sort_keys=False, width=110, default_flow_style=None)
    return text


def _ranks(scenario: Scenario) -> Iterator[Sequence[str]]:
    """The equations of the layout with their numbers."""
    layout, training = scenario.layout, scenario.training
    yield (
        "GPUs",
        f"tp * cp * dp * pp = {layout.tp} * {layout.cp} * {layout.dp} * {layout.pp} = {num_ranks(layout):,}",
    )
    if scenario.model.experts is not None:
        sizes = f"{layout.etp} * {layout.ep} * {edp(layout)} * {layout.pp}"
        yield "experts", f"etp * ep * edp * pp = {sizes} = {num_ranks(layout):,}"
    microbatches = num_microbatches(scenario)
    batch = f"{training.global_batch:,} / ({training.micro_batch} * {layout.dp})"
    yield "micro-batches", f"global_batch / (micro_batch * dp) = {batch} = {microbatches:,} on each pipeline"
    layers = [len(stage) for stage in layers_of_stages(layout, scenario.model.num_layers)]
    yield (
        "layers by stage",
        " ".join(f"{len(run)} x {layers[run[0]]}" if len(run) > 1 else str(layers[run[0]]) for run in _runs(layers)),
    )


def _cluster(fabric: Fabric) -> Iterator[list[str]]:
    """Classes of nodes, each with a line for every sort of its links."""
    yield ["like", "nodes", "links of each", "to those like", "over", "each (achieved)"]
    nodes, links = classes(fabric)
    for node in nodes:
        head = [node.name, f"{node.count:,}"]
        for link in (link for link in links if link.source == node.name):
            rate = units.text(link.bytes_per_s, "bytes/s")
            yield [*head, f"{link.count:,}", link.target, link.tier, rate]
            head = ["", ""]


def _parameters(scenario: Scenario) -> Iterator[list[str]]:
    """By term, the total, what a token meets, and what a rank holds."""
    counts = parameters(scenario.model)
    for term, count in counts.by_term.items():
        if count:
            yield [term.replace("_", " "), f"{count:,}"]
    yield ["total", f"{counts.total:,}"]
    yield ["active for a token", f"{counts.active:,}"]
    layout, s = scenario.layout, shapes(scenario)
    held = [
        sum(unit.shard.total for stage in stages for unit in units_of_stage(scenario, stage, s))
        for stages in (stages_of_rank(layout, pp_rank) for pp_rank in range(layout.pp))
    ]
    for run in _runs(held):
        ranks = f"rank {run[0]}" if len(run) == 1 else f"ranks {run[0]} to {run[-1]}"
        yield [f"on a GPU of pipeline {ranks} (before ZeRO, vocabulary padded)", f"{held[run[0]]:,.0f}"]


def _runs(values: Sequence[float]) -> list[list[int]]:
    """Indices of `values`, those of equal neighbours together.

    >>> _runs([4, 4, 3])
    [[0, 1], [2]]
    """
    return [list(run) for _, run in itertools.groupby(range(len(values)), key=lambda index: values[index])]


def _flop(scenario: Scenario) -> Iterator[list[str]]:
    """Forward and backward of the whole batch by term, and the sums that `mfu` and `mfu_causal` count."""
    training = scenario.training
    full = training.global_batch * model_flop(scenario.model, training.seq_len, causal=False)
    causal = training.global_batch * model_flop(scenario.model, training.seq_len, causal=True)
    for term, forward in forward_flop_by_term(scenario.model, training.seq_len).items():
        flop = 3 * training.global_batch * forward
        if flop:
            yield [term.replace("_", " "), *_share(flop, full)]
    yield ["all, full attention (mfu)", *_share(full, full)]
    yield ["all, causal attention (mfu_causal)", *_share(causal, full)]


def _share(flop: float, whole: float) -> list[str]:
    return [units.text(flop, "FLOP/s").removesuffix("/s"), f"{100 * flop / whole:.1f} %"]


def _traffic(rows: Sequence[TrafficRow], result: Result) -> Iterator[list[str]]:
    """One line for each kind, collective, algorithm and protocol. What the compute stream waits for a kind, and the
    share of it that runs beside compute, stand in the kind's first line."""
    yield [*TRAFFIC_HEAD]
    shown: set[str] = set()
    for row in rows:
        exposed, hidden = "", ""
        if row.kind not in shown:
            exposed = units.text(result.exposed_s_by_kind.get(row.kind, 0.0), "s")
            share = result.overlap_fraction_by_kind.get(row.kind)
            hidden = "" if share is None else f"{100 * share:.0f} %"
            shown.add(row.kind)
        smallest, largest = units.text(row.min_nbytes, "bytes"), units.text(row.max_nbytes, "bytes")
        tiers = " ".join(f"{tier} {units.text(nbytes, 'bytes')}" for tier, nbytes in row.bytes_by_tier.items())
        yield [
            row.kind,
            row.op,
            row.group,
            row.algorithm if row.algorithm == "send" else f"{row.algorithm} {row.protocol}",
            f"{row.num_groups:,}",
            f"{row.group_size:,}",
            f"{row.nodes_per_group:,}",
            largest if smallest == largest else f"{smallest} .. {largest}",
            f"{row.calls_per_step:,}",
            units.text(row.bytes_per_step, "bytes"),
            exposed,
            hidden,
            tiers,
        ]
