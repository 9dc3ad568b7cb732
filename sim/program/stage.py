"""The blocks of a virtual stage: what one forward, one backward, and the end of the step do on a rank.

Data parallelism enters here. ZeRO-0 all-reduces gradients, ZeRO-1 and ZeRO-2 scatter them and gather parameters,
ZeRO-3 gathers every layer before each use and scatters its gradient. Without ZeRO-2, gradients are reduced once, in
the last backward pass of the stage; with it, in every one, because no rank may keep all of them. Where the backward
pass is split, they are reduced as the weight gradients come, which need no parameters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sim.cost.kernels import Stream
from sim.program.layers import embedding, head, layer
from sim.program.operations import Block, BlockBuilder, Collective, Send
from sim.program.optimizer import optimizer_kernels
from sim.program.passes import (
    BACKWARD,
    FORWARD,
    RECOMPUTE,
    PassBuilder,
    backward_pass,
    forward_pass,
    weight_gradients,
)
from sim.program.pieces import Linear, Piece, flat
from sim.program.pointwise import weight_cast
from sim.program.schedule_file import schedule_of
from sim.program.shapes import BYTES, Shapes, shapes
from sim.program.shards import Shard, embedding_shard, ends_meet, head_shard, layer_shard, vocabulary_shard
from sim.spec.layout import edp, layers_of_stages, num_ranks, num_stages
from sim.spec.scenario import Scenario
from sim.spec.training import Training, recomputed_modules

MEGATRON_BUCKET_PARAMETERS = 40_000_000
MEGATRON_BUCKET_PARAMETERS_BY_RANK = 1_000_000
"""Megatron-Core's bucket: the greater of 40 million parameters and a million for each data-parallel rank."""

NORM_BYTES = 4
"""The sum of squares that ranks exchange for the global norm: one fp32 number."""

LOW_PRECISION = ("fp8", "fp4")

DEFAULT_PREFETCH_LAYERS = 1
"""FSDP gathers the next layer while one computes."""


@dataclass(frozen=True)
class Unit:
    """A part of a stage whose parameters are gathered and reduced together: the embedding, a layer, or the head."""

    pieces: tuple[Piece, ...]
    shard: Shard
    is_layer: bool

    @property
    def cast_parameters(self) -> int:
        """Weights of products below 16 bits."""
        linears = (piece for piece in flat(self.pieces) if isinstance(piece, Linear))
        return sum(each.weights for each in linears if each.format in LOW_PRECISION)


@dataclass(frozen=True)
class Hop:
    """What a block takes from and hands to its neighbours in the pipeline.

    send: none at the pipeline's ends.  gather: what the tensor-parallel group does with what arrived, where each of its
    ranks got a part.
    """

    send: Send | None = None
    gather: Collective | None = None

    def receive(self, run: PassBuilder) -> None:
        """Put together what arrived."""
        if self.gather is not None:
            run.wait(run.builder.communicate(self.gather))


