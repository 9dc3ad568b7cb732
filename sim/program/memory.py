"""Memory of every pipeline rank at the worst moment of a step, by what it is for, and whether it fits the GPU."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields

from sim import units
from sim.program.held import NOTHING, OPTIMIZER_WORK_BYTES, Held, StageHeld, fullest, stages_held
from sim.program.lower import schedule_table, stages_of_rank
from sim.program.model_state import ModelState, model_state
from sim.program.pieces import Exchange, Piece, Ring, flat
from sim.program.reductions import buckets
from sim.program.replication import Replication, replication
from sim.program.roles import fullest_place
from sim.program.shapes import BYTES, Shapes, shapes
from sim.program.shards import Shard
from sim.program.stage import Unit, units_of_stage
from sim.program.table import Cell
from sim.spec.layout import Layout, cp_head_ranks, num_stages, replicas
from sim.spec.scenario import Scenario

FRAGMENTATION_FRAC = 0.05
"""What PyTorch's caching allocator reserves beyond the tensors at the peak, estimated: from little with
`expandable_segments` to the 11 % by which torchtitan's published max_memory_reserved exceed our tensors
(tests/program/published_peaks.csv). Recomputation and offloading can waste up to 43 % (arXiv 2507.16274)."""

CONTEXT_BYTES = 1.06e9
"""CUDA context and first NCCL communicator of an H100, outside PyTorch's allocator, as measured before the first
all-to-all in https://github.com/NVIDIA/nccl/issues/1685."""

ALL_TO_ALL_BYTES = 3.28e9
"""Connections of every pair of GPUs after an all-to-all over 8 H100s: 4.34 - 1.06 GB (the same issue)."""

COMMUNICATOR_BYTES = 0.5e9
"""Estimate for each further communicator. It depends on channels and algorithms: https://github.com/NVIDIA/nccl/issues/864
reports 1.6 GB with one and about 6 GB with three or more."""


@dataclass(frozen=True)
class StageMemory:
    """One rank of a pipeline stage at its worst moment. Ranks of the same stage are alike.

    gradients: the buffer, and a 16-bit gradient of each shape of weight on its way into it.  activations: of all
    micro-batches in flight, what is being recomputed, and the gradients of one layer's activations.  logits: loss
    buffers of the last stage.  communication: buffers of exchanges, ZeRO's gathered parameters and unreduced gradients.
    fragmentation: what the caching allocator reserves beyond its tensors.  overhead: CUDA and NCCL.

    Three sums answer to three ways to measure: `allocated_bytes` (torch.cuda.max_memory_allocated), `reserved_bytes`
    (max_memory_reserved) and `peak_bytes` (nvidia-smi); the last must fit.

    A stage's output is freed once it is sent (Megatron-Core's deallocate_pipeline_outputs). A framework that keeps it
    holds 2 bytes x tokens x hidden more for each micro-batch in flight.

    Error: 23 allocated peaks, mean 1.4 %: 15 of Megatron-Core on 8 B200 (Llama 3 and DeepSeek with few layers, at most
    1.9 %), 8 of older Megatron-LM on up to 32 A100 (at most 6.4 %). Two reserved ones of torchtitan, 5 % low. See
    tests/program/published_peaks.csv. DeepSpeed's engine holds more than this: stage outputs, buckets, 16-bit gradients
    beside fp32 ones, and an fp32 copy of its shard of the gradients.
    """

    pp_rank: int
    parameters_bytes: float
    gradients_bytes: float
    optimizer_bytes: float
    activations_bytes: float
    logits_bytes: float
    communication_bytes: float
    fragmentation_bytes: float
    overhead_bytes: float
    capacity_bytes: float

    @property
    def parts_bytes(self) -> dict[str, float]:
        """Bytes by category."""
        names = [field.name for field in fields(self) if field.name not in ("pp_rank", "capacity_bytes")]
        return {name.removesuffix("_bytes"): getattr(self, name) for name in names}

    @property
    def allocated_bytes(self) -> float:
        """Tensors alone."""
        return self.reserved_bytes - self.fragmentation_bytes

    @property
    def reserved_bytes(self) -> float:
        """What PyTorch's allocator has."""
        return self.peak_bytes - self.overhead_bytes

    @property
    def peak_bytes(self) -> float:
        """Sum of all categories: what the process has of the GPU."""
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


@dataclass(frozen=True)
class RankMemory:
    """What one rank of a pipeline stage holds, from which its peak and its course over the step follow.

    state: all the time, as are `buffers_bytes` (exchanges, pipeline, ZeRO-2's buckets) and `overhead_bytes`.
    row: the rank's cells.  stages: what a micro-batch takes on each virtual stage.  end: while the optimizer runs.
    """

    pp_rank: int
    state: ModelState
    buffers_bytes: float
    overhead_bytes: float
    capacity_bytes: float
    row: Sequence[Cell]
    stages: Sequence[StageHeld]
    end: Held

    def at(self, held: Held) -> StageMemory:
        """All of it at the moment at which `held` comes on top of what stays."""
        allocated_bytes = self.state.total_bytes + self.buffers_bytes + held.total_bytes
        return StageMemory(
            pp_rank=self.pp_rank,
            parameters_bytes=self.state.parameters_bytes,
            gradients_bytes=self.state.gradients_bytes,
            optimizer_bytes=self.state.optimizer_bytes + held.optimizer_bytes,
            activations_bytes=held.activations_bytes,
            logits_bytes=held.logits_bytes,
            communication_bytes=self.buffers_bytes + held.communication_bytes,
            fragmentation_bytes=FRAGMENTATION_FRAC * allocated_bytes,
            overhead_bytes=self.overhead_bytes,
            capacity_bytes=self.capacity_bytes,
        )


