"""A long run, resolved: steps of each phase, the clocks of its checkpoints, and its size."""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass
from pathlib import Path

from sim import units
from sim.errors import Problem, SimError
from sim.longrun.hazards import rate_per_s
from sim.longrun.load import scenario_path
from sim.longrun.renewal import RULES
from sim.longrun.stretch import Tier
from sim.program.optimizer import state_bytes
from sim.program.shapes import BYTES
from sim.simulation import load as load_scenario
from sim.simulation import simulate
from sim.spec.layout import num_ranks
from sim.spec.longrun import LongRunFile, Phase
from sim.spec.parameters import parameters
from sim.spec.saving import Checkpoint, Storage
from sim.spec.scenario import Scenario


@dataclass(frozen=True)
class PhasePlan:
    """Steps `first` .. `first + steps` of the run. mfu: of a played step, None where its time is given.

    tiers: what is saved and how often, the storage first and copies in memory second.
    """

    name: str
    first: int
    steps: int
    step_s: float
    tokens_per_step: float
    mfu: float | None
    tiers: tuple[Tier, ...]

    @property
    def last(self) -> int:
        """Step at which it ends."""
        return self.first + self.steps


@dataclass(frozen=True)
class Saving:
    """Times of a checkpoint, s: what training waits for, until it can be read again, and reading it.

    nbytes: None where every time is given.
    """

    nbytes: float | None
    block_s: float
    persist_s: float
    load_s: float


@dataclass(frozen=True)
class Plan:
    """What is simulated. mtbf_s: between interruptions of the whole job. notes: what was not taken as it was asked."""

    file: LongRunFile
    phases: tuple[PhasePlan, ...]
    num_nodes: int
    saving: Saving
    mtbf_s: float
    interval_s: float
    replica_nodes: int
    notes: tuple[str, ...]

    @property
    def num_gpus(self) -> int:
        """Of the job, without spares."""
        return self.num_nodes * self.file.gpus_per_node

    @property
    def total_steps(self) -> int:
        """Of all phases."""
        return self.phases[-1].last

    def phase_at(self, step: int) -> PhasePlan:
        """The phase whose step comes next after `step` steps."""
        return self.phases[bisect.bisect_right(self.phases, step, key=lambda phase: phase.last)]

    def snapshot_before(self, step: int) -> int:
        """Newest step up to `step` at which the storage gets a checkpoint; 0 is the start of the run."""
        for phase in reversed(self.phases):
            every = phase.tiers[0].every_steps
            done = (min(step, phase.last) - phase.first) // every
            if done > 0:
                return phase.first + done * every
        return 0

    def tokens_at(self, step: int) -> float:
        """Tokens of the first `step` steps."""
        return sum(max(0, min(step, phase.last) - phase.first) * phase.tokens_per_step for phase in self.phases)


@dataclass(frozen=True)
class _Step:
    """A step of a phase as it was played or given."""

    step_s: float
    tokens_per_step: float
    mfu: float | None
    scenario: Scenario | None


def plan(file: LongRunFile, path: str | Path) -> Plan:
    """Play the steps of the phases and derive every time. `path` is the long run's file or name.

    Raises SimError where the parts do not fit each other, or a scenario is wrong.
    """
    played = [_step(phase, path) for phase in file.phases]
    num_nodes = _num_nodes(file, played)
    saving = saving_times(file.checkpoint, num_nodes, file.gpus_per_node, played[0].scenario)
    mtbf_s = 1 / rate_per_s(file.failures, num_nodes)
    interval_s = _interval_s(file.checkpoint, mtbf_s, saving, played[0].step_s)
    phases: list[PhasePlan] = []
    notes: list[str] = []
    first = 0
    for phase, step in zip(file.phases, played, strict=True):
        steps = phase.steps or math.ceil((phase.tokens or 0) / step.tokens_per_step)
        every = file.checkpoint.every_steps or max(1, round(interval_s / step.step_s))
        tiers, note = _tiers(file.checkpoint, saving, every, step.step_s)
        notes += [f"{phase.name}: {note}"] if note else []
        phases.append(PhasePlan(phase.name, first, steps, step.step_s, step.tokens_per_step, step.mfu, tiers))
        first += steps
    replica_nodes = _replica_nodes(file, played[0].scenario, num_nodes)
    return Plan(file, tuple(phases), num_nodes, saving, mtbf_s, interval_s, replica_nodes, tuple(notes))


def _step(phase: Phase, path: str | Path) -> _Step:
    if phase.scenario is None:
        assert phase.step_time_s is not None
        assert phase.tokens_per_step is not None
        return _Step(phase.step_time_s, phase.tokens_per_step, None, None)
    scenario = load_scenario(scenario_path(phase.scenario, path), phase.set, variant=phase.variant)
    tokens = float(scenario.training.global_batch * scenario.training.seq_len)
    if phase.step_time_s is not None:
        return _Step(phase.step_time_s, tokens, None, scenario)
    result = simulate(scenario)
    return _Step(result.step_time_s, tokens, result.mfu, scenario)


def _num_nodes(file: LongRunFile, played: list[_Step]) -> int:
    sizes = {num_ranks(step.scenario.layout) for step in played if step.scenario is not None}
    sizes |= {file.gpus} if file.gpus is not None else set()
    if len(sizes) > 1:
        shown = ", ".join(map(str, sorted(sizes)))
        raise SimError(Problem(f"gpus and the phases' scenarios differ (got {shown} GPUs, allowed one size)", "gpus"))
    (gpus,) = sizes
    if gpus % file.gpus_per_node:
        message = f"{gpus} GPUs are no whole number of nodes (got {file.gpus_per_node}, allowed a divisor)"
        raise SimError(Problem(message, "gpus_per_node"))
    return gpus // file.gpus_per_node