@dataclass(frozen=True)
class Replication:
    """Over how many ranks parameters are replicated, and what ZeRO makes of it.

    has_copies: whether each stage lies on two ranks of a pipeline, both of which are counted.
    """

    zero: int
    dense: int
    expert: int
    bucket_bytes: float
    grad_bytes: int
    param_bytes: float
    copies_shards: bool
    overlaps_reduce: bool
    overlaps_gather: bool
    has_copies: bool

    def collectives(self, kind: str, op: str, shard: Shard, parameter_bytes: float) -> Iterator[Collective]:
        """The call over dense parameters and the one over experts, where there are replicas."""
        suffix = "_copies" if self.has_copies else ""
        for group, replicas, parameters in (
            ("dp_cp", self.dense, shard.dense),
            ("edp", self.expert, shard.expert),
        ):
            if replicas > 1 and parameters > 0:
                yield Collective(kind, op, group + suffix, parameters * parameter_bytes)

    def reductions(self, shard: Shard) -> Iterator[Collective]:
        """Reduction of the gradients of `shard`."""
        op = "all_reduce" if self.zero == 0 else "reduce_scatter"
        return self.collectives("dp_reduce", op, shard, self.grad_bytes)

    def gathers(self, shard: Shard) -> Iterator[Collective]:
        """Gathering of the parameters of `shard`."""
        return self.collectives("dp_gather", "all_gather", shard, self.param_bytes)

    def copy_out(self, shard: Shard) -> Iterator[Stream]:
        """Parameters that were gathered for many tensors at once, copied to where each tensor lies (FSDP2)."""
        if self.copies_shards and (gathered := self._replicated(shard)):
            yield Stream("copy out of gather", 2 * self.param_bytes * gathered)

    def copy_in(self, shard: Shard) -> Iterator[Stream]:
        """16-bit gradients of many tensors, copied into what is reduced, in its format."""
        if self.copies_shards and (gathered := self._replicated(shard)):
            yield Stream("copy into reduction", (BYTES + self.grad_bytes) * gathered)

    def _replicated(self, shard: Shard) -> float:
        return (shard.dense if self.dense > 1 else 0) + (shard.expert if self.expert > 1 else 0)

    def fills_bucket(self, shard: Shard) -> bool:
        """Whether the gradients of `shard` are worth a call. ZeRO-3 works unit by unit."""
        return self.zero == 3 or shard.total * self.grad_bytes >= self.bucket_bytes


def replication(scenario: Scenario) -> Replication:
    """Replication of the scenario's parameters."""
    layout, training = scenario.layout, scenario.training
    assert layout.dp is not None
    has_copies = schedule_of(layout.schedule).placement == "both"
    copies = 2 if has_copies else 1
    dense = copies * layout.dp * layout.cp
    s = shapes(scenario)
    grad_bytes = s.grad_bytes
    parameters = max(MEGATRON_BUCKET_PARAMETERS, MEGATRON_BUCKET_PARAMETERS_BY_RANK * dense)
    return Replication(
        zero=layout.zero,
        dense=dense,
        expert=copies * edp(layout),
        bucket_bytes=training.bucket_bytes or parameters * grad_bytes,
        grad_bytes=grad_bytes,
        param_bytes=s.quantized_bytes if s.keeps_weights_cast else BYTES,
        copies_shards=layout.zero == 3 and scenario.stack.shard_copies,
        overlaps_reduce=training.overlap.grad_reduce,
        overlaps_gather=training.overlap.param_gather,
        has_copies=has_copies,
    )


def units_of_stage(scenario: Scenario, stage: int, s: Shapes) -> tuple[Unit, ...]:
    """What virtual stage `stage` holds, in forward order; layers of a kind, dense or MoE, are one object."""
    model, layout = scenario.model, scenario.layout
    last_stage = num_stages(layout) - 1
    units = []
    if stage == 0:
        units.append(Unit(embedding(model, s), embedding_shard(scenario), is_layer=False))
    of_kind: dict[bool, Unit] = {}
    for index in layers_of_stages(layout, model.num_layers)[stage]:
        is_moe = model.is_moe_layer(index)
        if is_moe not in of_kind:
            of_kind[is_moe] = Unit(layer(model, s, index), layer_shard(scenario, index), is_layer=True)
        units.append(of_kind[is_moe])
    if stage == last_stage:
        units.append(Unit(head(model, s), head_shard(scenario), is_layer=False))
    return tuple(units)


def buckets(units: Sequence[Unit], rep: Replication) -> list[tuple[Shard, int]]:
    """Gradients in the order of `units`, cut where a bucket is full: (parameters, index of the unit that fills it)."""
    full: list[tuple[Shard, int]] = []
    open_shard = Shard(0)
    for index, unit in enumerate(units):
        open_shard += unit.shard
        if open_shard.total and (rep.fills_bucket(open_shard) or index == len(units) - 1):
            full.append((open_shard, index))
            open_shard = Shard(0)
    return full


