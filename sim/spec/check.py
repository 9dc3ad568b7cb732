"""Whether the parts of a scenario fit each other: one rule for each way in which they may not.

A rule yields (path in the scenario file, message with the numbers) for each mistake that it finds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import TypeAlias

import numpy as np

from sim.errors import SimError
from sim.spec.background import loaded
from sim.spec.degraded import degraded
from sim.spec.layout import (
    AXES,
    TWO_LEVEL,
    Layout,
    cp_head_ranks,
    groups,
    layers_of_stages,
    num_stages,
    part_size,
    refuse_balanced,
    replicas,
)
from sim.spec.model import Experts, Model
from sim.spec.moe import Moe
from sim.spec.scenario import Scenario, family
from sim.spec.topology import FABRICS, Fabric, FabricSpec, Ints

Mistakes: TypeAlias = Iterator[tuple[str, str]]
Rule: TypeAlias = Callable[[Scenario], Mistakes]

MAX_STAGES = 2**16
MAX_MICROBATCHES = 2**14

RULES: dict[Rule, frozenset[str]] = {}
"""Every rule, with the parts of the scenario that it reads."""


def _rule(*parts: str) -> Callable[[Rule], Rule]:
    def add(rule: Rule) -> Rule:
        RULES[rule] = frozenset(parts)
        return rule

    return add


def check(scenario: Scenario, parts: frozenset[str] | None = None) -> list[tuple[str, str]]:
    """Every mistake that the rules find; where only some `parts` are known, the rules that read no others."""
    return [mistake for rule, reads in RULES.items() if parts is None or reads <= parts for mistake in rule(scenario)]


def num_gpus(topology: FabricSpec) -> int:
    """GPUs of the built fabric."""
    return _num_gpus(family(topology), topology.model_dump_json())


@lru_cache(maxsize=64)
def _num_gpus(fabric: str, fields: str) -> int:
    return FABRICS[fabric].model_validate_json(fields).build().num_gpus


def derive_dp(layout: Layout, topology: FabricSpec) -> Layout:
    """The layout with `dp`, where the file leaves it out: GPUs / (tp x cp x pp).

    Raises ValueError, with the equation, where that is no whole number.
    """
    if layout.dp is not None:
        return layout
    rest = layout.tp * layout.cp * layout.pp
    gpus = num_gpus(topology)
    if gpus % rest:
        raise ValueError(
            f"dp cannot be derived: tp * cp * pp = {layout.tp} * {layout.cp} * {layout.pp} = {rest} does not divide "
            f"the topology's {gpus} GPUs"
        )
    return layout.model_copy(update={"dp": gpus // rest})


@_rule("layout", "topology")
def _world(scenario: Scenario) -> Mistakes:
    layout = scenario.layout
    assert layout.dp is not None
    world = layout.tp * layout.cp * layout.dp * layout.pp
    gpus = num_gpus(scenario.topology)
    if world != gpus:
        sizes = f"{layout.tp} * {layout.cp} * {layout.dp} * {layout.pp}"
        yield "layout", f"tp * cp * dp * pp = {sizes} = {world}, but the topology has {gpus} GPUs"


@_rule("layout", "topology")
def _expert_axes(scenario: Scenario) -> Mistakes:
    layout = scenario.layout
    assert layout.dp is not None
    ranks, experts = layout.tp * layout.cp * layout.dp, layout.etp * layout.ep
    if ranks % experts:
        path = "layout.ep" if layout.ep > 1 else "layout.etp"
        product = f"tp * cp * dp = {layout.tp} * {layout.cp} * {layout.dp} = {ranks}"
        yield path, f"etp * ep = {layout.etp} * {layout.ep} = {experts} does not divide {product}"


@_rule("layout", "topology")
def _order(scenario: Scenario) -> Mistakes:
    layout = scenario.layout
    order = layout.order.split("-")
    got = f"got {layout.order!r}, allowed an order of {'-'.join(AXES)}"
    sizes = {axis: getattr(layout, axis) for axis in AXES}
    if unknown := [axis for axis in order if axis not in AXES]:
        yield "layout.order", f"no axis {', '.join(map(repr, unknown))} ({got})"
    if twice := sorted({axis for axis in order if order.count(axis) > 1}):
        yield "layout.order", f"{', '.join(twice)} stands twice ({got})"
    if missing := [axis for axis in AXES if axis not in order and sizes[axis] > 1]:
        named = ", ".join(f"{axis} = {sizes[axis]}" for axis in missing)
        yield "layout.order", f"{named} is missing; only axes of size 1 may be left out ({got})"
    if layout.ep > 1 and "ep" in order and "dp" in order and order.index("ep") > order.index("dp"):
        yield "layout.order", f"ep must stand left of dp, as experts lie on neighbouring ranks ({got})"


@_rule("layout", "model")
def _tensor(scenario: Scenario) -> Mistakes:
    """What tp splits. Vocabulary is padded, as Megatron-LM pads it; missing key and value heads are replicated."""
    tp, model = scenario.layout.tp, scenario.model
    if model.num_heads % tp:
        yield "layout.tp", f"tp = {tp} does not divide num_heads = {model.num_heads}"
    kv_heads = model.num_kv_heads
    if model.latent_attention is None and kv_heads % tp and tp % kv_heads:
        yield "layout.tp", f"tp = {tp} and num_kv_heads = {kv_heads}: neither divides the other"
    if _has_dense_mlp(model) and model.ffn_hidden % tp:
        yield "layout.tp", f"tp = {tp} does not divide ffn_hidden = {model.ffn_hidden}"
    if model.experts is not None and model.experts.shared_ffn_hidden % tp:
        yield "layout.tp", f"tp = {tp} does not divide shared_ffn_hidden = {model.experts.shared_ffn_hidden}"


def _has_dense_mlp(model: Model) -> bool:
    experts = model.experts
    return experts is None or experts.first_dense_layers > 0 or experts.layer_stride > 1


@_rule("layout", "model")
def _experts(scenario: Scenario) -> Mistakes:
    layout, experts = scenario.layout, scenario.model.experts
    if experts is None:
        for axis in ("ep", "etp"):
            if (size := getattr(layout, axis)) > 1:
                yield f"layout.{axis}", f"{axis} = {size} needs a model with experts, {scenario.model.name} has none"
        return
    if experts.num_experts % layout.ep:
        yield "layout.ep", f"ep = {layout.ep} does not divide num_experts = {experts.num_experts}"
    if experts.ffn_hidden % layout.etp:
        yield "layout.etp", f"etp = {layout.etp} does not divide the experts' ffn_hidden = {experts.ffn_hidden}"


@_rule("model", "training")
def _expert_loads(scenario: Scenario) -> Mistakes:
    moe, experts = scenario.training.moe, scenario.model.experts
    if experts is None:
        if moe != Moe():
            yield "training.moe", f"needs a model with experts, {scenario.model.name} has none"
        return
    if isinstance(moe.load, tuple):
        yield from _given_loads(moe.load, experts)


def _given_loads(load: tuple[float, ...], experts: Experts) -> Mistakes:
    if len(load) != experts.num_experts:
        yield "training.moe.load", f"{len(load)} loads for num_experts = {experts.num_experts}"
    elif sum(load) == 0 or max(load) * experts.top_k > sum(load) * (1 + 1e-9):
        yield (
            "training.moe.load",
            f"one has {max(load):g} of {sum(load):g} (allowed up to 1/top_k = 1/{experts.top_k} of a sum above 0)",
        )


@_rule("layout", "training")
def _sequence(scenario: Scenario) -> Mistakes:
    layout, seq_len = scenario.layout, scenario.training.seq_len
    if seq_len % layout.cp:
        yield "layout.cp", f"cp = {layout.cp} does not divide seq_len = {seq_len}"
    elif layout.sequence_parallel and (seq_len // layout.cp) % layout.tp:
        part = f"seq_len / cp = {seq_len} / {layout.cp} = {seq_len // layout.cp}"
        yield "layout.sequence_parallel", f"tp = {layout.tp} does not divide {part}"


@_rule("layout")
def _context_levels(scenario: Scenario) -> Mistakes:
    """cp_inner belongs to the two-level methods, and is a part of cp."""
    layout = scenario.layout
    cp, inner, method = layout.cp, layout.cp_inner, layout.cp_method
    if method not in TWO_LEVEL:
        if inner is not None:
            yield "layout.cp_inner", f"cp_inner with cp_method = {method} (allowed with {', '.join(TWO_LEVEL)})"
    elif inner is None:
        yield "layout.cp_inner", f"cp_method = {method} needs cp_inner, ranks of an inner group"
    elif cp % inner or not 1 < inner < cp:
        yield "layout.cp_inner", f"cp_inner = {inner} is no part of cp = {cp} (allowed a divisor between 1 and {cp})"


@_rule("layout", "model")
def _context_heads(scenario: Scenario) -> Mistakes:
    """Ulysses spreads heads over ranks. Missing key and value heads are replicated."""
    layout, model = scenario.layout, scenario.model
    if any(True for _ in _context_levels(scenario)) or model.num_heads % layout.tp:
        return
    ranks, heads = cp_head_ranks(layout), model.num_heads // layout.tp
    name = "cp_inner" if layout.cp_method in TWO_LEVEL else "cp"
    if heads % ranks:
        yield (
            f"layout.{name}",
            f"{name} = {ranks} does not divide num_heads / tp = {model.num_heads} / {layout.tp} = {heads}",
        )
    kv_heads = max(model.num_kv_heads // layout.tp, 1)
    if model.latent_attention is None and kv_heads % ranks and ranks % kv_heads:
        yield (
            f"layout.{name}",
            f"{name} = {ranks} and key and value heads / tp = {kv_heads}: neither divides the other",
        )


@_rule("layout", "training")
def _context_halves(scenario: Scenario) -> Mistakes:
    """Blocks of a balanced ring have two chunks."""
    layout, seq_len = scenario.layout, scenario.training.seq_len
    is_ring = layout.cp_method in ("ring", "ulysses_ring") and layout.cp > 1
    if is_ring and layout.cp_balance == "zigzag" and seq_len % layout.cp == 0 and seq_len % (2 * layout.cp):
        yield "layout.cp", f"2 * cp = {2 * layout.cp} chunks of a balanced ring do not divide seq_len = {seq_len}"


@_rule("layout")
def _sequence_parallel(scenario: Scenario) -> Mistakes:
    if scenario.layout.sequence_parallel and scenario.layout.tp == 1:
        yield "layout.sequence_parallel", "sequence_parallel goes with tensor parallelism (got tp = 1, allowed tp > 1)"


@_rule("layout", "topology", "training")
def _tensor_chunks(scenario: Scenario) -> Mistakes:
    """Chunks of sequence parallelism's messages, through buffers that the GPUs of a node write into directly."""
    layout, training = scenario.layout, scenario.training
    chunks, path = training.overlap.tensor_chunks, "training.overlap.tensor_chunks"
    if chunks is None:
        return
    if not layout.sequence_parallel:
        yield path, "tensor_chunks goes with layout.sequence_parallel (got false, allowed true)"
        return
    tokens = training.micro_batch * training.seq_len // layout.cp
    if tokens % chunks:
        product = f"micro_batch * seq_len / cp = {training.micro_batch} * {training.seq_len} / {layout.cp} = {tokens}"
        yield path, f"tensor_chunks = {chunks} does not divide {product}"
    if any(True for rule in (_world, _order) for _ in rule(scenario)):
        return
    node = scenario.topology.build().node_of(groups(layout, "tp"))
    if (node != node[:, :1]).any():
        yield path, f"tensor_chunks needs tp groups in one node (got tp = {layout.tp}, order {layout.order})"


