"""Over how many ranks parameters are replicated and sharded, and which calls and kernels that takes.

ZeRO (arXiv 1910.02054) over all replicas, or over groups of them that are replicas of each other: HSDP (torch FSDP,
arXiv 2304.11277 section 3.2.2), MiCS (arXiv 2205.00119), Megatron-Core's num_distributed_optimizer_instances. ZeRO++
(arXiv 2306.10209) gathers for the backward pass within a smaller group, and sends fewer bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from sim.cost.kernels import Stream
from sim.program.operations import Collective
from sim.program.schedule_file import schedule_of
from sim.program.shapes import BYTES, shapes
from sim.program.shards import Shard
from sim.spec.gpu import BYTES_PER_VALUE, NumberFormat
from sim.spec.layout import part_size, replicas
from sim.spec.scenario import Scenario
from sim.spec.stack import bucket_bytes

SCALE_BYTES = 4 / 8000
"""Of an fp32 scale for each value: one for up to 8,000 (CUDAQuantizer.target_group_size in
deepspeed/runtime/zero/partition_parameters.py)."""

QUANTIZED_BYTES = {"int8": 1 + SCALE_BYTES, "int4": 0.5 + SCALE_BYTES}
"""On the wire, of a quantized value with its share of a scale."""

Calls = tuple[Collective, ...]


@dataclass(frozen=True)
class Spread:
    """Groups of ranks of `axis` (dp_cp for dense parameters, edp for experts; with the copies of a stage that lies on
    two pipeline ranks), by size.

    replicas: all ranks that hold the same.  shard: those over which ZeRO shards.  reshard: those that gather for the
    backward pass.  hop: those of the first all_to_all of 4-bit gradients.
    """

    axis: Literal["dp_cp", "edp", "dp_cp_copies", "edp_copies"]
    replicas: int
    shard: int
    reshard: int
    hop: int

    @property
    def alone(self) -> Spread:
        """Of a rank without replicas."""
        return Spread(self.axis, 1, 1, 1, 1)

    @property
    def shard_group(self) -> str:
        """Name of the shard groups; the axis itself where there is one of them."""
        return self.axis if self.shard == self.replicas else f"{self.axis}.shard"

    @property
    def reshard_group(self) -> str:
        """Name of the groups that gather for the backward pass."""
        return self.shard_group if self.reshard == self.shard else f"{self.axis}.reshard"


@dataclass(frozen=True)
class Replication:
    """Spread of dense parameters and of experts, what ZeRO makes of it, and the formats on the wire.

    grad_bytes: of a value of the gradient buffer.  wire_bytes: of a gradient on the wire.  param_bytes: of a gathered
    parameter on the wire.  converts: the format to which gathered parameters do not belong (int8, fp32), None where
    they are used as they come.  reshard: as in the layout, a number as `some`.
    """

    zero: int
    dense: Spread
    expert: Spread
    bucket_bytes: float
    grad_bytes: int
    wire_bytes: float
    param_bytes: float
    converts: Literal["int8", "fp32"] | None
    copies_shards: bool
    overlaps_reduce: bool
    overlaps_gather: bool
    reshard: Literal["all", "some", "never", "step"]
    sync: Literal["every", "two_hop", "last", "all_reduce"]
    is_int4: bool

    @property
    def gathers_again(self) -> bool:
        """Whether the backward pass gathers what the forward pass has gathered."""
        return self.zero == 3 and self.reshard in ("all", "some")

    def gathers_forward(self, *, is_first: bool) -> bool:
        """Whether a forward pass, the first of its stage or not, gathers layer by layer."""
        return self.zero == 3 and (self.reshard != "step" or is_first)

    def reduces(self, *, is_last: bool) -> bool:
        """Whether a backward pass, the last of its stage or not, reduces gradients."""
        return is_last or (self.zero >= 2 and self.sync != "last")

    @property
    def used_bytes(self) -> float:
        """Of a parameter as the gathered whole is kept: quantized ones are kept in 16 bits."""
        return BYTES if self.converts == "int8" else self.param_bytes

    @property
    def gradient_source_bytes(self) -> int:
        """Of a gradient before it is reduced: ZeRO-3 has 16 bits, unless it sums whole gradients first."""
        return BYTES if self.zero == 3 and self.sync != "last" else self.grad_bytes

    def parts(self, shard: Shard) -> Iterator[tuple[Spread, float]]:
        """Dense parameters and experts of `shard` that have replicas, with their spread."""
        for spread, parameters in ((self.dense, shard.dense), (self.expert, shard.expert)):
            if spread.replicas > 1 and parameters > 0:
                yield spread, parameters

    def replicated(self, shard: Shard) -> float:
        """Parameters of `shard` that have replicas."""
        return sum(parameters for _, parameters in self.parts(shard))

    def sharded(self, shard: Shard) -> float:
        """Parameters of `shard` that are spread over several ranks; what has one owner is in place already."""
        return sum(parameters for spread, parameters in self.parts(shard) if spread.shard > 1)

    def owned(self, shard: Shard) -> float:
        """Parameters of `shard` that a rank updates."""
        return self._share(shard, self.dense.shard, self.expert.shard) if self.zero else shard.total

    def secondary(self, shard: Shard) -> float:
        """Parameters of `shard` that a rank keeps between the passes beside what it owns."""
        match self.reshard:
            case "some":
                kept = Shard(shard.dense * (self.dense.shard > 1), shard.expert * (self.expert.shard > 1))
                return self._share(kept, self.dense.reshard, self.expert.reshard)
            case "step":
                return self.sharded(shard)
            case _:
                return 0.0

    def gathers(self, shard: Shard, *, again: bool = False) -> Iterator[Collective]:
        """Gathering of the parameters of `shard`; `again`: for the backward pass."""
        for spread, parameters in self.parts(shard):
            size = spread.reshard if again else spread.shard
            if size > 1:
                group = spread.reshard_group if again else spread.shard_group
                yield Collective("dp_gather", "all_gather", group, parameters * self.param_bytes)

    def reductions(self, shard: Shard, *, is_last: bool) -> Iterator[Calls]:
        """Calls that reduce the gradients of `shard`: each chain runs one call after the other.

        A shard group scatters, then the ranks of equal position in all groups sum their shards. With `two_hop` they do
        so in the last pass only.
        """
        for spread, parameters in self.parts(shard):
            nbytes = parameters * self.wire_bytes
            if self.zero == 0 or self.sync == "all_reduce":
                yield (Collective("dp_reduce", "all_reduce", spread.axis, nbytes),)
            else:
                yield tuple(self._scattered(spread, nbytes, is_last=is_last))

    def _scattered(self, spread: Spread, nbytes: float, *, is_last: bool) -> Iterator[Collective]:
        if spread.shard > 1:
            yield Collective("dp_reduce", "reduce_scatter", spread.shard_group, nbytes)
        if spread.shard < spread.replicas and (is_last or self.sync != "two_hop"):
            group = spread.axis if spread.shard == 1 else f"{spread.axis}.replica"
            yield Collective("dp_replica", "all_reduce", group, nbytes / spread.shard)

    def first_hop(self, shard: Shard) -> Iterator[Collective]:
        """4-bit gradients of `shard` to the neighbours (of a node) that own a part of them, or are next to who does."""
        for spread, parameters in self.parts(shard):
            if spread.hop > 1:
                yield Collective("dp_reduce", "all_to_all", f"{spread.axis}.hop", parameters * self.wire_bytes)

    def second_hop(self, shard: Shard) -> Iterator[Collective]:
        """Sums over those neighbours to the ranks that own them."""
        for spread, parameters in self.parts(shard):
            if spread.hop < spread.shard:
                nbytes = parameters * self.wire_bytes / spread.hop
                yield Collective("dp_reduce", "all_to_all", f"{spread.axis}.across", nbytes)

    def copy_out(self, shard: Shard, *, again: bool = False) -> Iterator[Stream]:
        """What makes gathered parameters fit for use: those of many tensors are copied to where each lies (FSDP2);
        a rank quantizes its share and restores the whole (qwZ); fp32 ones are cast to 16 bits."""
        if not (gathered := self.sharded(shard)):
            return
        if self.copies_shards:
            yield Stream("copy out of gather", 2 * self.param_bytes * gathered)
        if self.converts == "int8":
            sizes = [spread.reshard if again else spread.shard for spread in (self.dense, self.expert)]
            share = self._share(shard, *sizes)
            yield Stream("quantize parameters", (BYTES + self.param_bytes) * share)
        if self.converts is not None:
            yield Stream("convert gathered parameters", (self.param_bytes + BYTES) * gathered)

    def copy_in(self, shard: Shard) -> Iterator[Stream]:
        """What makes gradients fit for the wire: those of many tensors are copied into what is reduced (FSDP2), in its
        format; else they are cast, or quantized; what comes back is cast as well."""
        if not (gathered := self.replicated(shard)):
            return
        each = self.gradient_source_bytes + self.wire_bytes
        if self.is_int4:
            yield Stream("quantize gradients", each * gathered)
        elif self.copies_shards:
            yield Stream("copy into reduction", each * gathered)
        elif self.wire_bytes not in (self.grad_bytes, self.gradient_source_bytes):
            yield Stream("cast for reduction", each * gathered)
        if self.wire_bytes != self.grad_bytes and not self.is_int4:
            yield Stream("cast of reduced gradients", (self.wire_bytes + self.grad_bytes) * self.owned(shard))

    def between_hops(self, shard: Shard) -> Iterator[Stream]:
        """Contributions of the first hop's ranks are restored, summed and quantized again in one kernel (DeepSpeed's
        quantized_reduction)."""
        share = self._share(shard, self.dense.hop, self.expert.hop)
        yield Stream("sum quantized gradients", self.wire_bytes * (self.replicated(shard) + share))

    def after_hops(self, shard: Shard) -> Iterator[Stream]:
        """Contributions of the second hop's ranks are restored and summed."""
        share = self._share(shard, self.dense.hop, self.expert.hop)
        yield Stream("restore gradients", self.wire_bytes * share + self.grad_bytes * self.owned(shard))

    @staticmethod
    def _share(shard: Shard, dense: int, expert: int) -> float:
        return shard.dense / dense + shard.expert / expert

    def fills_bucket(self, shard: Shard) -> bool:
        """Whether the gradients of `shard` are worth a call. ZeRO-3 works unit by unit."""
        return self.zero == 3 or shard.total * self.grad_bytes >= self.bucket_bytes