def forward_block(units: Sequence[Unit], rep: Replication, s: Shapes, *, is_first: bool, hop: Hop) -> Block:
    """Forward pass of one micro-batch. The first one of the step waits for the parameters, bucket by bucket, that
    ZeRO-1 and ZeRO-2 gather after the step before, and casts weights for all that follow; ZeRO-3 casts what it gathers.
    """
    builder = BlockBuilder()
    run = PassBuilder(builder)
    hop.receive(run)
    gathers: dict[int, list[int]] = {}
    if rep.zero == 3:
        gathers = {index: _gather(builder, rep, unit.shard) for index, unit in enumerate(units)}
    elif rep.zero in (1, 2) and rep.overlaps_gather and is_first:
        start = 0
        for shard, end in buckets(units, rep):
            gathers[start] = _gather(builder, rep, shard)
            start = end + 1
    for index, unit in enumerate(units):
        for gather in gathers.get(index, ()):
            run.wait(gather)
        run.add(FORWARD, *_prepared(unit, rep, s, casts=is_first or rep.zero == 3))
        forward_pass(run, unit.pieces)
        if rep.zero == 3:
            run.flush()
            builder.uses.append((tuple(gathers[index]), builder.last()))
    run.flush()
    if hop.send is not None:
        builder.communicate(hop.send)
    return builder.build()


def _prepared(unit: Unit, rep: Replication, s: Shapes, *, casts: bool) -> Iterator[Stream]:
    """What makes gathered parameters fit for products."""
    yield from rep.copy_out(unit.shard)
    if casts and (parameters := unit.cast_parameters):
        yield weight_cast(parameters, s)


def backward_block(
    units: Sequence[Unit],
    rep: Replication,
    s: Shapes,
    training: Training,
    *,
    is_last: bool,
    hop: Hop,
    delays: bool = False,
) -> Block:
    """Full backward pass of one micro-batch. The last one of the step (with ZeRO-2 and ZeRO-3 every one) reduces
    gradients: bucket by bucket beside the layers that follow, or after all of them. delays: see `PassBuilder`."""
    builder = BlockBuilder()
    run = PassBuilder(builder, delays=delays)
    hop.receive(run)
    order = list(reversed(units))
    reductions = _Reductions(run, rep, order, is_last=is_last)
    gathers = [_gather(builder, rep, unit.shard) if rep.zero == 3 else [] for unit in order]
    recomputed = recomputed_units(order, training)
    for index, unit in enumerate(order):
        _start_backward(run, unit, gathers[index], rep, s, is_recomputed=index in recomputed)
        backward_pass(run, unit.pieces, overlaps=training.overlap.tensor, recomputes=recomputed_modules(training))
        calls = reductions.ready(index)
        if rep.zero == 3:
            run.flush()
            builder.uses.append((tuple(gathers[index]), builder.last()))
        reductions.start(calls)
    run.settle()
    run.flush()
    if hop.send is not None:
        builder.communicate(hop.send)
    reductions.finish()
    return builder.build()


def input_gradient_block(units: Sequence[Unit], rep: Replication, s: Shapes, training: Training, *, hop: Hop) -> Block:
    """Backward pass of one micro-batch without the weight gradients of its products. Recomputation runs here."""
    builder = BlockBuilder()
    run = PassBuilder(builder)
    hop.receive(run)
    order = list(reversed(units))
    gathers = [_gather(builder, rep, unit.shard) if rep.zero == 3 else [] for unit in order]
    recomputed = recomputed_units(order, training)
    for index, unit in enumerate(order):
        _start_backward(run, unit, gathers[index], rep, s, is_recomputed=index in recomputed)
        modules = recomputed_modules(training)
        backward_pass(run, unit.pieces, overlaps=training.overlap.tensor, recomputes=modules, is_split=True)
        if rep.zero == 3:
            run.flush()
            builder.uses.append((tuple(gathers[index]), builder.last()))
    run.flush()
    if hop.send is not None:
        builder.communicate(hop.send)
    return builder.build()


def weight_gradient_block(units: Sequence[Unit], rep: Replication, *, is_last: bool) -> Block:
    """Weight gradients of the products of one micro-batch, and the reduction of gradients as in `backward_block`."""
    builder = BlockBuilder()
    run = PassBuilder(builder)
    order = list(reversed(units))
    reductions = _Reductions(run, rep, order, is_last=is_last)
    for index, unit in enumerate(order):
        weight_gradients(run, unit.pieces)
        reductions.start(reductions.ready(index))
    run.flush()
    reductions.finish()
    return builder.build()


