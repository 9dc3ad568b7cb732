"""Memory of every pipeline rank at the worst moment of a step, by what it is for, and whether it fits the GPU."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields

from sim import units
from sim.program.activations import embedding_bytes, head_bytes, layer_bytes, layer_kept, working_bytes
from sim.program.lower import schedule_table
from sim.program.pieces import Exchange, Linear, Piece
from sim.program.shapes import BYTES, Shapes, shapes
from sim.program.shards import Shard
from sim.program.stage import DEFAULT_PREFETCH_LAYERS, Replication, Unit, buckets, replication, units_of_stage
from sim.program.table import RELEASES, Action, Kind
from sim.spec.layout import Layout, layers_of_stages, num_stages
from sim.spec.scenario import Scenario

ADAM_BYTES = 12
"""Per parameter: an fp32 master copy and two fp32 moments (ZeRO, arXiv 1910.02054 section 3.1)."""

KEPT_LOGIT_BYTES = 4
"""Megatron-LM's vocab-parallel cross-entropy keeps the softmax, in fp32, for the backward pass, and turns it into the
gradient in place (arXiv 2205.05198 section 4.3: 4 s b v / t)."""

CAST_LOGIT_BYTES = 2
"""The 16-bit logits beside them in the forward pass, the 16-bit gradient in the backward pass."""

CONTEXT_BYTES = 1.06e9
"""CUDA context and first NCCL communicator of an H100, outside PyTorch's allocator, as measured before the first
all-to-all in https://github.com/NVIDIA/nccl/issues/1685."""

ALL_TO_ALL_BYTES = 3.28e9
"""Connections of every pair of GPUs after an all-to-all over 8 H100s: 4.34 - 1.06 GB (the same issue)."""

COMMUNICATOR_BYTES = 0.5e9
"""Estimate for each further communicator. It depends on channels and algorithms: https://github.com/NVIDIA/nccl/issues/864
reports 1.6 GB with one and about 6 GB with three or more."""


@dataclass(frozen=True)
class ModelState:
    """Bytes of parameters, gradients and optimizer state on one rank."""

    parameters_bytes: float
    gradients_bytes: float
    optimizer_bytes: float

    def __add__(self, other: ModelState) -> ModelState:
        return ModelState(
            self.parameters_bytes + other.parameters_bytes,
            self.gradients_bytes + other.gradients_bytes,
            self.optimizer_bytes + other.optimizer_bytes,
        )

    @property
    def total_bytes(self) -> float:
        """All three."""
        return self.parameters_bytes + self.gradients_bytes + self.optimizer_bytes


@dataclass(frozen=True)
class StageMemory:
    """One rank of a pipeline stage at its worst moment. Ranks of the same stage are alike.

    gradients: the buffer, and a 16-bit gradient of each shape of weight on its way into it.  activations: of all
    micro-batches in flight, and what is being recomputed.  logits: loss buffers of the last stage.
    communication: buffers of exchanges, ZeRO's gathered parameters and unreduced gradients.  overhead: CUDA and NCCL.
    Left out: fragmentation of the allocator, and gradients of activations inside a layer.

    Error: 28 measured peaks of Megatron-LM on 8 B200 (Llama 3 70B and 405B, DeepSeek-V2 and V3 with few layers; ZeRO-1,
    without overhead): mean 1.5 %, at most 3.4 % (github.com/MooreThreads/SimuMax, docs/b200/
    b200_release_v1.2_summary.json). Other frameworks keep other tensors: torch's eager cross-entropy needs 10 to 14
    bytes a logit instead of 6, and unfused attention keeps its scores.
    """

    pp_rank: int
    parameters_bytes: float
    gradients_bytes: float
    optimizer_bytes: float
    activations_bytes: float
    logits_bytes: float
    communication_bytes: float
    overhead_bytes: float
    capacity_bytes: float

    @property
    def parts_bytes(self) -> dict[str, float]:
        """Bytes by category."""
        names = [field.name for field in fields(self) if field.name not in ("pp_rank", "capacity_bytes")]
        return {name.removesuffix("_bytes"): getattr(self, name) for name in names}

    @property
    def peak_bytes(self) -> float:
        """Sum of all categories."""
        return sum(self.parts_bytes.values())

    @property
    def free_bytes(self) -> float:
        """What is left of the GPU's memory; negative where it does not fit."""
        return self.capacity_bytes - self.peak_bytes

    @property
    def fits(self) -> bool:
        """Whether the GPU holds it."""
        return self.free_bytes >= 0


def verdict(stages: Iterable[StageMemory]) -> str:
    """The fullest rank in words: `fits, 12.3 GiB free` or `does not fit by 4.5 GiB`."""
    free_bytes = min(stage.free_bytes for stage in stages)
    text = units.text(abs(free_bytes), "bytes")
    return f"fits, {text} free" if free_bytes >= 0 else f"does not fit by {text}"


