"""What a long-run file says: the phases of a training run, the cluster's reliability, and how it is recovered."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from sim.spec.quantity import Count, Fraction, Seconds, Spec
from sim.spec.reliability import Elastic, Failures, Recovery, Spares, Stragglers
from sim.spec.run_cost import Cost
from sim.spec.saving import Checkpoint
from sim.spec.spikes import Spikes

Positive = Annotated[float, Field(gt=0)]


class Phase(Spec):
    """A part of the run with one step time: batch ramp, main part, long context, annealing.

    scenario: file or name of the step that is played, with `set` laid on it, and `variant` of a file with several.
    step_time: measured, instead of the played one.  tokens_per_step: where there is no scenario.  Its length is `steps`
    or `tokens`.
    """

    name: str
    scenario: str | None = None
    variant: str | None = None
    set: dict[str, Any] = Field(default_factory=dict)
    step_time_s: Annotated[Seconds, Field(gt=0)] | None = Field(default=None, alias="step_time")
    tokens_per_step: Positive | None = None
    steps: Count | None = None
    tokens: Positive | None = None

    @model_validator(mode="after")
    def _fields_belong_together(self) -> Phase:
        if (self.steps is None) == (self.tokens is None):
            raise ValueError("a phase has either steps or tokens (got both or none)")
        if self.scenario is None:
            if self.step_time_s is None or self.tokens_per_step is None:
                raise ValueError("a phase without a scenario needs step_time and tokens_per_step")
            if self.set or self.variant is not None:
                raise ValueError("set and variant belong to a scenario (got none)")
        elif self.tokens_per_step is not None:
            raise ValueError("tokens_per_step follows from the scenario (allowed without one)")
        return self


class MeasuredRun(Spec):
    """What was published about this very run: its share of productive time, and where."""

    ettr: Fraction
    source: str


class LongRunFile(Spec):
    """A training run of weeks.

    gpus: of the job; those of the scenarios by default.  window: the run is looked at for this long; without it, until
    the last phase ends.  replicas: runs that are drawn.
    """

    name: str
    phases: Annotated[tuple[Phase, ...], Field(strict=False, min_length=1)]
    gpus: Count | None = None
    gpus_per_node: Count
    window_s: Annotated[Seconds, Field(gt=0)] | None = Field(default=None, alias="window")
    failures: Failures
    checkpoint: Checkpoint
    recovery: Recovery
    spares: Spares = Spares()
    elastic: Elastic | None = None
    stragglers: Stragglers | None = None
    spikes: Spikes | None = None
    cost: Cost | None = None
    replicas: Annotated[int, Field(ge=1, le=100_000, strict=True)] = 100
    seed: Annotated[int, Field(ge=0, strict=True)] = 0
    measured: MeasuredRun | None = None

    @model_validator(mode="after")
    def _fields_belong_together(self) -> LongRunFile:
        if self.gpus is None and all(phase.scenario is None for phase in self.phases):
            raise ValueError("gpus is missing, and no phase has a scenario from which it would follow")
        if self.checkpoint.size_bytes is None and not self.checkpoint.is_timed and self.phases[0].scenario is None:
            raise ValueError("checkpoint.size is missing, and the first phase has no scenario whose memory gives it")
        return self