@_rule("model", "training")
def _positions(scenario: Scenario) -> Mistakes:
    model, seq_len = scenario.model, scenario.training.seq_len
    if model.learned_positions and seq_len > model.max_seq_len:
        yield "training.seq_len", f"seq_len = {seq_len} is more than the model's {model.max_seq_len} learned positions"


@_rule("layout", "topology", "training")
def _batch(scenario: Scenario) -> Mistakes:
    layout, training = scenario.layout, scenario.training
    assert layout.dp is not None
    at_once = layout.dp * training.micro_batch
    if training.global_batch % at_once:
        product = f"dp * micro_batch = {layout.dp} * {training.micro_batch} = {at_once}"
        yield "training.global_batch", f"global_batch = {training.global_batch} is no multiple of {product}"
    elif (microbatches := training.global_batch // at_once) > MAX_MICROBATCHES:
        equation = f"global_batch / (dp * micro_batch) = {training.global_batch} / {at_once} = {microbatches}"
        yield "training.global_batch", f"{equation} micro-batches, allowed up to {MAX_MICROBATCHES}"


@_rule("layout", "model")
def _stages(scenario: Scenario) -> Mistakes:
    layout, num_layers = scenario.layout, scenario.model.num_layers
    stages = num_stages(layout)
    if stages > MAX_STAGES:
        yield "layout", f"pp * vpp = {layout.pp} * {layout.vpp} = {stages} stages, allowed up to {MAX_STAGES}"
        return
    divide = refuse_balanced if layout.stage_layers == "balanced" else layers_of_stages
    try:
        divide(layout, num_layers)
    except ValueError as error:
        yield "layout" if layout.stage_layers is None else "layout.stage_layers", str(error)


@_rule("layout", "training")
def _sharding(scenario: Scenario) -> Mistakes:
    """Switches that belong to another ZeRO stage would be read and ignored."""
    zero, training = scenario.layout.zero, scenario.training
    if zero == 3 and training.bucket_bytes is not None:
        yield "training.bucket", "zero = 3 reduces layer by layer, without buckets (allowed with zero 0, 1 or 2)"
    if zero != 3 and training.prefetch_layers is not None:
        yield "training.prefetch_layers", f"zero = {zero} gathers no layers ahead (allowed with zero 3)"
    if zero != 3 and training.gather_precision is not None:
        yield "training.gather_precision", f"zero = {zero} gathers updated parameters as they are (allowed with zero 3)"
    yield from _synchronisation(scenario)
    yield from _hops(scenario)


def _synchronisation(scenario: Scenario) -> Mistakes:
    """When gradients are reduced, by what is sharded."""
    layout, sync = scenario.layout, scenario.training.grad_sync
    allowed = {1: ("all_reduce",), 2: ("every", "two_hop"), 3: ("every", "two_hop", "last")}.get(layout.zero, ())
    if sync is not None and sync not in allowed:
        names = ", ".join(allowed) or "none, as gradients are all_reduced once"
        yield "training.grad_sync", f"got {sync} with zero = {layout.zero} (allowed {names})"
    if sync == "two_hop" and layout.shard is None:
        yield "training.grad_sync", "two_hop has a second hop between shard groups (allowed with layout.shard)"


def _hops(scenario: Scenario) -> Mistakes:
    """4-bit gradients go in two all_to_all, whose first needs a size; DeepSpeed has them in ZeRO-3 without MiCS."""
    layout, is_int4 = scenario.layout, scenario.training.reduce_precision == "int4"
    if is_int4 and (layout.zero != 3 or layout.shard is not None):
        got = f"zero = {layout.zero}, shard = {layout.shard or 'all'}"
        yield "training.reduce_precision", f"int4 with {got} (allowed with zero 3 and without shard)"
    if is_int4 and layout.reduce_hop is None:
        yield (
            "layout.reduce_hop",
            "is missing: reduce_precision = int4 goes in two all_to_all (allowed: GPUs of a node)",
        )
    if not is_int4 and layout.reduce_hop is not None:
        yield "layout.reduce_hop", f"got {layout.reduce_hop}, allowed with training.reduce_precision int4"


@_rule("layout", "model", "topology")
def _shard_groups(scenario: Scenario) -> Mistakes:
    """Groups within the replicas of dense parameters, and as large a part of those of experts."""
    layout, has_experts = scenario.layout, scenario.model.experts is not None
    dense = replicas(layout, "dp_cp")
    if any(True for rule in (_world, _expert_axes) for _ in rule(scenario)):
        return
    if layout.zero == 0 and layout.shard is not None:
        yield "layout.shard", f"zero = 0 shards nothing (got {layout.shard}, allowed with zero 1, 2 or 3)"
    if layout.zero != 3 and layout.reshard is not True:
        yield (
            "layout.reshard",
            f"zero = {layout.zero} keeps parameters whole (got {layout.reshard}, allowed with zero 3)",
        )
    reshard = None if isinstance(layout.reshard, (bool, str)) else layout.reshard
    for name, ranks in (("shard", layout.shard), ("reshard", reshard), ("reduce_hop", layout.reduce_hop)):
        try:
            for axis in ("dp_cp", "edp") if has_experts else ("dp_cp",):
                part_size(layout, axis, ranks)
        except ValueError as error:
            yield f"layout.{name}", str(error)
            return
    shard = layout.shard or dense
    for name, ranks in (("reshard", reshard), ("reduce_hop", layout.reduce_hop)):
        if ranks is not None and (ranks >= shard or shard % ranks or ranks < 2):
            yield (
                f"layout.{name}",
                f"got {ranks}, allowed a divisor of the shard group's {shard} ranks from 2 to {shard // 2}",
            )


@_rule("model", "training")
def _modules(scenario: Scenario) -> Mistakes:
    """Modules that the model has not would be recomputed in name only."""
    model = scenario.model
    needs = {"mla_up_projection": model.latent_attention is not None, "moe": model.experts is not None}
    needs["mlp"] = _has_dense_mlp(model)
    for module in scenario.training.recompute_modules or ():
        if not needs.get(module, True):
            yield "training.recompute_modules", f"{model.name} has no {module}"


@_rule("gpu", "training")
def _precision(scenario: Scenario) -> Mistakes:
    peaks, precision = scenario.gpu.peak_flop_per_s, scenario.training.precision
    if precision not in peaks:
        yield "training.precision", f"{scenario.gpu.name} has no {precision} (allowed {', '.join(peaks)})"


@_rule("conditions", "topology")
def _slow_gpus(scenario: Scenario) -> Mistakes:
    gpus = num_gpus(scenario.topology)
    for gpu in scenario.conditions.gpus:
        if gpu >= gpus:
            yield f"conditions.gpus.{gpu}", f"no such GPU (got {gpu}, allowed 0 .. {gpus - 1})"


@_rule("conditions", "layout", "topology")
def _cables(scenario: Scenario) -> Mistakes:
    """Cables that do not exist, and broken ones that the layout surely needs; others that it needs show in a step."""
    links = scenario.conditions.links
    if not links:
        return
    try:
        fabric = degraded(scenario.topology.build(), links)
    except SimError as error:
        yield from _told(error)
        return
    if 0 not in links.values() or any(True for rule in (_world, _order) for _ in rule(scenario)):
        return
    told: dict[str, str] = {}
    for source, target in _sure_pairs(scenario.layout, fabric):
        try:
            fabric.routes(source, target)
        except SimError as error:
            told = dict(_told(error)) | told
    yield from told.items()


@_rule("conditions", "topology")
def _background(scenario: Scenario) -> Mistakes:
    """Tiers and cables with a background load that do not exist."""
    background = scenario.conditions.background
    if not background:
        return
    try:
        loaded(scenario.topology.build(), background)
    except SimError as error:
        yield from _told(error)


def _told(error: SimError) -> Mistakes:
    yield from ((problem.path, problem.message) for problem in error.problems)


def _sure_pairs(layout: Layout, fabric: Fabric) -> Iterator[tuple[Ints, Ints]]:
    """(source, target) GPUs that communicate whatever the algorithms are.

    Neighbours in a pipeline; and of groups with as many members on each of their nodes, neighbours on a node and
    members of equal position on neighbouring nodes: every algorithm uses NVLink and the NICs of all of them.
    """
    stages = groups(layout, "pp")
    yield stages[:, :-1].ravel(), stages[:, 1:].ravel()
    for axis in ("tp", "cp", "dp_cp"):
        for blocks in _even_blocks(groups(layout, axis), fabric):
            for along in (1, 2):
                yield blocks.ravel(), np.roll(blocks, -1, axis=along).ravel()


def _even_blocks(members: Ints, fabric: Fabric) -> Iterator[Ints]:
    """Members, (groups, nodes, members of a node), of groups that lie evenly on their nodes."""
    members = np.take_along_axis(members, np.argsort(fabric.node_of(members), axis=1, kind="stable"), axis=1)
    node = fabric.node_of(members)
    per_node = (node == node[:, :1]).sum(axis=1)
    for count in np.unique(per_node).tolist():
        if members.shape[1] % count == 0:
            shape = (-1, members.shape[1] // count, count)
            blocks, nodes = members[per_node == count].reshape(shape), node[per_node == count].reshape(shape)
            is_even = (nodes == nodes[:, :, :1]).all(axis=(1, 2)) & (np.diff(nodes[:, :, 0], axis=1) > 0).all(axis=1)
            yield blocks[is_even]
