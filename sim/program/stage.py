"""The blocks of a virtual stage: what one forward, one backward, and the end of the step do on a rank.

Data parallelism enters here. ZeRO-0 all-reduces gradients, ZeRO-1 and ZeRO-2 scatter them and gather parameters,
ZeRO-3 gathers every layer before each use and scatters its gradient. Without ZeRO-2, gradients are reduced once, in
the last backward pass of the stage; with it, in every one, because no rank may keep all of them. Where the backward
pass is split, they are reduced as the weight gradients come, which need no parameters. `sim.program.replication` says
over which ranks, `sim.program.reductions` in which order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sim.cost.kernels import Stream
from sim.program.layers import embedding, heads, layer, mtp_layer
from sim.program.operations import Block, BlockBuilder, Collective, Send
from sim.program.optimizer import optimizer_kernels, scales_gradients
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
from sim.program.reductions import Reductions, buckets, gather
from sim.program.replication import Replication
from sim.program.shapes import Shapes, shapes
from sim.program.shards import (
    Shard,
    embedding_shard,
    ends_meet,
    head_shard,
    layer_shard,
    mtp_embedding_shard,
    mtp_shard,
    vocabulary_shard,
)
from sim.spec.layout import layers_of_stages, num_ranks, num_stages
from sim.spec.scenario import Scenario
from sim.spec.training import Training, recomputed_modules

NORM_BYTES = 4
"""The sum of squares that ranks exchange for the global norm: one fp32 number."""

LOW_PRECISION = ("fp8", "fp4")

DEFAULT_PREFETCH_LAYERS = 1
"""FSDP gathers the next layer while one computes."""


@dataclass(frozen=True)
class Unit:
    """A part of a stage whose parameters are gathered and reduced together: the embedding, a layer, or the head.

    is_mtp: whether it is of multi-token prediction: its layer, or the look-up before that.
    """

    pieces: tuple[Piece, ...]
    shard: Shard
    is_layer: bool
    is_mtp: bool = False

    @property
    def cast_parameters(self) -> int:
        """Weights of products below 16 bits."""
        linears = (piece for piece in flat(self.pieces) if isinstance(piece, Linear))
        return sum(each.weights for each in linears if each.format in LOW_PRECISION)


@dataclass(frozen=True)
class Hop:
    """What a block takes from and hands to its neighbours in the pipeline.

    send: none at the pipeline's ends.  gather: what the tensor-parallel group does with what arrived, where each of its
    ranks got a part.  blocks: whether the next pass of the rank waits until what is sent has come.
    """

    send: Send | None = None
    gather: Collective | None = None
    blocks: bool = False

    def receive(self, run: PassBuilder) -> None:
        """Put together what arrived."""
        if self.gather is not None:
            run.wait(run.builder.communicate(self.gather))

    def hand_on(self, run: PassBuilder) -> None:
        """Send what was computed."""
        run.flush()
        if self.send is not None:
            number = run.builder.communicate(self.send)
            if self.blocks:
                run.builder.tail.append(number)


def units_of_stage(scenario: Scenario, stage: int, s: Shapes) -> tuple[Unit, ...]:
    """What virtual stage `stage` holds, in forward order; layers of a kind, dense or MoE, are one object."""
    units = []
    if stage == 0:
        units += _first_units(scenario, s)
    units += _layer_units(scenario, layers_of_stages(scenario.layout, scenario.model.num_layers)[stage], s)
    if stage == num_stages(scenario.layout) - 1:
        units += _last_units(scenario, s)
    return tuple(units)


def units_of_layers(scenario: Scenario) -> tuple[list[Unit], list[Unit], list[Unit]]:
    """What the first stage holds besides its layers, every layer, and what the last stage holds besides."""
    s = shapes(scenario)
    return (
        _first_units(scenario, s),
        _layer_units(scenario, range(scenario.model.num_layers), s),
        _last_units(scenario, s),
    )


def _first_units(scenario: Scenario, s: Shapes) -> list[Unit]:
    return [Unit(embedding(scenario.model, s), embedding_shard(scenario), is_layer=False)]


def _layer_units(scenario: Scenario, layers: range, s: Shapes) -> list[Unit]:
    model, of_kind = scenario.model, dict[bool, Unit]()
    units = []
    for index in layers:
        is_moe = model.is_moe_layer(index)
        if is_moe not in of_kind:
            of_kind[is_moe] = Unit(layer(model, s, index), layer_shard(scenario, index), is_layer=True)
        units.append(of_kind[is_moe])
    return units


def _last_units(scenario: Scenario, s: Shapes) -> list[Unit]:
    return [*_mtp_units(scenario, s), Unit(heads(scenario.model, s), head_shard(scenario), is_layer=False)]


def _mtp_units(scenario: Scenario, s: Shapes) -> list[Unit]:
    """Look-up and layer of each module of multi-token prediction; they share one embedding."""
    model = scenario.model
    if not model.mtp_layers:
        return []
    lookup, module = embedding(model, s), Unit(mtp_layer(model, s), mtp_shard(scenario), is_layer=True, is_mtp=True)
    shards = [mtp_embedding_shard(scenario), *[Shard(0)] * (model.mtp_layers - 1)]
    return [unit for shard in shards for unit in (Unit(lookup, shard, is_layer=False, is_mtp=True), module)]


def forward_block(units: Sequence[Unit], rep: Replication, s: Shapes, *, is_first: bool, hop: Hop) -> Block:
    """Forward pass of one micro-batch. The first one of the step waits for the parameters, bucket by bucket, that
    ZeRO-1 and ZeRO-2 gather after the step before, and casts weights for all that follow; ZeRO-3 casts what it gathers.
    """
    builder = BlockBuilder()
    run = PassBuilder(builder)
    hop.receive(run)
    gathers: dict[int, list[int]] = {}
    gathers_each = rep.gathers_forward(is_first=is_first)
    if gathers_each:
        gathers = {index: gather(builder, rep, unit.shard) for index, unit in enumerate(units)}
    elif rep.zero in (1, 2) and rep.overlaps_gather and is_first:
        start = 0
        for shard, end in buckets([unit.shard for unit in units], rep):
            gathers[start] = gather(builder, rep, shard)
            start = end + 1
    for index, unit in enumerate(units):
        for call in gathers.get(index, ()):
            run.wait(call)
        if gathers_each:
            run.add(FORWARD, *rep.copy_out(unit.shard))
        if is_first or rep.zero == 3:
            run.add(FORWARD, *_cast(unit, s))
        forward_pass(run, unit.pieces)
        if rep.zero == 3:
            run.flush()
            builder.uses.append((tuple(gathers.get(index, ())), builder.last()))
    hop.hand_on(run)
    return builder.build()


def _cast(unit: Unit, s: Shapes) -> Iterator[Stream]:
    """Weights of products below 16 bits."""
    if parameters := unit.cast_parameters:
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
    reductions = Reductions(run, rep, [unit.shard for unit in order], is_last=is_last)
    gathers = _gathers_again(builder, order, rep)
    recomputed = recomputed_units(order, training)
    for index, unit in enumerate(order):
        _start_backward(run, unit, gathers[index], rep, s, is_recomputed=index in recomputed)
        backward_pass(run, unit.pieces, overlaps=training.overlap.tensor, recomputes=recomputed_modules(training))
        bucket = reductions.ready(index)
        if rep.zero == 3:
            run.flush()
            builder.uses.append((tuple(gathers[index]), builder.last()))
        reductions.start(bucket)
    run.settle()
    hop.hand_on(run)
    reductions.finish()
    return builder.build()


def input_gradient_block(units: Sequence[Unit], rep: Replication, s: Shapes, training: Training, *, hop: Hop) -> Block:
    """Backward pass of one micro-batch without the weight gradients of its products. Recomputation runs here."""
    builder = BlockBuilder()
    run = PassBuilder(builder)
    hop.receive(run)
    order = list(reversed(units))
    gathers = _gathers_again(builder, order, rep)
    recomputed = recomputed_units(order, training)
    for index, unit in enumerate(order):
        _start_backward(run, unit, gathers[index], rep, s, is_recomputed=index in recomputed)
        modules = recomputed_modules(training)
        backward_pass(run, unit.pieces, overlaps=training.overlap.tensor, recomputes=modules, is_split=True)
        if rep.zero == 3:
            run.flush()
            builder.uses.append((tuple(gathers[index]), builder.last()))
    hop.hand_on(run)
    return builder.build()


def weight_gradient_block(units: Sequence[Unit], rep: Replication, *, is_last: bool) -> Block:
    """Weight gradients of the products of one micro-batch, and the reduction of gradients as in `backward_block`."""
    builder = BlockBuilder()
    run = PassBuilder(builder)
    order = list(reversed(units))
    reductions = Reductions(run, rep, [unit.shard for unit in order], is_last=is_last)
    for index, unit in enumerate(order):
        weight_gradients(run, unit.pieces)
        reductions.start(reductions.ready(index))
    run.flush()
    reductions.finish()
    return builder.build()


def _gathers_again(builder: BlockBuilder, order: Sequence[Unit], rep: Replication) -> list[list[int]]:
    """ZeRO-3's gathers for the backward pass of each unit; none where parameters stayed whole."""
    return [gather(builder, rep, unit.shard, again=True) if rep.gathers_again else [] for unit in order]


