"""Loss spikes: how often, how they are noticed, and what is done about them, in order."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Literal

from pydantic import Field, model_validator

from sim.spec.quantity import Count, Seconds, Spec
from sim.spec.sourced import Sourced, numbers

Share = Annotated[float, Field(ge=0, le=1)]


class Rule(Spec):
    """An alarm: `signal` is above its running mean by `sigmas` standard deviations, for `consecutive` steps."""

    signal: Literal["loss", "gradient_norm"]
    sigmas: Annotated[float, Field(gt=0)]
    consecutive: Count = 1


class Remedy(Spec):
    """What is done about a spike.

    rollback_steps: how far before the spike the checkpoint lies from which the job goes on; without it, it goes on
    from the newest.  skip_batches: data that is left out.  cures_frac: chance that it helps; else the next is tried.
    """

    action: Literal["roll_back_and_skip", "lower_learning_rate", "clip_harder", "use_bf16"]
    rollback_steps: Annotated[int, Field(ge=0, strict=True)] = 0
    skip_batches: Annotated[int, Field(ge=0, strict=True)] = 0
    cures_frac: Annotated[float, Field(gt=0, le=1)]


class RunbookStep(Spec):
    """A look for the cause: how long it takes, and how often it finds it where those before did not."""

    look_at: Literal["gradient_norm", "batch", "hardware_log", "nan_by_layer", "schedule"]
    time_s: Seconds = Field(alias="time")
    finds_frac: Share


class Spikes(Sourced):
    """Loss spikes of a run.

    per_1000_steps: their rate.  sigmas: their height over the noise of each signal.  heals_frac: share that goes away
    by itself.  An alarm needs all `rules`; each one, true or false, pauses the job for the expected time of `runbook`.
    acts_alone: a false alarm is taken for a true one, and the first remedy applied.
    """

    title: str
    per_1000_steps: Annotated[float, Field(gt=0)]
    sigmas: Annotated[float, Field(gt=0)]
    heals_frac: Share
    rules: Annotated[tuple[Rule, ...], Field(strict=False, min_length=1)]
    acts_alone: bool
    remedies: Annotated[tuple[Remedy, ...], Field(strict=False, min_length=1)]
    runbook: Annotated[tuple[RunbookStep, ...], Field(strict=False)]

    def facts(self) -> Collection[str]:
        """Its numbers, and the lists as wholes."""
        return {*numbers(self), "rules", "remedies", "runbook"}

    @model_validator(mode="after")
    def _each_signal_once(self) -> Spikes:
        signals = [rule.signal for rule in self.rules]
        if len(set(signals)) < len(signals):
            raise ValueError(f"a signal stands in two rules (got {', '.join(signals)})")
        return self