def checkpoint_bytes(scenario: Scenario) -> float:
    """Weights in 16 bits, master copy and moments of every parameter: 14 bytes each with all in fp32.

    BLOOM's 2.3 TiB of 176.2e9 parameters are 14 bytes each (train/tr11-176B-ml of bigscience-workshop/bigscience).
    """
    return parameters(scenario.model).total * (BYTES + state_bytes(scenario.training.optimizer))


def saving_times(checkpoint: Checkpoint, num_nodes: int, gpus_per_node: int, scenario: Scenario | None) -> Saving:
    """The three clocks of a checkpoint, from its size and the storage, or as given.

    A shard goes from each GPU to host memory at its PCIe rate; where no optimizer state is sharded (ZeRO 0), only one
    replica has anything to write. A write takes the longest of the nodes' paths and the storage's free share.

    Raises SimError where the size does not follow from a scenario.
    """
    if checkpoint.is_timed:
        assert checkpoint.persist_s is not None
        assert checkpoint.load_s is not None
        return _clocks(checkpoint, None, checkpoint.snapshot_s or 0.0, checkpoint.persist_s, checkpoint.load_s)
    nbytes = checkpoint.size_bytes if checkpoint.size_bytes is not None else None
    if nbytes is None:
        assert scenario is not None, "the file's own check wants a size without a scenario"
        nbytes = checkpoint_bytes(scenario)
    gpus = num_nodes * gpus_per_node
    writers = gpus
    if scenario is not None and scenario.layout.zero == 0:
        writers = gpus // (scenario.layout.dp or 1)
    nodes = max(1, writers // gpus_per_node)
    persist_s, load_s = checkpoint.persist_s, checkpoint.load_s
    if checkpoint.storage is not None:
        storage = checkpoint.storage
        persist_s = transfer_s(storage, nbytes, nodes, storage.write_bytes_per_s) if persist_s is None else persist_s
        load_s = transfer_s(storage, nbytes, num_nodes, storage.read_bytes_per_s) if load_s is None else load_s
    assert persist_s is not None
    assert load_s is not None
    snapshot_s = checkpoint.snapshot_s
    if snapshot_s is None and checkpoint.mode != "sync":
        if scenario is None:
            message = "missing (allowed without it where the first phase has a scenario, whose GPU gives its copy rate)"
            raise SimError(Problem(message, "checkpoint.snapshot"))
        copy = scenario.gpu.copy_constants
        snapshot_s = nbytes / writers / copy.device_to_host_bytes_per_s + copy.latency_s
    return _clocks(checkpoint, nbytes, snapshot_s or 0.0, persist_s, load_s)


def transfer_s(storage: Storage, nbytes: float, num_nodes: int, whole_bytes_per_s: float) -> float:
    """Time to move a sharded checkpoint: over the slower of the nodes' own paths and what others leave of the whole."""
    rate = min(num_nodes * storage.node_bytes_per_s, storage.available_frac * whole_bytes_per_s)
    return storage.latency_s + nbytes / rate


def _clocks(checkpoint: Checkpoint, nbytes: float | None, snapshot_s: float, persist_s: float, load_s: float) -> Saving:
    if checkpoint.mode == "sync":
        return Saving(nbytes, persist_s, 0.0, load_s)
    return Saving(nbytes, snapshot_s, persist_s, load_s)


def _interval_s(checkpoint: Checkpoint, mtbf_s: float, saving: Saving, step_s: float) -> float:
    if checkpoint.rule is not None:
        return RULES[checkpoint.rule](mtbf_s, saving.block_s)
    return checkpoint.every_s if checkpoint.every_s is not None else (checkpoint.every_steps or 1) * step_s


def _tiers(checkpoint: Checkpoint, saving: Saving, every: int, step_s: float) -> tuple[tuple[Tier, ...], str]:
    """Storage and memory; a snapshot waits until the write before it has ended, so that the interval is no shorter."""
    least = max(1, math.ceil(saving.persist_s / step_s))
    note = ""
    if every < least:
        wait = units.text(saving.persist_s, "s")
        note = f"a checkpoint every {least} steps instead of {every}, as each takes {wait} to be written"
        every = least
    tiers = [Tier(every, saving.block_s, saving.persist_s)]
    if checkpoint.mode == "memory":
        assert checkpoint.memory_every_steps is not None
        assert checkpoint.memory_snapshot_s is not None
        tiers.append(Tier(checkpoint.memory_every_steps, checkpoint.memory_snapshot_s, 0.0))
    return tuple(tiers), note


def _replica_nodes(file: LongRunFile, scenario: Scenario | None, num_nodes: int) -> int:
    elastic = file.elastic
    if elastic is None:
        return num_nodes
    if elastic.replica_nodes is None:
        if scenario is None:
            message = "missing (allowed without it where the first phase has a scenario, whose layout gives it)"
            raise SimError(Problem(message, "elastic.replica_nodes"))
        nodes = max(1, num_nodes // (scenario.layout.dp or 1))
    else:
        nodes = elastic.replica_nodes
    if num_nodes % nodes or num_nodes // nodes < elastic.min_replicas:
        message = f"{num_nodes} nodes are no {elastic.min_replicas} or more replicas of {nodes} (allowed a divisor)"
        raise SimError(Problem(message, "elastic.replica_nodes"))
    return nodes