def replication(scenario: Scenario) -> Replication:
    """Replication of the scenario's parameters."""
    layout, training, s = scenario.layout, scenario.training, shapes(scenario)
    dense = _spread(scenario, "dp_cp")
    reduce = training.reduce_precision
    wire_bytes = s.grad_bytes if reduce is None else _bytes_of(reduce)
    gather = training.gather_precision
    as_kept = s.quantized_bytes if s.keeps_weights_cast else BYTES
    reshard: dict[object, Literal["all", "never", "step"]] = {True: "all", False: "never", "step": "step"}
    return Replication(
        zero=layout.zero,
        dense=dense,
        expert=_spread(scenario, "edp"),
        bucket_bytes=training.bucket_bytes or bucket_bytes(scenario.stack.bucket, s.grad_bytes, dense.replicas),
        grad_bytes=s.grad_bytes,
        wire_bytes=wire_bytes,
        param_bytes=as_kept if gather is None else _bytes_of(gather),
        converts=gather,
        copies_shards=layout.zero == 3 and scenario.stack.shard_copies,
        overlaps_reduce=training.overlap.grad_reduce,
        overlaps_gather=training.overlap.param_gather,
        reshard=reshard.get(layout.reshard, "some"),
        sync=training.grad_sync or "every",
        is_int4=reduce == "int4",
    )


def _bytes_of(precision: NumberFormat | Literal["int8", "int4"]) -> float:
    match precision:
        case "int8" | "int4":
            return QUANTIZED_BYTES[precision]
        case _:
            return BYTES_PER_VALUE[precision]


def _spread(scenario: Scenario, axis: Literal["dp_cp", "edp"]) -> Spread:
    layout = scenario.layout
    if axis == "edp" and scenario.model.experts is None:
        return Spread(axis, 1, 1, 1, 1)
    shard = part_size(layout, axis, layout.shard)
    if schedule_of(layout.schedule).placement == "both":
        both: Literal["dp_cp_copies", "edp_copies"] = "edp_copies" if axis == "edp" else "dp_cp_copies"
        return Spread(both, 2 * shard, 2 * shard, 2 * shard, 2 * shard)
    reshard = shard if isinstance(layout.reshard, (bool, str)) else part_size(layout, axis, layout.reshard)
    return Spread(axis, replicas(layout, axis), shard, reshard, part_size(layout, axis, layout.reduce_hop))