def _start_backward(
    run: PassBuilder, unit: Unit, gathers: Sequence[int], rep: Replication, s: Shapes, *, is_recomputed: bool
) -> None:
    """What comes before the backward pass of a unit: gathered parameters, and its forward pass once more."""
    for gather in gathers:
        run.wait(gather)
    run.add(BACKWARD, *_prepared(unit, rep, s, casts=rep.zero == 3))
    if is_recomputed:
        forward_pass(run, unit.pieces, RECOMPUTE)


class _Reductions:
    """Reductions of a block's gradients: none, or bucket by bucket beside what follows, or late, after all of it.

    order: the block's units as their gradients come.
    """

    def __init__(self, run: PassBuilder, rep: Replication, order: Sequence[Unit], *, is_last: bool) -> None:
        self._run, self._rep, self._order = run, rep, order
        is_reduced = is_last or rep.zero >= 2
        self._full = {index: shard for shard, index in buckets(order, rep)} if is_reduced else {}
        self._late: list[Collective] = []

    def ready(self, index: int) -> list[Collective]:
        """Copy the gradients of a unit to where they are reduced: the calls that they fill."""
        if index in self._full:
            self._run.settle()
        self._run.add(BACKWARD, *self._rep.copy_in(self._order[index].shard))
        return list(self._rep.reductions(self._full[index])) if index in self._full else []

    def start(self, calls: Sequence[Collective]) -> None:
        """Start the calls beside what follows, or keep them."""
        if not self._rep.overlaps_reduce:
            self._late += calls
            return
        if calls:
            self._run.flush()
        for call in calls:
            self._run.builder.communicate(call)

    def finish(self) -> None:
        """Start what was kept; the next block waits for it."""
        builder = self._run.builder
        builder.tail += [builder.communicate(call) for call in self._late]


def recomputed_units(order: Sequence[Unit], training: Training) -> frozenset[int]:
    """Which units, in the order of the backward pass, run their whole forward pass again: all layers, or the first
    `recompute_layers` of the stage (Megatron-LM's block method)."""
    if training.recompute != "full":
        return frozenset()
    layers = [index for index, unit in enumerate(order) if unit.is_layer][::-1]
    return frozenset(layers[: training.recompute_layers])


def _gather(builder: BlockBuilder, rep: Replication, shard: Shard) -> list[int]:
    return [builder.gather_ahead(call) for call in rep.gathers(shard)]


def end_block(scenario: Scenario, pp_rank: int, rep: Replication, stages: dict[int, tuple[Unit, ...]]) -> Block:
    """What a rank does after its last backward pass: tied embeddings are summed, the global gradient norm is taken
    over all ranks, the optimizer updates its shard, and parameters are gathered where that does not overlap."""
    builder = BlockBuilder()
    model, layout = scenario.model, scenario.layout
    shard = Shard(0)
    for units in stages.values():
        for unit in units:
            shard += unit.shard
    if model.tied_embeddings and not ends_meet(layout) and pp_rank in (0, layout.pp - 1):
        tied = vocabulary_shard(scenario)
        builder.wait(
            builder.communicate(Collective("embedding", "all_reduce", "embedding", tied.total * rep.grad_bytes))
        )
    owned = shard.dense / (rep.dense if rep.zero else 1) + shard.expert / (rep.expert if rep.zero else 1)
    builder.compute("gradient norm", (Stream("gradient norm", rep.grad_bytes * owned, "optimizer"),))
    if num_ranks(layout) > 1:
        builder.wait(builder.communicate(Collective("grad_norm", "all_reduce", "world", NORM_BYTES)))
    is_fused = scenario.stack.kernels.optimizer == "fused"
    update = optimizer_kernels(scenario.training.optimizer, owned, rep.grad_bytes, is_fused=is_fused)
    builder.compute("optimizer", tuple(update))
    if rep.zero in (1, 2) and not rep.overlaps_gather:
        for units in stages.values():
            for part, _ in buckets(units, rep):
                for call in rep.gathers(part):
                    builder.communicate(call)
    return builder.build()