def model_state_bytes(num_parameters: float, replicas: int, zero: int, grad_bytes: int) -> ModelState:
    """Parameters, gradients and Adam's state on one rank that holds `num_parameters` replicated over `replicas` ranks.

    ZeRO-1 shards the optimizer over the replicas, ZeRO-2 also gradients, ZeRO-3 also parameters. With 2-byte gradients
    that is 16, 4 + 12 / N, 2 + 14 / N and 16 / N bytes per parameter (arXiv 1910.02054, figure 1); with fp32 ones 18
    and 6 + 12 / N, as in Megatron-LM (megatron/training/theoretical_memory_usage.py).

    >>> [round(model_state_bytes(7.5e9, 64, zero, 2).total_bytes / 1e9, 1) for zero in range(4)]
    [120.0, 31.4, 16.6, 1.9]
    """
    return ModelState(
        parameters_bytes=BYTES * num_parameters / (replicas if zero >= 3 else 1),
        gradients_bytes=grad_bytes * num_parameters / (replicas if zero >= 2 else 1),
        optimizer_bytes=ADAM_BYTES * num_parameters / (replicas if zero >= 1 else 1),
    )


def memory(scenario: Scenario) -> tuple[StageMemory, ...]:
    """Memory of one rank of each pipeline stage, in order.

    The schedule's table is walked: a forward pass adds its stage's activations, the end of its backward pass drops
    them. The peak is the moment with most activations and logits; everything else stays all the time.
    """
    layout, s, rep = scenario.layout, shapes(scenario), replication(scenario)
    stages = stage_activations(scenario, s)
    found = []
    for pp_rank, row in enumerate(schedule_table(scenario)):
        parts = [units_of_stage(scenario, stage, s) for stage in range(pp_rank, num_stages(layout), layout.pp)]
        state = _state([unit.shard for part in parts for unit in part], rep)
        activations_bytes, logits_bytes = peak_of_walk(row, stages)
        found.append(
            StageMemory(
                pp_rank=pp_rank,
                parameters_bytes=state.parameters_bytes,
                gradients_bytes=state.gradients_bytes + _weight_gradient_bytes(parts, rep),
                optimizer_bytes=state.optimizer_bytes,
                activations_bytes=activations_bytes,
                logits_bytes=logits_bytes,
                communication_bytes=_communication_bytes(scenario, parts, rep, s),
                overhead_bytes=_overhead_bytes(layout),
                capacity_bytes=scenario.gpu.memory_bytes,
            )
        )
    return tuple(found)


def _state(shards: Iterable[Shard], rep: Replication) -> ModelState:
    total = sum(shards, Shard(0))
    dense = model_state_bytes(total.dense, rep.dense, rep.zero, rep.grad_bytes)
    return dense + model_state_bytes(total.expert, rep.expert, rep.zero, rep.grad_bytes)


def _weight_gradient_bytes(parts: Sequence[Sequence[Unit]], rep: Replication) -> float:
    """A 16-bit gradient for each shape of weight, beside the buffer.

    Transformer Engine keeps it as a placeholder while the product adds to the buffer (get_dummy_wgrad in
    transformer_engine/pytorch/module/base.py). ZeRO-3's gradients are whole in its own buffers.
    """
    if rep.zero == 3 and rep.dense > 1:
        return 0
    weights = {(piece.n, piece.k) for piece in _pieces(parts) if isinstance(piece, Linear)}
    return BYTES * sum(n * k for n, k in weights)


def _pieces(parts: Sequence[Sequence[Unit]]) -> Iterator[Piece]:
    return (piece for part in parts for unit in part for piece in unit.pieces)


@dataclass(frozen=True)
class StageActivations:
    """What one micro-batch takes on a virtual stage.

    kept, kept_logits: from the end of its forward pass to the end of its backward pass.  cast_logits: more, while
    either runs.  working: more, while the backward pass recomputes a layer.
    """

    kept_bytes: float
    working_bytes: float
    kept_logits_bytes: float = 0.0
    cast_logits_bytes: float = 0.0


