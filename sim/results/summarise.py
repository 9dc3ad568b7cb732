"""Timeline -> Result."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from sim.cost.kernels import flop
from sim.engine.timeline import Timeline
from sim.program.check import notes
from sim.program.lower import num_microbatches
from sim.program.memory import memory
from sim.program.operations import Compute
from sim.program.passes import FORWARD
from sim.program.program import Program
from sim.program.schedule_file import schedule_of
from sim.program.table import Kind, Pair, PassTimes, actions_of
from sim.results.busy import Communication, busy_s, communication
from sim.results.extrapolated import extrapolated
from sim.results.idle import BUBBLE, Idle, Releases, Window, compute_slots, idle, pipeline_window
from sim.results.links import link_use
from sim.results.result import Result
from sim.results.spending import Draw, draw, spending
from sim.results.steady import period_of_rank, period_s
from sim.spec.flops import model_flop
from sim.spec.layout import num_ranks
from sim.spec.scenario import Scenario

EXPOSED = "exposed_"


@dataclass(frozen=True)
class RankSummary:
    """One simulated rank: seconds by cause, communication by kind, idle intervals, what it draws."""

    count: int
    breakdown_s: dict[str, float]
    communication: dict[str, Communication]
    idle: Idle
    span: Window
    draw: Draw


def summarise(timeline: Timeline, scenario: Scenario, version: str) -> Result:
    """What the timeline of a scenario's step means."""
    window = pipeline_window(timeline)
    releases = Releases(timeline)
    step_s = period_s(timeline)
    ranks = [_rank(timeline, scenario, releases, index, window, step_s) for index in range(len(timeline.program.ranks))]
    for rank in ranks:
        assert math.isclose(sum(rank.breakdown_s.values()), step_s, rel_tol=1e-9), "causes do not add up to the step"
    breakdown_s = _mean(ranks)
    tokens = scenario.training.global_batch * scenario.training.seq_len
    gpus = num_ranks(scenario.layout)
    peak = gpus * step_s * scenario.gpu.peak_flop_per_s[scenario.training.precision]
    model, training = scenario.model, scenario.training
    full_flop = training.global_batch * model_flop(model, training.seq_len, causal=False)
    causal_flop = training.global_batch * model_flop(model, training.seq_len, causal=True)
    closed_form, note = closed_form_bubble(scenario, pass_times(timeline))
    kinds = sorted({kind for rank in ranks for kind in rank.communication} - {"all"})
    program = timeline.program
    return Result(
        scenario=scenario,
        fidelity=program.fidelity,
        version=version,
        step_time_s=step_s,
        lone_step_s=timeline.step_s,
        tokens_per_s=tokens / step_s,
        tokens_per_s_per_gpu=tokens / step_s / gpus,
        model_flop_per_s_per_gpu=full_flop / step_s / gpus,
        mfu=full_flop / peak,
        mfu_causal=causal_flop / peak,
        hfu=(full_flop + recomputed_flop(timeline)) / peak,
        bubble_fraction=_bubble_s([(rank, window) for rank in ranks]) / step_s,
        bubble_fraction_steady=_bubble_s([(rank, rank.span) for rank in ranks]) / step_s,
        bubble_fraction_closed_form=closed_form,
        bubble_note=note,
        overlap_fraction=_overlap(ranks, "all"),
        overlap_fraction_by_kind={kind: _overlap(ranks, kind) for kind in kinds},
        exposed_s_by_kind={kind: breakdown_s.get(EXPOSED + kind, 0.0) for kind in kinds},
        breakdown_s=breakdown_s,
        breakdown_s_by_rank={r.rank: summary.breakdown_s for r, summary in zip(program.ranks, ranks, strict=True)},
        pp_rank_of={r.rank: r.pp_rank for r in program.ranks},
        num_ranks_of={r.rank: r.count for r in program.ranks},
        memory=memory(scenario),
        link_use=link_use(timeline),
        spending=spending([(rank.count, rank.draw) for rank in ranks], scenario, step_s, tokens),
        num_gpus=gpus,
        simulated_ranks=len(program.ranks),
        operations=program.num_operations(),
        simulated_operations=timeline.played,
        notes=(*notes(scenario), *extrapolated(timeline, scenario.gpu)),
    )


def _rank(
    timeline: Timeline, scenario: Scenario, releases: Releases, index: int, window: Window, step_s: float
) -> RankSummary:
    causes = busy_s(timeline, index)
    own = period_of_rank(timeline, index, step_s)
    waited = idle(timeline, releases, index, window).cut(own.start_s, own.end_s)
    talking = communication(timeline, index)
    repeated = talking if step_s == timeline.step_s else communication(timeline, index, own)
    return RankSummary(
        count=timeline.program.ranks[index].count,
        breakdown_s=causes | waited.seconds(),
        communication=talking,
        idle=waited,
        span=pipeline_window(timeline, index),
        draw=draw(timeline, scenario, index, repeated["all"], step_s),
    )


