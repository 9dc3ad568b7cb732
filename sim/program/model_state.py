"""Parameters, gradients and optimizer state that a rank holds for its share of the model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from sim.program.activations import FP32_BYTES
from sim.program.optimizer import master_bytes, state_bytes
from sim.program.pieces import Linear, flat
from sim.program.replication import Replication
from sim.program.shapes import BYTES, Shapes
from sim.program.shards import Shard
from sim.program.stage import Unit
from sim.spec.scenario import Scenario


@dataclass(frozen=True)
class ModelState:
    """Bytes of parameters, gradients and optimizer state, for each parameter or on one rank."""

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


def sharded(
    each: ModelState, num_parameters: float, replicas: int, zero: int, *, sums_whole: bool = False
) -> ModelState:
    """State on one rank that holds `num_parameters` of `each` bytes, in a group of `replicas` ranks that shards them.

    sums_whole: whether whole gradients are summed until the last backward pass all the same.

    ZeRO-1 shards the optimizer over the replicas, ZeRO-2 also gradients, ZeRO-3 also parameters. With 2-byte gradients
    that is 16, 4 + 12 / N, 2 + 14 / N and 16 / N bytes per parameter (arXiv 1910.02054, figure 1); with fp32 ones 18
    and 6 + 12 / N, as in Megatron-LM (megatron/training/theoretical_memory_usage.py).

    >>> mixed = ModelState(2, 2, 12)
    >>> [round(sharded(mixed, 7.5e9, 64, zero).total_bytes / 1e9, 1) for zero in range(4)]
    [120.0, 31.4, 16.6, 1.9]
    """
    return ModelState(
        parameters_bytes=each.parameters_bytes * num_parameters / (replicas if zero >= 3 else 1),
        gradients_bytes=each.gradients_bytes * num_parameters / (replicas if zero >= 2 and not sums_whole else 1),
        optimizer_bytes=each.optimizer_bytes * num_parameters / (replicas if zero >= 1 else 1),
    )


def bytes_per_parameter(scenario: Scenario, rep: Replication) -> ModelState:
    """Of a parameter in 16 bits, its gradient, and the optimizer's state that is on the GPU.

    FSDP2 (`copies_shards`) has no 16-bit copy between uses: the shards themselves are the fp32 master copy, cast when
    they are gathered (torch's MixedPrecisionPolicy), so that 16 bytes are left of 18 with fp32 gradients.
    """
    optimizer = scenario.training.optimizer
    optimizer_bytes = 0.0 if optimizer.offload else state_bytes(optimizer)
    if rep.copies_shards and optimizer.master == "fp32":
        on_gpu = 0.0 if optimizer.offload else optimizer_bytes - master_bytes(optimizer)
        return ModelState(FP32_BYTES, rep.grad_bytes, on_gpu)
    return ModelState(BYTES, rep.grad_bytes, optimizer_bytes)


def model_state(scenario: Scenario, parts: Sequence[Sequence[Unit]], rep: Replication, s: Shapes) -> ModelState:
    """State of a rank whose virtual stages hold `parts`.

    What is kept of gathered parameters from pass to pass (`layout.reshard` a number or `step`) counts as parameters, at
    all times: ZeRO++'s secondary copy is never given back; torch does so before the optimizer.
    """
    units = [unit for part in parts for unit in part]
    total = sum((unit.shard for unit in units), Shard(0))
    each = bytes_per_parameter(scenario, rep)
    whole = rep.sync == "last"
    state = sharded(each, total.dense, rep.dense.shard, rep.zero, sums_whole=whole)
    state += sharded(each, total.expert, rep.expert.shard, rep.zero, sums_whole=whole)
    beside_bytes = _weight_gradient_bytes(units, rep, scenario.stack.kernels.gradient_accumulation)
    cast_bytes = _cast_bytes(units, state.parameters_bytes, rep, s)
    return state + ModelState(cast_bytes + rep.used_bytes * rep.secondary(total), beside_bytes, 0.0)


def _cast_bytes(units: Sequence[Unit], parameters_bytes: float, rep: Replication, s: Shapes) -> float:
    """What products below 16 bits change of `parameters_bytes` in 16 bits.

    They read weights that are cast once a step, as they are and transposed (Transformer Engine's workspaces, kept for
    all micro-batches). Weights that are themselves in low precision have the first of these instead of 16 bits, with
    their scales. ZeRO-3 casts what it gathers (`sim.program.held`); its shards are in low precision where the weights
    are, unless they are the master copy.
    """
    if s.recipe is None:
        return 0.0
    cast = sum(unit.cast_parameters for unit in units)
    if rep.zero < 3:
        return (2 * s.quantized_bytes - (BYTES if s.keeps_weights_cast else 0)) * cast
    if rep.copies_shards or not s.keeps_weights_cast:
        return 0.0
    share = cast / sum(unit.shard.total for unit in units)
    return (s.quantized_bytes / BYTES - 1) * share * parameters_bytes


def _weight_gradient_bytes(
    units: Iterable[Unit], rep: Replication, accumulation: Literal["fused", "separate"]
) -> float:
    """16-bit gradients of weights, beside the buffer in which they are summed; ZeRO-3's are whole in its own buffers.

    Where the product adds to the buffer itself, Transformer Engine keeps a placeholder for each shape of weight
    (get_dummy_wgrad in transformer_engine/pytorch/module/base.py). Where a kernel adds it, one at a time is whole.
    """
    if rep.zero == 3 and rep.dense.replicas > 1 and rep.sync != "last":
        return 0.0
    weights = {(piece.n, piece.k) for unit in units for piece in flat(unit.pieces) if isinstance(piece, Linear)}
    sizes = [BYTES * n * k for n, k in weights]
    return sum(sizes) if accumulation == "fused" else max(sizes, default=0)
