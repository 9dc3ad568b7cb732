"""Several jobs on one cluster: a step of each, played at once, so that their traffic meets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sim.engine.timeline import Timeline
from sim.errors import SimError
from sim.program.beside import Beside, beside
from sim.program.lower import lower
from sim.program.program import Program
from sim.results.summarise import summarise
from sim.simulation import Simulation, own_version, played
from sim.spec.layout import num_ranks
from sim.spec.placed import Placed
from sim.spec.scenario import Scenario
from sim.spec.topology import FabricSpec


@dataclass(frozen=True)
class Job:
    """A scenario and the GPUs of the shared cluster on which it runs: its rank i on GPU gpus[i]."""

    scenario: Scenario
    gpus: Sequence[int]


def together(jobs: Sequence[Job], topology: FabricSpec) -> list[Simulation]:
    """A step of each job, all started at once on the GPUs that they have of `topology`, which stands for their own.

    Flows of all jobs share links as those of one do. One step of each is played: what ends first leaves the network to
    the others. Every rank is played, as in full fidelity.

    Raises SimError where jobs do not fit on the cluster or beside each other.
    """
    _refuse_what_does_not_fit(jobs)
    fabric = topology.build()
    _refuse_wrong_places(jobs, fabric.num_gpus)
    places = [Placed(fabric, np.array(job.gpus, dtype=np.int64)) for job in jobs]
    programs = [lower(job.scenario, place, "full") for job, place in zip(jobs, places, strict=True)]
    whole = beside(programs)
    timeline = played(whole.program, jobs[0].scenario)
    others = "1 other job" if len(jobs) == 2 else f"{len(jobs) - 1} other jobs"
    note = f"Played at once with {others} on {topology.name}, one step of each."
    found = []
    for number, (job, place, program) in enumerate(zip(jobs, places, programs, strict=True)):
        own = _own(timeline, whole, number, program)
        result = summarise(own, job.scenario, own_version())
        found.append(Simulation(job.scenario, place, own, replace(result, notes=(*result.notes, note))))
    return found


def _refuse_what_does_not_fit(jobs: Sequence[Job]) -> None:
    """The cluster has one kind of GPU, and what its hosts and its compute lose to communication is played once."""
    if len(jobs) < 2:
        raise SimError(f"too few jobs to play together (got {len(jobs)}, allowed 2 or more)")
    first = jobs[0].scenario
    for job in jobs:
        scenario = job.scenario
        for path, value, wanted in (
            ("gpu", scenario.gpu, first.gpu),
            ("stack.host", scenario.stack.host, first.stack.host),
            ("training.cuda_graphs", scenario.training.cuda_graphs, first.training.cuda_graphs),
            (
                "training.overlap.compute_slowdown",
                scenario.training.overlap.compute_slowdown,
                first.training.overlap.compute_slowdown,
            ),
        ):
            if value != wanted:
                raise SimError(f"{path} of {scenario.title} differs from that of {first.title}; jobs share it")
        for path, cables in (("links", scenario.conditions.links), ("background", scenario.conditions.background)):
            if cables:
                raise SimError(
                    f"conditions.{path} of {scenario.title} is about a topology of its own "
                    f"(got {', '.join(cables)}, allowed none beside other jobs)"
                )


def _refuse_wrong_places(jobs: Sequence[Job], num_gpus: int) -> None:
    for job in jobs:
        size, title = num_ranks(job.scenario.layout), job.scenario.title
        if len(job.gpus) != size:
            raise SimError(f"{title} has {size} ranks (got {len(job.gpus)} GPUs, allowed {size})")
        for gpu in job.gpus:
            if not 0 <= gpu < num_gpus:
                raise SimError(f"no such GPU for {title} (got {gpu}, allowed 0 .. {num_gpus - 1})")
    twice = sorted(gpu for gpu, count in Counter(gpu for job in jobs for gpu in job.gpus).items() if count > 1)
    if twice:
        raise SimError(f"GPUs hold one rank each (got {', '.join(map(str, twice))} twice)")


def _own(timeline: Timeline, whole: Beside, number: int, program: Program) -> Timeline:
    """What happened to one job, until its own step ended."""
    slots, payloads, flows = (
        slice(cuts[number], cuts[number + 1]) for cuts in (whole.slots, whole.payloads, whole.flows)
    )
    end_s = timeline.end_s[slots]
    return Timeline(
        program,
        timeline.start_s[slots],
        end_s,
        timeline.release_s[slots],
        timeline.kernel_s[payloads],
        timeline.moved[flows],
        float(end_s.max()),
        len(program.nodes()),
        timeline.settlements,
    )