def _mean(ranks: list[RankSummary]) -> dict[str, float]:
    """Seconds by cause, mean over all real ranks; causes in the order of their names."""
    total = sum(rank.count for rank in ranks)
    causes = sorted({cause for rank in ranks for cause in rank.breakdown_s})
    return {cause: sum(rank.count * rank.breakdown_s.get(cause, 0.0) for rank in ranks) / total for cause in causes}


def _bubble_s(within: list[tuple[RankSummary, Window]]) -> float:
    """Bubble within a window for each rank, mean over all real ranks."""
    total = sum(rank.count * rank.idle.within(BUBBLE, window.start_s, window.end_s) for rank, window in within)
    return total / sum(rank.count for rank, _ in within)


def _overlap(ranks: list[RankSummary], kind: str) -> float | None:
    running_s = sum(rank.count * rank.communication[kind].running_s for rank in ranks if kind in rank.communication)
    if running_s <= 0:
        return None
    both = sum(rank.count * rank.communication[kind].overlapped_s for rank in ranks if kind in rank.communication)
    return both / running_s


def recomputed_flop(timeline: Timeline) -> float:
    """FLOPs that are spent again in the backward pass, over all ranks, with full attention as in `mfu`."""
    program = timeline.program
    total = 0.0
    for index, rank in enumerate(program.ranks):
        counts = np.bincount(program.payload[compute_slots(timeline, index)], minlength=len(program.payloads)).tolist()
        for count, payload in zip(counts, program.payloads, strict=True):
            if count and isinstance(payload, Compute) and payload.is_recompute:
                full = sum(flop(kernel) / getattr(kernel, "work_frac", 1.0) for kernel in payload.kernels)
                total += rank.count * count * full
    return total


def pass_times(timeline: Timeline) -> PassTimes:
    """What a micro-batch took on a rank by kind of pass, mean over all ranks, in s of compute. Where no backward pass
    is split, I has all of it."""
    program = timeline.program
    total, count = dict.fromkeys(Kind, 0.0), dict.fromkeys(Kind, 0)
    chunks = 0
    for index, rank in enumerate(program.ranks):
        slots = compute_slots(timeline, index)
        took_s, number = timeline.end_s[slots] - timeline.start_s[slots], program.block[slots]
        seconds = np.bincount(number, took_s, len(rank.actions)).tolist()
        is_forward = _labelled(program, FORWARD)[program.payload[slots]]
        forward = np.bincount(number, took_s * is_forward, len(rank.actions)).tolist()
        cells = [cell for cell in rank.actions if cell is not None]
        for cell, each_s, forward_s in zip(cells, seconds, forward, strict=False):
            both_s = (forward_s, each_s - forward_s) if isinstance(cell, Pair) else (each_s,)
            for action, own_s in zip(actions_of([cell]), both_s, strict=True):
                total[action.kind] += rank.count * own_s
                count[action.kind] += rank.count
        chunks = max(chunks, len({action.stage for action in actions_of(cells)}))
    mean = {kind: Fraction(total[kind]) * chunks / max(count[kind], 1) for kind in Kind}
    if not count[Kind.W]:
        return PassTimes(mean[Kind.F], mean[Kind.B], Fraction(0))
    return PassTimes(mean[Kind.F], mean[Kind.I], mean[Kind.W])


def _labelled(program: Program, label: str) -> NDArray[np.bool_]:
    """(payloads,) whether it is compute of that label."""
    return np.array([isinstance(item, Compute) and item.label == label for item in program.payloads], dtype=bool)


def closed_form_bubble(scenario: Scenario, times: PassTimes) -> tuple[float | None, str]:
    """The schedule's published bubble as a share of the step (of a rank's own span, where that is what the schedule
    promises), or the reason why there is none."""
    layout = scenario.layout
    schedule = schedule_of(layout.schedule)
    numbers = (layout.pp, layout.vpp, num_microbatches(scenario))
    if scenario.training.overlap.expert:
        return None, f"the closed form of {layout.schedule} is not about passes side by side (overlap.expert)"
    broken = schedule.bubble_assumptions(*numbers, times)
    ideal = schedule.bubble_of_ideal(*numbers, times)
    if broken is not None or ideal is None:
        return None, broken or "no closed form is published for this schedule"
    note = "for equal stages without communication"
    return float(ideal / (1 + ideal)), note if schedule.span == "pipeline" else f"{note}, within each rank's own span"
