"""What a rank holds beside its model state while the passes of a step run: activations, logits, gathered parameters."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property

from sim.program.activations import (
    embedding_bytes,
    gradient_bytes,
    head_bytes,
    input_bytes,
    kept_bytes,
    layer_kept,
    mtp_gradient_bytes,
    mtp_kept,
    operand_bytes,
    remade_bytes,
)
from sim.program.pieces import Exchange, Linear, flat
from sim.program.replication import Replication
from sim.program.shapes import BYTES, Shapes
from sim.program.stage import DEFAULT_PREFETCH_LAYERS, Unit
from sim.program.table import Cell, Kind, actions_of
from sim.spec.layout import layers_of_stages
from sim.spec.scenario import Scenario
from sim.spec.training import Training, recomputed_modules


@dataclass(frozen=True)
class LogitBytes:
    """Of each logit: what stays from the forward to the backward pass, and what lives more while either runs."""

    kept: int
    forward: int
    backward: int


LOGIT_BYTES = {"fused": LogitBytes(2, 0, 0), "vocab_parallel": LogitBytes(4, 2, 2), "eager": LogitBytes(4, 6, 8)}
"""By how the loss is implemented (`sim.program.pointwise.LOSS_BYTES` says which kernels run).

fused: 16-bit logits, over which their gradient is written (transformer_engine/pytorch/cross_entropy.py).
vocab_parallel: Megatron-LM keeps the softmax in fp32 (arXiv 2205.05198 section 4.3: 4 s b v / t) and turns it into the
gradient in place; 16-bit logits beside it forward, the 16-bit gradient backward.
eager: the log-softmax in fp32 stays; forward its input, cast to fp32, and the 16-bit logits; backward the gradients of
its output and of its input in fp32 (torch.nn.functional.cross_entropy; torchtitan's train.py drops the logits first).
"""

OPTIMIZER_WORK_BYTES = 4
"""Of each parameter that a rank updates, while torch's foreach AdamW runs: the square roots of the second moments
(torch/optim/adamw.py, _multi_tensor_adamw). A fused kernel needs nothing."""


@dataclass(frozen=True)
class Held:
    """Bytes that come and go within a step, by category."""

    activations_bytes: float = 0.0
    logits_bytes: float = 0.0
    communication_bytes: float = 0.0
    optimizer_bytes: float = 0.0

    def __add__(self, other: Held) -> Held:
        return Held(
            self.activations_bytes + other.activations_bytes,
            self.logits_bytes + other.logits_bytes,
            self.communication_bytes + other.communication_bytes,
            self.optimizer_bytes + other.optimizer_bytes,
        )

    def __sub__(self, other: Held) -> Held:
        return Held(
            self.activations_bytes - other.activations_bytes,
            self.logits_bytes - other.logits_bytes,
            self.communication_bytes - other.communication_bytes,
            self.optimizer_bytes - other.optimizer_bytes,
        )

    @cached_property
    def total_bytes(self) -> float:
        """All of them."""
        return self.activations_bytes + self.logits_bytes + self.communication_bytes + self.optimizer_bytes


NOTHING = Held()


@dataclass(frozen=True)
class UnitHeld:
    """What one micro-batch takes in a unit of a stage: from its forward pass to the end of its backward pass, and more
    while either runs.

    for_weights: where the backward pass is split, from the end of I to the end of W: what its weight gradients need.
    """

    kept: Held
    forward: Held = NOTHING
    backward: Held = NOTHING
    for_weights: Held = NOTHING

    def beside(self, kept: Held, forward: Held, backward: Held) -> UnitHeld:
        """The unit with more that is held between its passes, and while they run."""
        return UnitHeld(self.kept + kept, self.forward + forward, self.backward + backward, self.for_weights)

    @cached_property
    def split(self) -> Held:
        """While I runs: what the forward pass kept and more, or already what W needs, whichever takes more."""
        return max(self.kept + self.backward, self.for_weights, key=_total)


@dataclass(frozen=True)
class StageHeld:
    """What one micro-batch takes on a virtual stage; its units in the order of the forward pass."""

    units: tuple[UnitHeld, ...]

    @cached_property
    def _sums(self) -> tuple[Held, ...]:
        """What is kept once each unit's forward pass ran."""
        return tuple(itertools.accumulate(unit.kept for unit in self.units))

    @cached_property
    def kept(self) -> Held:
        """Between forward and backward pass."""
        return self._sums[-1] if self._sums else NOTHING

    @cached_property
    def _left(self) -> tuple[Held, ...]:
        """What weight gradients need of each unit and all that come after it in the forward pass."""
        return tuple(itertools.accumulate(unit.for_weights for unit in reversed(self.units)))[::-1]

    @cached_property
    def for_weights(self) -> Held:
        """Between I and W."""
        return self._left[0] if self._left else NOTHING

    @cached_property
    def phases(self) -> dict[Kind, tuple[Held, ...]]:
        """While each unit runs, in the order of the pass. A backward pass drops what a unit kept when it is through
        with it; a split one what its weight gradients do not need, and they drop that."""
        pairs = list(zip(self.units, self._sums, strict=True))
        if not pairs:
            return dict.fromkeys(Kind, (NOTHING,))
        done = [*self._left[1:], NOTHING]
        split = [kept - unit.kept + unit.split + left for (unit, kept), left in zip(pairs, done, strict=True)]
        return {
            Kind.F: tuple(kept + unit.forward for unit, kept in pairs),
            Kind.B: tuple(kept + unit.backward for unit, kept in reversed(pairs)),
            Kind.I: tuple(reversed(split)),
            Kind.W: tuple(itertools.accumulate(unit.for_weights for unit in self.units))[::-1],
        }

    def before(self, kind: Kind) -> Held:
        """What a micro-batch holds as a pass of it begins."""
        return {Kind.F: NOTHING, Kind.W: self.for_weights}.get(kind, self.kept)

    def after(self, kind: Kind) -> Held:
        """What a micro-batch holds as a pass of it ends."""
        return {Kind.F: self.kept, Kind.I: self.for_weights}.get(kind, NOTHING)


def _total(held: Held) -> float:
    return held.total_bytes


@dataclass(frozen=True)
class Step:
    """One cell of a rank: what its other micro-batches hold meanwhile, and what all hold afterwards."""

    cell: Cell
    others: Held
    after: Held


def walk(row: Sequence[Cell], stages: Sequence[StageHeld]) -> Iterator[Step]:
    """The cells of a rank in order. A forward pass leaves what its backward pass needs; a backward pass drops it. Of a
    split one the input gradient leaves what the weight gradients need."""
    total = NOTHING
    for cell in row:
        others = total
        for action in actions_of([cell]):
            others -= stages[action.stage].before(action.kind)
        total = others
        for action in actions_of([cell]):
            total += stages[action.stage].after(action.kind)
        yield Step(cell, others, total)


def phases_of(cell: Cell, stages: Sequence[StageHeld]) -> Iterator[tuple[float, Held]]:
    """What a cell's passes hold from each fraction of its time on, from 0. The units of a pass share its time evenly;
    while two passes run side by side, both hold what they need."""
    sides = [stages[action.stage].phases[action.kind] for action in actions_of([cell])]
    for begin in sorted({Fraction(number, len(side)) for side in sides for number in range(len(side))}):
        yield float(begin), sum((side[int(begin * len(side))] for side in sides), NOTHING)


def fullest(row: Sequence[Cell], stages: Sequence[StageHeld], end: Held = NOTHING) -> Held:
    """Of one rank, over the step; `end` is held while the optimizer runs."""
    own: dict[tuple[tuple[int, Kind], ...], Held] = {}

    def of(cell: Cell) -> Held:
        """The fullest moment of a cell."""
        key = tuple((action.stage, action.kind) for action in actions_of([cell]))
        if key not in own:
            own[key] = max((held for _, held in phases_of(cell, stages)), key=_total)
        return own[key]

    step = max(walk(row, stages), key=lambda step: step.others.total_bytes + of(step.cell).total_bytes)
    return max(step.others + of(step.cell), end, key=_total)


def stages_held(
    scenario: Scenario, units_by_stage: Sequence[Sequence[Unit]], rep: Replication, s: Shapes
) -> tuple[StageHeld, ...]:
    """Each virtual stage of the scenario, with the units that `sim.program.stage.units_of_stage` gives for it."""
    model = scenario.model
    kinds = {model.is_moe_layer(index): index for index in range(model.num_layers)}
    like = {
        (is_moe, again): _layer_held(scenario, s, index, again=again)
        for is_moe, index in kinds.items()
        for again in (False, True)
    }
    found = []
    for stage, layers in enumerate(layers_of_stages(scenario.layout, model.num_layers)):
        units = units_by_stage[stage]
        num_again = _num_recomputed(scenario.training, len(layers))
        of_layers = iter([like[model.is_moe_layer(index), place < num_again] for place, index in enumerate(layers)])
        own = []
        for place, unit in enumerate(units):
            if unit.is_layer:
                own.append(_mtp_held(scenario, s) if unit.is_mtp else next(of_layers))
            else:
                own.append(_end_held(scenario, s, is_head=not unit.is_mtp and (stage > 0 or place > 0)))
        own = [replace(held, for_weights=for_weights(unit, s)) for held, unit in zip(own, units, strict=True)]
        pairs = zip(own, _gathered(scenario, units, rep, s), strict=True)
        found.append(StageHeld(tuple(held.beside(*gathered) for held, gathered in pairs)))
    return tuple(found)


def for_weights(unit: Unit, s: Shapes) -> Held:
    """Input and output gradient of every product of a unit: (m, k) and (m, n) values, as the product reads them.

    A layer with 4 h wide GELU keeps 14 s b h + 18 s b h = 32 s b h bytes, as M_W of arXiv 2401.10241 table 1.
    An input of which sequence parallelism keeps a part is gathered again. The head's output gradient counts as logits.
    Error: products that read the same tensor (latent attention's down-projections, the router and a shared expert)
    each count it.
    """
    total = NOTHING
    pieces = list(flat(unit.pieces))
    for piece, before in zip(pieces, [None, *pieces], strict=False):
        if isinstance(piece, Linear):
            is_part = isinstance(before, Exchange) and before.regathers
            each = BYTES if piece.format == s.format_16 else operand_bytes(s)
            inputs_bytes, outputs_bytes = each * piece.m * piece.k / (s.tp if is_part else 1), each * piece.m * piece.n
            if piece.cause == "head":
                total += Held(inputs_bytes, outputs_bytes)
            else:
                total += Held(inputs_bytes + outputs_bytes)
    return total


def _num_recomputed(training: Training, num_layers: int) -> int:
    """Layers of a stage that run again as a whole: the first ones."""
    if training.recompute != "full":
        return 0
    return num_layers if training.recompute_layers is None else training.recompute_layers


def _layer_held(scenario: Scenario, s: Shapes, index: int, *, again: bool) -> UnitHeld:
    """Of layer `index`; `again` where it runs again as a whole. Backward come gradients, and what is made again."""
    tensors = layer_kept(scenario.model, s, index)
    modules = recomputed_modules(scenario.training)
    if again:
        kept = input_bytes(tensors)
        remade = kept_bytes(tensors, frozenset()) - kept
    else:
        kept, remade = kept_bytes(tensors, modules), remade_bytes(tensors, modules)
    return UnitHeld(Held(kept), backward=Held(remade + gradient_bytes(scenario.model, s, index)))


def _mtp_held(scenario: Scenario, s: Shapes) -> UnitHeld:
    """Of a module of multi-token prediction, without its look-up and its head."""
    model, training = scenario.model, scenario.training
    tensors = (*mtp_kept(model, s), *layer_kept(model, s, model.num_layers - 1))
    modules = recomputed_modules(training)
    if training.recompute == "full" and training.recompute_layers is None:
        kept = input_bytes(tensors)
        remade = kept_bytes(tensors, frozenset()) - kept
    else:
        kept, remade = kept_bytes(tensors, modules), remade_bytes(tensors, modules)
    return UnitHeld(Held(kept), backward=Held(remade + mtp_gradient_bytes(model, s)))


def _end_held(scenario: Scenario, s: Shapes, *, is_head: bool) -> UnitHeld:
    """Of the embedding, or of the head with the loss, and those of multi-token prediction, one after the other."""
    if not is_head:
        return UnitHeld(Held(embedding_bytes(scenario.model, s)))
    logits, each = s.tokens * s.vocab, LOGIT_BYTES[s.kernels.cross_entropy]
    num_heads = 1 + scenario.model.mtp_layers
    return UnitHeld(
        Held(num_heads * head_bytes(scenario.model, s), num_heads * each.kept * logits),
        Held(logits_bytes=each.forward * logits),
        Held(logits_bytes=each.backward * logits),
    )


def _gathered(scenario: Scenario, units: Sequence[Unit], rep: Replication, s: Shapes) -> list[tuple[Held, Held, Held]]:
    """ZeRO-3's buffers of each unit: from its forward to its backward pass, and more while either runs.

    Whole parameters of the unit that computes and of those gathered ahead; backward also its whole gradients and those
    of the unit before, which are reduced beside it. Where tensors are copied out of what was gathered and into what is
    reduced (FSDP2), the parameters gathered last and the 16-bit gradients are there twice. Parameters of another format
    than that of the kernels (`rep.converts`) are there in both. Below 16 bits the unit's weights are cast, as they are
    (unless they arrived so) and transposed. What stays gathered for the whole step is part of the model's state.
    """
    if rep.zero != 3:
        return [(NOTHING, NOTHING, NOTHING)] * len(units)
    given = scenario.training.prefetch_layers
    ahead = DEFAULT_PREFETCH_LAYERS if given is None else given
    sizes = [rep.sharded(unit.shard) for unit in units]
    found = []
    for place, unit in enumerate(units):
        later, earlier = sum(sizes[place : place + ahead + 1]), sum(sizes[max(place - ahead, 0) : place + 1])
        kept_bytes, forward_bytes, backward_bytes = _parameters_bytes(rep, sizes[place], later, earlier)
        cast_bytes = 0.0
        if s.recipe is not None:
            cast_bytes = (1 if s.keeps_weights_cast else 2) * s.quantized_bytes * unit.cast_parameters
        backward_bytes += _unreduced_bytes(rep, units[place : place + 2])
        parts = (kept_bytes, forward_bytes + cast_bytes, backward_bytes + cast_bytes)
        kept, forward, backward = (Held(communication_bytes=nbytes) for nbytes in parts)
        found.append((kept, forward, backward))
    return found


def _parameters_bytes(rep: Replication, size: float, later: float, earlier: float) -> tuple[float, float, float]:
    """Gathered parameters of a unit: kept between its passes, and more in the forward and in the backward pass.

    size: parameters of the unit.  later, earlier: with those gathered ahead of them, forward and backward.
    """
    copied = size if rep.copies_shards else 0.0
    if rep.gathers_again:
        converted_bytes = 0.0 if rep.converts is None else BYTES * size
        forward_bytes = rep.param_bytes * (later + copied) + converted_bytes
        return 0.0, forward_bytes, rep.param_bytes * (earlier + copied) + converted_bytes
    cast_bytes = BYTES * size if rep.converts == "fp32" else 0.0
    arriving = copied + (size if rep.converts == "int8" else 0.0)
    if rep.reshard == "step":
        return 0.0, rep.param_bytes * arriving + cast_bytes, cast_bytes
    return rep.used_bytes * size, rep.param_bytes * (later - size + arriving) + cast_bytes, cast_bytes


def _unreduced_bytes(rep: Replication, units: Sequence[Unit]) -> float:
    """Whole gradients of a unit whose backward pass runs and of the one before, on their way to their owners. Where
    whole gradients are summed, they are reduced in the buffer, unless they are copied or cast."""
    sizes = [rep.replicated(unit.shard) for unit in units]
    if rep.sync == "last":
        return rep.wire_bytes * sum(sizes) if rep.copies_shards or rep.wire_bytes != rep.grad_bytes else 0.0
    unquantized_bytes = BYTES * sizes[0] if rep.copies_shards or rep.is_int4 else 0.0
    return rep.wire_bytes * sum(sizes) + unquantized_bytes
