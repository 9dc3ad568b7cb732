"""The pace of a stack on a generation of GPUs, fitted to measured steps.

A step that was played with kernels as in microbenchmarks says how long each kind of kernel ran. Longer kernels make the
step longer by as much, and what waits for them (the pipeline's bubble, recomputation) in proportion; exposed
communication stays. That is all that the fit assumes, and replaying the steps at the new pace tells how far it carries.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np

from sim.calibrate.fitting import Bounds, Prior, fit_relative
from sim.cost.pace import NODE_GPUS
from sim.spec.flops import forward_flop_by_term
from sim.spec.layout import num_ranks
from sim.spec.pace import Pace
from sim.spec.scenario import Scenario
from sim.spec.topology import Floats
from sim.validation.case import Case
from sim.validation.play import Played

CONSTANTS = ("gemm", "experts", "attention", "memory_bound", "slowdown", "straggler")

BOUNDS = {
    "gemm": Bounds(1.0, 0.9, 2.5),
    "experts": Bounds(1.0, 0.5, 4.0),
    "attention": Bounds(1.0, 0.9, 3.5),
    "memory_bound": Bounds(1.0, 0.9, 3.5),
    "slowdown": Bounds(1.0, 0.01, 6.0),
    "straggler": Bounds(0.005, 1e-4, 0.02),
}
SPREADS = {"gemm": 0.1, "experts": 0.4, "attention": 0.3, "memory_bound": 0.3, "slowdown": 1.0, "straggler": 0.7}
"""How far, as a logarithm, a constant may be from its start before any row is seen: estimated."""
PRIOR_SHARE = 0.02
"""What is known beforehand counts as so large a share of the rows."""

MIN_ROWS = 5
"""Fewer measured steps of a stack on a GPU tell a scale from chance no better than none."""

OWN_GAIN = 1.0
"""By how many points a GPU's own fit must do better to be told apart from its architecture."""

MIXED = ("memory_bound", "optimizer", "embedding")
WAITING = ("bubble", "wait_peer", "step_end")


@dataclass(frozen=True)
class Parts:
    """Where a step that was played at no pace went, s, and what was measured.

    gemm to memory: kernels that run once.  recompute, waiting: go with the mix of those.  slower: added by
    communication beside, by a factor of `beside` while it runs.  rest: everything else.
    """

    case_id: str
    source: str
    stack: str
    gpu: str
    architecture: str
    measured_s: float
    doublings: float
    gemm_s: float
    experts_s: float
    attention_s: float
    memory_s: float
    recompute_s: float
    waiting_s: float
    slower_s: float
    beside: float
    rest_s: float

    @property
    def alone_s(self) -> float:
        """The step as it was played."""
        kernels = self.gemm_s + self.experts_s + self.attention_s + self.memory_s
        return kernels + self.recompute_s + self.waiting_s + self.slower_s + self.rest_s


def parts_of(case: Case, played: Played) -> Parts | None:
    """Parts of a row; None for what cannot be compared. Products of experts are told from others by their FLOPs, and
    the head's product from its loss."""
    if case.scenario is None or case.measured_s is None or played.error:
        return None
    scenario, given = case.scenario, played.breakdown_s
    products = given.get("gemm", 0.0)
    experts = _share(scenario, "experts") * products
    # The head runs on the last pipeline rank alone, as its time in the mean over ranks does.
    head = min(_share(scenario, "head") * products, given.get("head", 0.0))
    known = {"gemm", "attention", "head", "recompute", "compute_slowdown", *MIXED, *WAITING}
    return Parts(
        case_id=case.run.case_id,
        source=case.group,
        stack=scenario.stack.name,
        gpu=scenario.gpu.name,
        architecture=scenario.gpu.architecture,
        measured_s=case.measured_s,
        doublings=math.log2(max(num_ranks(scenario.layout) / NODE_GPUS, 1.0)),
        gemm_s=products - experts + head,
        experts_s=experts,
        attention_s=given.get("attention", 0.0),
        memory_s=sum(given.get(name, 0.0) for name in (*MIXED, "head")) - head,
        recompute_s=given.get("recompute", 0.0),
        waiting_s=sum(given.get(name, 0.0) for name in WAITING),
        slower_s=given.get("compute_slowdown", 0.0),
        beside=scenario.gpu.slowdown.collective,
        rest_s=sum(seconds for name, seconds in given.items() if name not in known),
    )


def _share(scenario: Scenario, term: str) -> float:
    """FLOPs of a term over those of the layers' products."""
    flop = forward_flop_by_term(scenario.model, scenario.training.seq_len)
    products = sum(value for name, value in flop.items() if name not in ("attention_scores", "head"))
    return float(flop.get(term, 0.0) / products)


def _lost(factor: float) -> float:
    """Of the time that communication runs beside kernels, what they lose when they take `factor` times as long."""
    return 1.0 - 1.0 / factor


