"""The critical path of a step: the chain of operations that ends last, each released by the one before.

From the last operation that ends, each is walked back to what it waited for longest. The time of every operation on the
path has one cause, and a gap before one that its host had not issued yet is `host_launch`; so the parts add up to the
played step, from its first operation to its last (`lone_step_s`). What lies beside the path could take longer without
making the step longer; what lies on it could not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sim.engine.timeline import Timeline
from sim.program.operations import Compute
from sim.results.busy import COMPUTE_SLOWDOWN
from sim.results.idle import HOST_LAUNCH, Releases

EXPOSED = "exposed_"


@dataclass(frozen=True)
class CriticalPath:
    """Nodes of the path in order of time, and its seconds by cause and by pipeline rank. Causes are those of
    `breakdown_s`; communication on the path is `exposed_` of its kind."""

    nodes: tuple[int, ...]
    seconds_by_cause: dict[str, float]
    seconds_by_pp_rank: dict[int, float]

    @property
    def step_s(self) -> float:
        """All of it."""
        return sum(self.seconds_by_cause.values())


def critical_path(timeline: Timeline) -> CriticalPath:
    """The critical path of what was played; of paths that are equally long, the one whose operations come first in the
    program."""
    program, releases = timeline.program, Releases(timeline)
    nodes = program.nodes()
    node = int(nodes[np.argmax(timeline.end_s[nodes])])
    path: list[int] = []
    causes: dict[str, float] = {}
    pp_ranks: dict[int, float] = {}
    until_s = float(timeline.end_s[node])
    while node >= 0:
        path.append(node)
        released_by = int(releases.latest_of[node])
        start_s = float(timeline.start_s[node])
        free_s = 0.0 if released_by < 0 else float(timeline.end_s[released_by])
        if start_s - free_s <= releases.same_s:
            start_s = free_s
        for cause, seconds in _parts(timeline, node, until_s - start_s).items():
            causes[cause] = causes.get(cause, 0.0) + seconds
        if start_s > free_s:
            causes[HOST_LAUNCH] = causes.get(HOST_LAUNCH, 0.0) + start_s - free_s
        pp_rank = program.ranks[int(program.rank[node])].pp_rank
        pp_ranks[pp_rank] = pp_ranks.get(pp_rank, 0.0) + until_s - free_s
        node, until_s = released_by, free_s
    return CriticalPath(tuple(reversed(path)), dict(sorted(causes.items())), dict(sorted(pp_ranks.items())))


def _parts(timeline: Timeline, node: int, seconds: float) -> dict[str, float]:
    """Causes of the time of an operation: kernels alone, and by how much they took longer; or communication."""
    program = timeline.program
    number = int(program.payload[node])
    payload = program.payloads[number]
    if not isinstance(payload, Compute):
        return {EXPOSED + payload.kind: seconds}
    found: dict[str, float] = {}
    for kernel, time_s in zip(payload.kernels, timeline.kernel_s[number], strict=True):
        cause = "recompute" if payload.is_recompute else kernel.cause
        found[cause] = found.get(cause, 0.0) + time_s * float(program.pace[node])
    longer_s = seconds - sum(found.values())
    return found | {COMPUTE_SLOWDOWN: longer_s}
