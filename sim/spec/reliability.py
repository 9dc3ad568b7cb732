"""How often a cluster fails, and what a job does about it: hazards by component, recovery, spares, stragglers."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sim.spec.quantity import Count, Fraction, Seconds, Spec
from sim.spec.sourced import Sourced

Share = Annotated[float, Field(ge=0, le=1)]
NotNegative = Annotated[float, Field(ge=0)]
Above = Annotated[float, Field(gt=0)]
Factor = Annotated[float, Field(ge=1)]


class Observed(Spec):
    """Where failures were counted: the time of a job on `gpus` GPUs."""

    gpus: Count
    gpus_per_node: Count
    days: Above


class Component(Spec):
    """One cause of interruptions.

    count: over `observed`.  per_1000_days: instead of it, for 1,000 days of one unit.  scope: the unit that fails, a
    node, a group of `nodes` nodes that fail together (a switch, a rack, a power feed), or the job as a whole.  shape:
    of a Weibull distribution whose mean is the rate's, 1 is exponential.  hang_frac: share that only a timeout
    notices.  silent_frac: share that corrupts data and is noticed by checks.  transient_frac: share after which the
    same nodes run on.  repair: mean time until a node is back, instead of that of `failures.repair`.
    """

    count: Count | None = None
    per_1000_days: Above | None = None
    scope: Literal["node", "group", "job"] = "node"
    nodes: Count = 1
    shape: Annotated[float, Field(ge=0.3, le=10)] = 1.0
    hang_frac: Share = 0.0
    silent_frac: Share = 0.0
    transient_frac: Share = 0.0
    repair_s: Annotated[Seconds, Field(gt=0)] | None = Field(default=None, alias="repair")

    @model_validator(mode="after")
    def _fields_belong_together(self) -> Component:
        if (self.count is None) == (self.per_1000_days is None):
            raise ValueError("a component has either count or per_1000_days (got both or none)")
        if (self.scope == "group") != (self.nodes > 1):
            raise ValueError(f"nodes = {self.nodes} with scope = {self.scope} (allowed 2 or more with group, else 1)")
        if self.hang_frac + self.silent_frac > 1:
            raise ValueError(f"hang_frac + silent_frac = {self.hang_frac + self.silent_frac:g} (allowed up to 1)")
        if self.scope == "job" and (self.transient_frac != 1 or self.shape != 1 or self.repair_s is not None):
            raise ValueError("the job as a whole breaks no node (allowed transient_frac: 1, shape: 1 and no repair)")
        return self


class Lemons(Spec):
    """Nodes that fail `factor` times as often; it is taken out after `evict_after` failures, else repaired."""

    frac: Fraction
    factor: Annotated[float, Field(gt=1)]
    evict_after: Count | None = None


class Failures(Sourced):
    """What interrupts a job, by component. repair: mean time, exponential, until a broken node is back."""

    title: str
    observed: Observed | None = None
    components: Annotated[dict[str, Component], Field(min_length=1)]
    repair_s: Annotated[Seconds, Field(gt=0)] = Field(alias="repair")
    lemons: Lemons | None = None

    @model_validator(mode="after")
    def _counts_have_an_exposure(self) -> Self:
        counted = [name for name, component in self.components.items() if component.count is not None]
        if counted and self.observed is None:
            raise ValueError(f"{', '.join(counted)} has a count, but observed is missing")
        if self.lemons is not None and all(
            part.scope != "node" or part.shape != 1 for part in self.components.values()
        ):
            raise ValueError("lemons have no effect: no component is exponential with scope = node")
        return self


class Recovery(Spec):
    """Times between a failure and steps at full speed.

    detect: a crash is noticed.  hang_detect: the timeout of what hangs.  silent_detect: mean time, exponential, until
    corrupted data is noticed.  diagnose: finding the broken node.  reschedule: starting on a cold spare.  init:
    processes, communicators, data loaders.  catch_up: loss of pace after the first step.
    """

    detect_s: Seconds = Field(alias="detect")
    hang_detect_s: Seconds = Field(alias="hang_detect")
    silent_detect_s: Seconds = Field(alias="silent_detect")
    diagnose_s: Seconds = Field(alias="diagnose")
    reschedule_s: Seconds = Field(alias="reschedule")
    init_s: Seconds = Field(alias="init")
    catch_up_s: Seconds = Field(alias="catch_up")


class Spares(Spec):
    """Nodes beside the job. swap: they stand by with everything loaded, and take this instead of `reschedule`.

    repair_crews: repairs at one time; any number by default.
    """

    nodes: Annotated[int, Field(ge=0, strict=True)] = 0
    swap_s: Seconds | None = Field(default=None, alias="swap")
    repair_crews: Count | None = None

    @model_validator(mode="after")
    def _fields_belong_together(self) -> Spares:
        if self.swap_s is not None and not self.nodes:
            raise ValueError("swap needs spare nodes (got nodes = 0)")
        return self


class Elastic(Spec):
    """A data-parallel replica that fails is left out, and the others share its batch until it is back.

    State comes from the other replicas, so that only the step in flight is lost (arXiv 2602.00277).  replica_nodes:
    of one replica; from the first phase's layout by default.  reconfigure, rejoin: stalls of the whole job.
    """

    replica_nodes: Count | None = None
    min_replicas: Count = 1
    reconfigure_s: Seconds = Field(alias="reconfigure")
    rejoin_s: Seconds = Field(alias="rejoin")


class Stragglers(Spec):
    """Nodes that become slow and hold up the job.

    slowdown: of the job's step while one is there.  lasts: mean, exponential, until it recovers by itself.  evict:
    once it is found, after `detect`, a checkpoint is taken and it is swapped for a spare.
    """

    per_1000_days: Above
    slowdown: Factor
    lasts_s: Annotated[Seconds, Field(gt=0)] = Field(alias="lasts")
    detect_s: Seconds = Field(alias="detect")
    evict: bool