def memory(scenario: Scenario) -> tuple[StageMemory, ...]:
    """Memory of one rank of each pipeline stage at its fullest moment, in order."""
    return tuple(rank.at(fullest(rank.row, rank.stages, rank.end)) for rank in ranks_memory(scenario))


def ranks_memory(scenario: Scenario) -> tuple[RankMemory, ...]:
    """What one rank of each pipeline stage holds over the step, in order."""
    layout, s, rep = scenario.layout, shapes(scenario, fullest_place(scenario)), replication(scenario)
    units_by_stage = [units_of_stage(scenario, stage, s) for stage in range(num_stages(layout))]
    held = stages_held(scenario, units_by_stage, rep, s)
    found = []
    for pp_rank, row in enumerate(schedule_table(scenario)):
        parts = [units_by_stage[stage] for stage in stages_of_rank(layout, pp_rank)]
        found.append(
            RankMemory(
                pp_rank=pp_rank,
                state=model_state(scenario, parts, rep, s),
                buffers_bytes=_buffers_bytes(scenario, parts, rep, s),
                overhead_bytes=_overhead_bytes(layout),
                capacity_bytes=scenario.gpu.memory_bytes,
                row=row,
                stages=held,
                end=_optimizer_work(scenario, parts, rep),
            )
        )
    return tuple(found)


def _pieces(parts: Sequence[Sequence[Unit]]) -> Iterator[Piece]:
    return (piece for part in parts for unit in part for piece in flat(unit.pieces))


def _optimizer_work(scenario: Scenario, parts: Sequence[Sequence[Unit]], rep: Replication) -> Held:
    """What the update of the parameters that a rank owns needs beside its state."""
    if scenario.stack.kernels.optimizer == "fused" or scenario.training.optimizer.offload:
        return NOTHING
    total = sum((unit.shard for part in parts for unit in part), Shard(0))
    return Held(optimizer_bytes=OPTIMIZER_WORK_BYTES * rep.owned(total))


def _buffers_bytes(scenario: Scenario, parts: Sequence[Sequence[Unit]], rep: Replication, s: Shapes) -> float:
    """The largest exchange inside a layer as it is sent or, of experts, received, a pipeline buffer for each direction,
    and ZeRO-2's buckets.

    Reductions and gathers of ZeRO-0 and ZeRO-1 work in place, in the gradient and parameter buffers.
    """
    exchange_bytes = max((_exchange_bytes(piece) for piece in _pieces(parts)), default=0.0)
    travels = any(isinstance(piece, Exchange) and piece.kind == "ep" for piece in _pieces(parts))
    if s.routed is not None and travels:
        exchange_bytes = max(exchange_bytes, BYTES * s.routed.copies * scenario.model.hidden / s.etp)
    pipeline_bytes = 2 * BYTES * s.tokens_sp * scenario.model.hidden if scenario.layout.pp > 1 else 0
    bucket_bytes = max(_bucket_bytes(part, rep) for part in parts) if rep.zero == 2 else 0.0
    return exchange_bytes + pipeline_bytes + bucket_bytes


def _exchange_bytes(piece: Piece) -> float:
    """Of the buffer that a piece communicates through."""
    match piece:
        case Exchange():
            return piece.nbytes
        case Ring():
            return piece.buffer_nbytes
        case _:
            return 0.0


def _bucket_bytes(units_of_part: Sequence[Unit], rep: Replication) -> float:
    """ZeRO-2: whole gradients of one bucket that is filled and one that is reduced."""
    sizes = [rep.replicated(shard) for shard, _ in buckets([unit.shard for unit in units_of_part[::-1]], rep)]
    return rep.grad_bytes * max((sum(sizes[start : start + 2]) for start in range(len(sizes))), default=0.0)


def _overhead_bytes(layout: Layout) -> float:
    """CUDA context and communicators, one for each axis with several ranks, and more for parts of its groups. The first
    is part of the context's."""
    assert layout.dp is not None
    heads = cp_head_ranks(layout)
    sizes = (layout.tp, heads, layout.cp // heads, layout.dp, layout.pp, layout.ep, layout.etp)
    num_communicators = sum(size > 1 for size in sizes)
    has_groups = layout.shard not in (None, 1, replicas(layout, "dp_cp"))
    has_parts = (has_groups, not isinstance(layout.reshard, (bool, str)), layout.reduce_hop is not None)
    num_communicators += sum(has_parts)
    overhead_bytes = CONTEXT_BYTES + COMMUNICATOR_BYTES * max(num_communicators - 1, 0)
    return overhead_bytes + (ALL_TO_ALL_BYTES if layout.ep > 1 or heads > 1 else 0)