def stage_activations(scenario: Scenario, s: Shapes) -> tuple[StageActivations, ...]:
    """Activations of one micro-batch on each virtual stage."""
    model, recompute = scenario.model, scenario.training.recompute
    kinds = {model.is_moe_layer(index): index for index in range(model.num_layers)}
    kept_by_kind = {is_moe: layer_kept(model, s, index) for is_moe, index in kinds.items()}
    bytes_by_kind = {is_moe: layer_bytes(kept, recompute) for is_moe, kept in kept_by_kind.items()}
    working_by_kind = {is_moe: working_bytes(kept, recompute) for is_moe, kept in kept_by_kind.items()}
    last = num_stages(scenario.layout) - 1
    found = []
    for stage, layers in enumerate(layers_of_stages(scenario.layout, model.num_layers)):
        moe_by_layer = [model.is_moe_layer(index) for index in layers]
        kept_bytes = sum(bytes_by_kind[is_moe] for is_moe in moe_by_layer)
        kept_bytes += embedding_bytes(s) if stage == 0 else 0
        kept_bytes += head_bytes(model, s) if stage == last else 0
        logits = s.tokens * s.vocab if stage == last else 0
        working = max((working_by_kind[is_moe] for is_moe in moe_by_layer), default=0.0)
        found.append(StageActivations(kept_bytes, working, KEPT_LOGIT_BYTES * logits, CAST_LOGIT_BYTES * logits))
    return tuple(found)


def peak_of_walk(row: Sequence[Action], stages: Sequence[StageActivations]) -> tuple[float, float]:
    """Activations and logits, bytes, at the fullest moment of one rank's actions."""
    activations_bytes = logits_bytes = peak_bytes = 0.0
    peak = (0.0, 0.0)
    for action in row:
        stage = stages[action.stage]
        working = 0.0
        if action.kind is Kind.F:
            activations_bytes += stage.kept_bytes
            logits_bytes += stage.kept_logits_bytes
        elif action.kind in (Kind.B, Kind.I):
            working = stage.working_bytes
        moment = (activations_bytes + working, logits_bytes + stage.cast_logits_bytes)
        if moment[0] + moment[1] > peak_bytes:
            peak_bytes, peak = moment[0] + moment[1], moment
        if action.kind in RELEASES:
            activations_bytes -= stage.kept_bytes
            logits_bytes -= stage.kept_logits_bytes
    return peak


def _communication_bytes(scenario: Scenario, parts: Sequence[Sequence[Unit]], rep: Replication, s: Shapes) -> float:
    """The largest exchange inside a layer, a pipeline buffer for each direction, and ZeRO's buffers.

    Reductions and gathers without ZeRO-2 or ZeRO-3 work in place, in the gradient and parameter buffers.
    """
    exchange_bytes = max((piece.nbytes for piece in _pieces(parts) if isinstance(piece, Exchange)), default=0.0)
    pipeline_bytes = 2 * BYTES * s.tokens_sp * scenario.model.hidden if scenario.layout.pp > 1 else 0
    zero_bytes = 0.0
    if rep.zero == 2:
        zero_bytes = max(_bucket_bytes(part, rep) for part in parts)
    elif rep.zero == 3:
        given = scenario.training.prefetch_layers
        prefetch_layers = DEFAULT_PREFETCH_LAYERS if given is None else given
        zero_bytes = max(_gathered_bytes(part, rep, prefetch_layers) for part in parts)
    return exchange_bytes + pipeline_bytes + zero_bytes


def _bucket_bytes(units_of_part: Sequence[Unit], rep: Replication) -> float:
    """ZeRO-2: whole gradients of one bucket that is filled and one that is reduced."""
    sizes = [_replicated(shard, rep) for shard, _ in buckets(units_of_part[::-1], rep)]
    return rep.grad_bytes * _largest_window(sizes, 2)


def _gathered_bytes(units_of_part: Sequence[Unit], rep: Replication, prefetch_layers: int) -> float:
    """ZeRO-3: whole parameters of the layer that computes and of those gathered ahead.

    And whole gradients of the layer that computes and of the one that is reduced.
    """
    sizes = [_replicated(unit.shard, rep) for unit in units_of_part]
    return BYTES * _largest_window(sizes, prefetch_layers + 1) + rep.grad_bytes * _largest_window(sizes, 2)


def _largest_window(sizes: Sequence[float], length: int) -> float:
    return max((sum(sizes[start : start + length]) for start in range(len(sizes))), default=0.0)


def _replicated(shard: Shard, rep: Replication) -> float:
    """Parameters that are spread over replicas; what has one owner is in place already."""
    return (shard.dense if rep.dense > 1 else 0) + (shard.expert if rep.expert > 1 else 0)


def _overhead_bytes(layout: Layout) -> float:
    """CUDA context and communicators, one for each axis with several ranks. The first is part of the context's."""
    assert layout.dp is not None
    num_communicators = sum(size > 1 for size in (layout.tp, layout.cp, layout.dp, layout.pp, layout.ep, layout.etp))
    overhead_bytes = CONTEXT_BYTES + COMMUNICATOR_BYTES * max(num_communicators - 1, 0)
    return overhead_bytes + (ALL_TO_ALL_BYTES if layout.ep > 1 else 0)