def _start_backward(
    run: PassBuilder, unit: Unit, gathers: Sequence[int], rep: Replication, s: Shapes, *, is_recomputed: bool
) -> None:
    """What comes before the backward pass of a unit: gathered parameters, and its forward pass once more."""
    for call in gathers:
        run.wait(call)
    if rep.gathers_again:
        run.add(BACKWARD, *rep.copy_out(unit.shard, again=True))
    if rep.zero == 3:
        run.add(BACKWARD, *_cast(unit, s))
    if is_recomputed:
        forward_pass(run, unit.pieces, RECOMPUTE)


def recomputed_units(order: Sequence[Unit], training: Training) -> frozenset[int]:
    """Which units, in the order of the backward pass, run their whole forward pass again: all layers, or the first
    `recompute_layers` of the stage (Megatron-LM's block method, which multi-token prediction does not know)."""
    if training.recompute != "full":
        return frozenset()
    counts_mtp = training.recompute_layers is None
    layers = [index for index, unit in enumerate(order) if unit.is_layer and (counts_mtp or not unit.is_mtp)][::-1]
    return frozenset(layers[: training.recompute_layers])


def end_block(scenario: Scenario, pp_rank: int, rep: Replication, stages: dict[int, tuple[Unit, ...]]) -> Block:
    """What a rank does after its last backward pass: gradients of the embedding's copies are summed, the
    gradient norm is taken, the optimizer updates its shard, and parameters are gathered where that does not overlap.

    Without clipping there is no norm, but in fp16 all ranks have to agree that no gradient overflowed, which takes as
    much (apex and Megatron-LM's loss scaler). With post-validation a stage waits for its own ranks' part of the norm.
    The parts of the stages before come with the few bytes that Zero Bubble sends down the pipeline, which are left out.
    """
    builder = BlockBuilder()
    model, layout = scenario.model, scenario.layout
    shard = Shard(0)
    for units in stages.values():
        for unit in units:
            shard += unit.shard
    is_shared = model.tied_embeddings or model.mtp_layers > 0
    if is_shared and not ends_meet(layout) and pp_rank in (0, layout.pp - 1):
        tied = embedding_shard(scenario) if model.mtp_layers else vocabulary_shard(scenario)
        builder.wait(
            builder.communicate(Collective("embedding", "all_reduce", "embedding", tied.total * rep.grad_bytes))
        )
    owned, training = rep.owned(shard), scenario.training
    scales = scales_gradients(training)
    if scales:
        _gradient_norm(builder, scenario, rep.grad_bytes * owned)
    is_fused = scenario.stack.kernels.optimizer == "fused"
    update = optimizer_kernels(training.optimizer, owned, rep.grad_bytes, is_fused=is_fused, scales=scales)
    builder.compute("optimizer", tuple(update))
    if rep.zero in (1, 2) and not rep.overlaps_gather:
        for units in stages.values():
            for part, _ in buckets([unit.shard for unit in units], rep):
                for call in rep.gathers(part):
                    builder.communicate(call)
    return builder.build()


def _gradient_norm(builder: BlockBuilder, scenario: Scenario, nbytes: float) -> None:
    """Sum of the squares of a rank's gradients, `nbytes` of them, and of all that wait for each other."""
    builder.compute("gradient norm", (Stream("gradient norm", nbytes, "optimizer"),))
    group = "world" if scenario.training.grad_norm == "global" else "stage"
    ranks = num_ranks(scenario.layout) // (1 if group == "world" else scenario.layout.pp)
    if ranks > 1:
        builder.wait(builder.communicate(Collective("grad_norm", "all_reduce", group, NORM_BYTES)))