def predicted_s(values: Mapping[str, float], rows: Sequence[Parts]) -> Floats:
    """Step times at a pace, as far as the parts tell: (rows,)."""
    found = []
    for row in rows:
        alone = row.gemm_s + row.experts_s + row.attention_s + row.memory_s
        paced = (
            values["gemm"] * row.gemm_s
            + values["experts"] * row.experts_s
            + values["attention"] * row.attention_s
            + values["memory_bound"] * row.memory_s
        )
        mix = paced / alone if alone > 0 else 1.0
        late = 1.0 + values["straggler"] * row.doublings
        slower = row.slower_s * _lost(1.0 + values["slowdown"] * (row.beside - 1.0)) / _lost(row.beside)
        found.append(late * (paced + mix * (row.recompute_s + row.waiting_s) + slower) + row.rest_s)
    return np.array(found)


def fitted(rows: Sequence[Parts], constants: Iterable[str] = CONSTANTS) -> Pace:
    """The pace under which the rows are predicted best; constants that they say nothing about stay as they are.

    Where dense models are among them, they decide on all but the products of experts: what goes with MoE (routing,
    permutation, small products) is put down to those.
    """
    names = set(constants)
    dense = [row for row in rows if row.experts_s == 0]
    if not dense or len(dense) == len(rows):
        return _fitted(rows, names, Pace())
    return _fitted(rows, names & {"experts"}, _fitted(dense, names - {"experts"}, Pace()))


def _fitted(rows: Sequence[Parts], names: AbstractSet[str], start: Pace) -> Pace:
    """The best pace whose other constants are those of `start`."""
    free = [name for name in CONSTANTS if name in names and _is_seen(name, rows)]
    if not free:
        return start
    known = start.model_dump()
    bounds = [BOUNDS[name] for name in free]
    priors = [Prior(index, BOUNDS[name].start, SPREADS[name], PRIOR_SHARE) for index, name in enumerate(free)]

    def model(values: Floats) -> Floats:
        return predicted_s(known | dict(zip(free, values.tolist(), strict=True)), rows)

    measured_s = np.array([row.measured_s for row in rows])
    found = fit_relative(model, measured_s, bounds, priors=priors)
    return Pace(**(known | {name: float(f"{value:.3g}") for name, value in zip(free, found.tolist(), strict=True)}))


def _is_seen(name: str, rows: Sequence[Parts]) -> bool:
    match name:
        case "experts":
            return any(row.experts_s > 0 for row in rows)
        case "slowdown":
            return any(row.slower_s > 0 for row in rows)
        case "straggler":
            return any(row.doublings > 0 for row in rows)
        case _:
            return True


@dataclass(frozen=True)
class PaceFit:
    """A stack on a GPU, by name or by architecture: the pace, and the mean absolute error of its rows, %, with kernels
    as in microbenchmarks, as fitted, and of each half of the rows by a fit to the other."""

    stack: str
    key: str
    pace: Pace
    num_rows: int
    sources: tuple[str, ...]
    alone: float
    fitted: float
    other_half: float


def fits(rows: Sequence[Parts], constants: Iterable[str] = CONSTANTS, *, min_rows: int = MIN_ROWS) -> list[PaceFit]:
    """A fit for each stack and architecture with enough rows, and for a GPU of it whose own rows do better, one half of
    them predicted by the other, than by the fit to all."""
    chosen = tuple(constants)
    by_key: dict[tuple[str, str], list[Parts]] = {}
    for row in rows:
        by_key.setdefault((row.stack, row.architecture), []).append(row)
        by_key.setdefault((row.stack, row.gpu), []).append(row)
    found: dict[tuple[str, str], PaceFit] = {}
    # The fit to an architecture comes before those to its GPUs.
    for (stack, key), own in sorted(by_key.items(), key=lambda item: (item[0][0], item[0][1] == item[1][0].gpu)):
        whole = found.get((stack, own[0].architecture))
        if len(own) < min_rows or (whole is not None and len(own) == whole.num_rows):
            continue
        fit = _fit(stack, key, own, chosen)
        if whole is None or fit.other_half + OWN_GAIN < _mean(_errors(whole.pace, own)):
            found[stack, key] = fit
    return [found[key] for key in sorted(found)]


def _fit(stack: str, key: str, rows: Sequence[Parts], constants: Sequence[str]) -> PaceFit:
    pace = fitted(rows, constants)
    ordered = sorted(rows, key=lambda row: row.case_id)
    halves = (ordered[::2], ordered[1::2])
    others = []
    for own, other in (halves, halves[::-1]):
        if own and other:
            others += _errors(fitted(other, constants), own)
    return PaceFit(
        stack=stack,
        key=key,
        pace=pace,
        num_rows=len(rows),
        sources=tuple(sorted({row.source for row in rows})),
        alone=_mean([row.alone_s / row.measured_s - 1 for row in rows]),
        fitted=_mean(_errors(pace, rows)),
        other_half=_mean(others),
    )


def _errors(pace: Pace, rows: Sequence[Parts]) -> list[float]:
    predicted = predicted_s(pace.model_dump(), rows)
    return [time / row.measured_s - 1 for time, row in zip(predicted.tolist(), rows, strict=True)]


def _mean(errors: Sequence[float]) -> float:
    """Of their sizes, %."""
    return 100 * float(np.mean(np.abs(errors))) if errors else math.nan
