"""Fields of a scenario that change nothing at this point, and why."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from sim.program.lower import num_microbatches, schedule_table
from sim.program.optimizer import scales_gradients
from sim.program.replication import replication
from sim.program.shapes import attention_of
from sim.program.table import Pair
from sim.results.traffic import TrafficRow
from sim.spec import background
from sim.spec.conditions import Conditions
from sim.spec.degraded import cables, path_of
from sim.spec.layout import axis_sizes, cp_head_ranks, edp, num_stages
from sim.spec.moe import is_drawn
from sim.spec.network import Algorithms
from sim.spec.scenario import Scenario
from sim.spec.topology import Fabric
from sim.spec.training import Training


def unused(scenario: Scenario, fabric: Fabric, rows: Iterable[TrafficRow]) -> list[tuple[str, str]]:
    """(path, reason) of every field of layout, training, network, conditions and seed that has no effect here.

    rows: the step's traffic.
    """
    rows = list(rows)
    idle_tiers = set(unused_tiers(fabric, rows))
    return [
        *_replicas(scenario),
        *_synchronisation(scenario),
        *_clipping(scenario.training),
        *_axes(scenario, fabric),
        *_routing(scenario, rows),
        *_pairs(scenario),
        *_algorithms(rows),
        *_slowdown(rows),
        *_conditions(scenario.conditions, fabric, idle_tiers, has_draws=is_drawn(scenario.training.moe)),
    ]


def unused_tiers(fabric: Fabric, rows: Iterable[TrafficRow]) -> list[str]:
    """Tiers of the topology that carry no bytes in a step."""
    crossed = {tier for row in rows for tier in row.bytes_by_tier}
    return [tier for tier in fabric.links.tiers if tier not in crossed]


def _replicas(scenario: Scenario) -> Iterator[tuple[str, str]]:
    """What is about gradients and parameters of replicas."""
    layout, training, rep = scenario.layout, scenario.training, replication(scenario)
    has_experts = scenario.model.experts is not None
    if rep.dense.replicas == 1 and not (has_experts and edp(layout) > 1):
        reason = f"dp * cp = {layout.dp} * {layout.cp} = 1: nothing is replicated"
        yield "layout.zero", reason
        yield "training.overlap.grad_reduce", reason
        yield "training.overlap.param_gather", reason
        if training.bucket_bytes is not None:
            yield "training.bucket", reason
        if training.prefetch_layers is not None:
            yield "training.prefetch_layers", reason
        for path in _set_paths(scenario):
            yield path, reason
        return
    if layout.zero in (0, 3):
        what = "every rank updates all parameters" if layout.zero == 0 else "parameters are gathered before each use"
        yield "training.overlap.param_gather", f"zero = {layout.zero}: {what}"


def _set_paths(scenario: Scenario) -> Iterator[str]:
    """Fields about replicas that the scenario sets and that are nothing by default."""
    layout, training = scenario.layout, scenario.training
    fields = {
        "layout.shard": layout.shard,
        "layout.reshard": None if layout.reshard is True else layout.reshard,
        "training.reduce_precision": training.reduce_precision,
        "training.gather_precision": training.gather_precision,
        "training.grad_sync": None if training.grad_sync == "last" else training.grad_sync,
    }
    return (path for path, value in fields.items() if value is not None)


def _synchronisation(scenario: Scenario) -> Iterator[tuple[str, str]]:
    """Choices about gradients and shards that come to what holds without them."""
    layout, training, rep = scenario.layout, scenario.training, replication(scenario)
    if rep.dense.replicas == 1:
        return
    if layout.shard == rep.dense.replicas:
        yield "layout.shard", f"dp * cp = {rep.dense.replicas} ranks are one shard group"
    if layout.shard == 1:
        if training.gather_precision is not None:
            yield "training.gather_precision", "shard = 1: nothing is gathered"
        if layout.reshard is not True:
            yield "layout.reshard", "shard = 1: nothing is gathered"
    if training.reduce_precision == training.grad_precision:
        yield "training.reduce_precision", f"{training.grad_precision} is the format of the gradient buffer"
    if num_microbatches(scenario) == 1 and training.grad_sync in ("every", "two_hop"):
        yield "training.grad_sync", "one micro-batch: its backward pass is the last one"
    elif training.grad_sync == "two_hop" and layout.shard == rep.dense.replicas:
        yield "training.grad_sync", "one shard group: there is no second hop"


def _clipping(training: Training) -> Iterator[tuple[str, str]]:
    if not training.clip_grad and scales_gradients(training):
        yield "training.clip_grad", "fp16: gradients are read for overflows and scaled back all the same"


def _axes(scenario: Scenario, fabric: Fabric) -> Iterator[tuple[str, str]]:
    """What is about the split of the model and its place on the topology."""
    layout = scenario.layout
    yield from _context(scenario)
    if layout.tp == 1 and layout.etp == 1:
        yield "training.overlap.tensor", "tp = 1: no product is split"
    if layout.pp == 1 and scenario.training.overlap.pipeline is not None:
        yield "training.overlap.pipeline", "pp = 1: nothing is sent to another stage"
    if layout.stage_layers is not None and num_stages(layout) == 1:
        yield "layout.stage_layers", "pp * vpp = 1: one stage holds all layers"
    split = [axis for axis, size in axis_sizes(layout).items() if size > 1]
    if len(split) < 2:
        yield "layout.order", f"only {split[0]} is split" if split else "one rank"
    elif fabric.num_gpus == fabric.gpus_per_node and scenario.model.experts is None:
        yield "layout.order", "all GPUs of the topology are in one node"


def _context(scenario: Scenario) -> Iterator[tuple[str, str]]:
    """What is about parts of the sequence."""
    layout = scenario.layout
    if layout.cp == 1 and layout.cp_method != "all_gather":
        yield "layout.cp_method", "cp = 1: the sequence is not split"
    if layout.cp_balance == "none" and layout.cp == cp_head_ranks(layout):
        yield "layout.cp_balance", "every rank attends to whole sequences"
    elif layout.cp > 1 and attention_of(scenario) == "unfused":
        yield "layout.cp_balance", "unfused attention computes masked scores too"


def _routing(scenario: Scenario, rows: Iterable[TrafficRow]) -> Iterator[tuple[str, str]]:
    """What is about tokens on their way to experts, where it was written down."""
    experts, training = scenario.model.experts, scenario.training
    exchanges = [row for row in rows if row.kind == "ep"]
    if training.overlap.shared_expert and (experts is None or not experts.shared_ffn_hidden or not exchanges):
        yield "training.overlap.shared_expert", "no shared expert beside an exchange of tokens"
    if experts is not None and training.moe.dispatch != "bf16" and not exchanges:
        yield "training.moe.dispatch", "no tokens travel between ranks"
    is_two_level = any(row.algorithm == "two_level" for row in exchanges)
    if experts is not None and training.moe.node_limit is not None and not is_two_level:
        yield "training.moe.node_limit", "only the two_level all_to_all sends a token once to a node"


def _pairs(scenario: Scenario) -> Iterator[tuple[str, str]]:
    if scenario.training.overlap.expert:
        table = schedule_table(scenario)
        if not any(isinstance(cell, Pair) for row in table for cell in row):
            yield "training.overlap.expert", "no forward pass follows a backward pass: all are in flight at once"


def _algorithms(rows: Iterable[TrafficRow]) -> Iterator[tuple[str, str]]:
    used = {row.op.split()[0] for row in rows}
    for op in Algorithms.model_fields:
        if op not in used:
            yield f"network.algorithms.{op}", f"this step has no {op}"


def _slowdown(rows: list[TrafficRow]) -> Iterator[tuple[str, str]]:
    if not rows:
        yield "training.overlap.compute_slowdown", "no communication runs beside a kernel"


def _conditions(
    conditions: Conditions, fabric: Fabric, idle_tiers: set[str], *, has_draws: bool
) -> Iterator[tuple[str, str]]:
    """What is as on the data sheet all the same, and cables of tiers without traffic."""
    for gpu, speed in conditions.gpus.items():
        if speed == 1:
            yield f"conditions.gpus.{gpu}", "speed 1: as on the data sheet"
    for cable, (link, _) in cables(fabric, conditions.links).items():
        tier = fabric.links.tiers[fabric.links.tier[link]]
        if conditions.links[cable] == 1:
            yield path_of(cable), "share 1: as on the data sheet"
        elif tier in idle_tiers:
            yield path_of(cable), f"no traffic on {tier} links"
    yield from _background(conditions, fabric, idle_tiers)
    if not (has_draws or conditions.jitter.per_rank or conditions.jitter.per_operation):
        yield "seed", "nothing in a step is drawn at random (conditions.jitter is 0)"


def _background(conditions: Conditions, fabric: Fabric, idle_tiers: set[str]) -> Iterator[tuple[str, str]]:
    """Background load of nothing, on tiers without traffic, and on broken cables."""
    shares = conditions.background
    named = cables(fabric, background.loaded_cables(shares), path_of=background.path_of)
    bad = cables(fabric, conditions.links)
    broken = {min(links) for name, links in bad.items() if conditions.links[name] == 0}
    for name, share in shares.items():
        path = background.path_of(name)
        tier = fabric.links.tiers[fabric.links.tier[named[name][0]]] if name in named else name
        if share == 0 and (name not in named or not shares.get(tier)):
            yield path, "share 0: nobody else uses it"
        elif tier in idle_tiers:
            yield path, f"no traffic on {tier} links"
        elif name in named and min(named[name]) in broken:
            yield path, "the cable is broken"
