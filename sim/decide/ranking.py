"""Layouts of a cluster, played and ranked. The one function that the planner asks: `ranked_layouts`.

Every candidate that fits is played with few micro-batches, twice, and its step follows from the line through both: a
step
is affine in its micro-batches once the pipeline is full. The best of them are then played in full.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from sim.decide.load import Planned
from sim.decide.plan import PlannedLayout, Zero
from sim.errors import SimError
from sim.program.lower import num_microbatches
from sim.program.memory import memory
from sim.results.result import Result
from sim.simulation import simulate
from sim.spec.model import Model
from sim.spec.scenario import Scenario

RECOMPUTE = ("none", "selective", "full")
MICRO_BATCHES = (1, 2)
MOST_PIPELINE = 16
PLAYED_IN_FULL = 5
"""Of the screened layouts, the best ones."""

Said = Callable[[str], None]
"""Told what has been played, for a progress bar."""


@dataclass(frozen=True)
class Step:
    """What a step is, played or extrapolated from short ones."""

    time_s: float
    mfu: float
    breakdown_s: Mapping[str, float]


@dataclass(frozen=True)
class Ranked:
    """A layout that was tried: its step, or why there is none.

    result: where it was played in full.  scenario: None for a layout that cannot be.
    """

    name: str
    layout: PlannedLayout
    scenario: Scenario | None = None
    step: Step | None = None
    result: Result | None = None
    reason: str = ""

    @cached_property
    def peak_bytes(self) -> float | None:
        """Memory of the fullest GPU."""
        return None if self.scenario is None else max(stage.peak_bytes for stage in memory(self.scenario))

    @cached_property
    def fits(self) -> bool:
        """Whether every GPU holds it."""
        return self.scenario is not None and all(stage.fits for stage in memory(self.scenario))


def title(layout: PlannedLayout, dp: int) -> str:
    """Its axes in a few characters.

    >>> title(PlannedLayout(tp=8, pp=2), 8)
    'tp8-pp2-dp8 zero1 mb1'
    """
    axes = [("tp", layout.tp), ("cp", layout.cp), ("ep", layout.ep), ("pp", layout.pp), ("dp", dp)]
    named = "-".join(f"{axis}{size}" for axis, size in axes if size > 1 or axis in ("tp", "pp", "dp"))
    chunks = f" vpp{layout.vpp}" if layout.vpp > 1 else ""
    return f"{named}{chunks} zero{layout.zero} mb{layout.micro_batch}"


def candidates(planned: Planned, model: Model) -> Iterator[PlannedLayout]:
    """Powers of two of TP, up to twice a node, and of PP, up to 16; DP takes the rest; with one or two sequences a
    time.

    ZeRO-0 and ZeRO-1 with and without a pipeline, ZeRO-3 without one. What does not divide is left to the checks.
    """
    for tp in _powers(min(2 * planned.fabric.gpus_per_node, planned.num_gpus, model.num_heads)):
        for pp in _powers(min(MOST_PIPELINE, planned.num_gpus // tp, model.num_layers)):
            dp = planned.num_gpus // (tp * pp)
            if planned.num_gpus % (tp * pp):
                continue
            stages: tuple[Zero, ...] = (0,) if dp == 1 else (0, 1, 3) if pp == 1 else (0, 1)
            for zero in stages:
                for micro_batch in MICRO_BATCHES:
                    yield PlannedLayout(tp=tp, pp=pp, zero=zero, micro_batch=micro_batch)


def _powers(most: int) -> list[int]:
    return [2**power for power in range(most.bit_length()) if 2**power <= most]


def least_recompute(planned: Planned, model: Model, layout: PlannedLayout) -> tuple[PlannedLayout, Scenario, bool]:
    """The layout with the least recomputation that fits, its scenario, and whether it fits; with full where none does.

    Raises SimError where the layout cannot be.
    """
    tries = (layout.recompute,) if layout.recompute is not None else RECOMPUTE
    for recompute in tries:
        resolved = layout.model_copy(update={"recompute": recompute})
        scenario = planned.scenario(model, resolved)
        fits = all(stage.fits for stage in memory(scenario))
        if fits:
            break
    return resolved, scenario, fits


def ranked_layouts(
    planned: Planned, model: Model, pinned: Mapping[str, PlannedLayout], said: Said = lambda _: None
) -> list[Ranked]:
    """Layouts by step time, the fastest that fits first; then what does not fit, then what cannot be.

    A candidate whose memory does not fit with full recomputation is listed and not played; those in `pinned`, by the
    name under which they are shown, are always played in full.
    """
    shown = [played(tried_layout(planned, model, layout, name), said) for name, layout in pinned.items()]
    known = {each.layout for each in shown}
    tried = [tried_layout(planned, model, layout, None) for layout in candidates(planned, model)]
    screened = sorted((screen(each, said) for each in tried if each.layout not in known), key=_merit)
    for place, each in enumerate(screened[:PLAYED_IN_FULL]):
        screened[place] = played(each, said) if each.fits else each
    return sorted([*shown, *screened], key=_merit)


def tried_layout(planned: Planned, model: Model, layout: PlannedLayout, name: str | None) -> Ranked:
    """One layout with the least recomputation that fits, not yet played."""
    axes = title(layout, planned.num_gpus // (layout.tp * layout.pp * layout.cp))
    shown = axes if name is None else f"{name}: {axes}"
    try:
        resolved, scenario, fits = least_recompute(planned, model, layout)
    except SimError as error:
        return Ranked(shown, layout, reason=str(error))
    short = -min(stage.free_bytes for stage in memory(scenario))
    reason = "" if fits else f"does not fit by {short / 2**30:.1f} GiB, with {resolved.recompute} recomputation"
    return Ranked(shown, resolved, scenario, reason=reason)


def played(each: Ranked, said: Said) -> Ranked:
    """The layout with its step, played in full; as it is where it cannot be."""
    if each.scenario is None or each.result is not None:
        return each
    result = simulate(each.scenario)
    said(f"{each.name}: {result.step_time_s:.3f} s")
    return replace(each, step=_step(result), result=result)


def screen(each: Ranked, said: Said) -> Ranked:
    """The layout with its step as two short plays tell it, where it fits.

    T(m) = T(p) + (m - p) (T(2 p) - T(p)) / p with m micro-batches on p stages (two and four without a pipeline), and
    each
    part of the step in the same way. Error: 33 layouts of Llama-2-70B on 128 H100 that were played both ways
    differ by at most 3e-5, as the pipeline's steady state repeats itself.
    """
    if each.scenario is None or not each.fits:
        return each
    count = num_microbatches(each.scenario)
    first = max(each.scenario.layout.pp, 2)
    if count <= 3 * first:
        return played(each, said)
    short, long = (simulate(_with_microbatches(each.scenario, number)) for number in (first, 2 * first))
    rest = (count - first) / first

    def at(low: float, high: float) -> float:
        return low + rest * (high - low)

    time_s = at(short.step_time_s, long.step_time_s)
    causes = {*short.breakdown_s, *long.breakdown_s}
    breakdown = {
        cause: at(short.breakdown_s.get(cause, 0.0), long.breakdown_s.get(cause, 0.0)) for cause in sorted(causes)
    }
    mfu = long.mfu * (count / (2 * first)) * (long.step_time_s / time_s)
    said(f"{each.name}: about {time_s:.3f} s")
    return replace(each, step=Step(time_s, mfu, breakdown))


def _with_microbatches(scenario: Scenario, count: int) -> Scenario:
    layout, training = scenario.layout, scenario.training
    assert layout.dp is not None
    batch = count * layout.dp * training.micro_batch
    return scenario.model_copy(update={"training": training.model_copy(update={"global_batch": batch})})


def _step(result: Result) -> Step:
    return Step(result.step_time_s, result.mfu, result.breakdown_s)


def _merit(each: Ranked) -> tuple[int, float]:
    if each.step is None:
        return 2, 0.0
    return (0 if each.fits else 1), each.step.time_s
