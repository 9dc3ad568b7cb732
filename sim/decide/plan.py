"""What a plan file says: deployment, budget, cluster, training, data, recovery, and answers that are given."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sim.decide import recovery
from sim.spec.quantity import Bytes, BytesPerSecond, Count, FlopPerSecond, Fraction, Seconds, Spec
from sim.spec.training import Precision

Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
NotNegative = Annotated[float, Field(ge=0)]

Zero = Literal[0, 1, 2, 3]

MIX_TOLERANCE = 0.005
"""Shares are printed to a percent or half of one, so a published mix may miss 1 by this much."""


class Price(Spec):
    """Dollars of a GPU-hour, when that was asked for, and by whom. They differ fivefold and fall: a price has a
    date."""

    usd_per_gpu_hour: Positive
    date: str
    source: str


class Device(Spec):
    """What the model runs on where it is served: its memory, the rate of it, and bits of a weight.

    room: share of the memory that is left to the weights (cache of keys and values, system and other programs take the
    rest).
    """

    memory_bytes: Bytes = Field(alias="memory")
    memory_bytes_per_s: BytesPerSecond = Field(alias="bandwidth")
    weight_bits: Annotated[float, Field(gt=0, le=32)]
    room: Fraction


class Like(Spec):
    """A model whose loss is the target: its size and the tokens that it was trained on."""

    parameters: Positive
    tokens: Positive


class Serving(Spec):
    """What a FLOP of inference costs: $ per GPU-hour over peak times utilisation, for reading and for writing.

    Defaults are those of arXiv 2401.00448, section 4: 50 % while the prompt is read, 1 % while output is written.
    """

    usd_per_gpu_hour: Positive
    peak_flop_per_s: FlopPerSecond = Field(alias="peak")
    prompt_utilisation: Fraction = 0.5
    output_utilisation: Fraction = 0.01


class Strategies(Spec):
    """Sizes of the two over-trained strategies, as shares of the compute-optimal size for the same loss."""

    large: Annotated[float, Field(gt=0, lt=1)] = 0.75
    small: Annotated[float, Field(gt=0, lt=1)] = 0.45

    @model_validator(mode="after")
    def _large_is_larger(self) -> Self:
        if self.small >= self.large:
            raise ValueError(f"small = {self.small} is not below large = {self.large}")
        return self


class Deployment(Spec):
    """How the model is used: tokens over its life, share of them that is prompt, device, latency, and how good it is.

    The target is `loss` (nats per token) or that of the model `like`; without either, that of the compute-optimal model
    of the budget.
    """

    tokens: NotNegative
    prompt_share: Share
    latency: Literal["offline", "server", "interactive"] = "offline"
    device: Device | None = None
    max_parameters: Positive | None = None
    loss: Positive | None = None
    like: Like | None = None
    serving: Serving | None = None
    strategies: Strategies = Strategies()

    @model_validator(mode="after")
    def _one_target(self) -> Self:
        if self.loss is not None and self.like is not None:
            raise ValueError("loss and like both give the target (allowed one of them)")
        if self.latency != "offline" and self.device is None:
            raise ValueError(f"latency = {self.latency} needs a device, whose bandwidth bounds the rate of writing")
        return self


class Budget(Spec):
    """What the run may use. One of them: training FLOP, days of the cluster, dollars, or tokens per parameter.

    utilisation: model FLOP over peak with which days and dollars become FLOP before a layout is known; the simulated
    one
    stands beside it in the third answer.
    """

    flop: Positive | None = None
    days: Positive | None = None
    usd: Positive | None = None
    tokens_per_parameter: Positive | None = None
    utilisation: Fraction = 0.4

    @model_validator(mode="after")
    def _one(self) -> Self:
        given = [key for key in ("flop", "days", "usd", "tokens_per_parameter") if getattr(self, key) is not None]
        if len(given) != 1:
            got = ", ".join(given) or "none"
            raise ValueError(f"got {got}, allowed exactly one of flop, days, usd, tokens_per_parameter")
        return self


class PlannedTraining(Spec):
    """A step: sequences of `seq_len` tokens, `global_batch` of them. Micro-batch and recomputation are searched."""

    seq_len: Count
    global_batch: Count
    precision: Precision = "bf16"


class PlannedLayout(Spec):
    """Some axes of a layout; `dp` is what is left of the GPUs."""

    tp: Count = 1
    pp: Count = 1
    cp: Count = 1
    ep: Count = 1
    vpp: Count = 1
    zero: Zero = 1
    schedule: str | None = None
    micro_batch: Count = 1
    recompute: Literal["none", "selective", "full"] | None = None


class DataSource(Spec):
    """Tokens of one kind that exist, the share of the mix that they should be, and what they are for.

    quality: what one of its tokens is worth beside one of the best source, as the user judges it.
    max_epochs: how often it may be repeated.
    """

    tokens: Positive
    share: Share | None = None
    quality: Fraction = 1.0
    max_epochs: Annotated[float, Field(ge=1)] | None = None
    purpose: str = ""


class MixingLaw(Spec):
    """L_i = c_i + k_i exp(sum_j t_ij r_j) for each validation domain i, fitted by the user (arXiv 2403.16952).

    c, k: of each domain; t: for each domain, a number for each source in the order of `sources`.
    weights: of the domains in the loss that is minimised; equal where left out.
    """

    domains: Annotated[tuple[str, ...], Field(strict=False, min_length=1)]
    c: Annotated[tuple[float, ...], Field(strict=False)]
    k: Annotated[tuple[float, ...], Field(strict=False)]
    t: Annotated[tuple[Annotated[tuple[float, ...], Field(strict=False)], ...], Field(strict=False)]
    weights: Annotated[tuple[NotNegative, ...], Field(strict=False)] | None = None

    @model_validator(mode="after")
    def _one_for_each_domain(self) -> Self:
        sizes = {"c": len(self.c), "k": len(self.k), "t": len(self.t)}
        if self.weights is not None:
            sizes["weights"] = len(self.weights)
        wrong = [f"{name} has {size}" for name, size in sizes.items() if size != len(self.domains)]
        if wrong:
            raise ValueError(f"{', '.join(wrong)} entries, but there are {len(self.domains)} domains")
        return self


class LongContext(Spec):
    """A last phase with longer sequences: its tokens, and the cp that shards them; its step is simulated."""

    tokens: Positive
    seq_len: Count
    cp: Count
    global_batch: Count


class Data(Spec):
    """Sources by name, and phases. preset: a published mix by name, whose shares stand for those left out.

    annealing: share of the tokens over which the learning rate falls, on the best data.
    """

    sources: dict[str, DataSource] = Field(min_length=1)
    preset: str | None = None
    annealing: Share = 0.10
    long_context: LongContext | None = None
    mixing_law: MixingLaw | None = None

    @model_validator(mode="after")
    def _shares_are_a_mix(self) -> Self:
        shares = {name: source.share for name, source in self.sources.items() if source.share is not None}
        if self.mixing_law is not None and any(len(row) != len(self.sources) for row in self.mixing_law.t):
            raise ValueError(f"a row of mixing_law.t needs a number for each of the {len(self.sources)} sources")
        if self.preset is not None:
            return self
        total = sum(shares.values())
        if total > 1 + MIX_TOLERANCE:
            parts = " + ".join(f"{share:g}" for share in shares.values())
            raise ValueError(f"shares are {parts} = {total:g}, allowed up to 1 in all")
        if len(shares) == len(self.sources) and total < 1 - MIX_TOLERANCE:
            raise ValueError(
                f"shares of all sources are {total:g}, allowed 1 in all (or leave one out: it gets the rest)"
            )
        return self


class Recovery(Spec):
    """What goes wrong, and how a run comes back. Defaults have their sources in `sim.decide.recovery`.

    block: how long training stands still for a checkpoint that is written beside it; all of the writing where left out.
    """

    failures_per_1000_node_days: Positive = recovery.FAILURES_PER_1000_NODE_DAYS
    storage_bytes_per_s: BytesPerSecond = Field(alias="storage_bandwidth", default=recovery.STORAGE_BYTES_PER_S)
    restart_s: Seconds = Field(alias="restart", default=recovery.RESTART_S)
    bytes_per_parameter: Positive = recovery.BYTES_PER_PARAMETER
    block_s: Seconds | None = Field(alias="block", default=None)


class Given(Spec):
    """Answers that the file gives; what comes after them follows.

    model: a name of the catalogue, a file, or a mapping with a shape (question 1).  parameters: a size alone.
    tokens: question 2.  layout: 3.  zero: 4.  mix: shares by source, 5.  precision, checkpoint_interval: 6.
    """

    parameters: Positive | None = None
    tokens: Positive | None = None
    layout: PlannedLayout | None = None
    zero: Zero | None = None
    mix: dict[str, Share] | None = None
    precision: Precision | None = None
    checkpoint_interval_s: Annotated[Seconds, Field(gt=0)] | None = Field(alias="checkpoint_interval", default=None)

    @model_validator(mode="after")
    def _mix_is_whole(self) -> Self:
        if self.mix is not None and abs(sum(self.mix.values()) - 1) > MIX_TOLERANCE:
            raise ValueError(f"the shares of mix are {sum(self.mix.values()):g} in all, allowed 1")
        return self


class Plan(Spec):
    """A plan without its cluster and model, which are parts of a scenario and are read as such."""

    name: str
    law: str = "epoch"
    budget: Budget
    price: Price
    deployment: Deployment | None = None
    training: PlannedTraining
    data: Data | None = None
    recovery: Recovery = Recovery()
    given: Given = Given()
    layouts: dict[str, PlannedLayout] = Field(default_factory=dict)
