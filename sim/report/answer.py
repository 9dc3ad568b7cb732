"""The answer in words: which layout won, and why."""

from __future__ import annotations

from collections.abc import Sequence

from sim.report.placement import TIE_FRAC, placements
from sim.report.tables import gibibytes, percent, ranking, seconds, short_names
from sim.report.words import GROUPS, by_group
from sim.results.result import Result

UNEXPLAINED_FRAC = 0.1
"""Causes are named until what is left out is at most this part of the gap between two layouts."""

MOST_NAMED = 3


def answer(results: Sequence[Result]) -> str:
    """What won and why, in a few sentences.

    The fastest layout that fits is compared with the runner-up, and with the first one given (the reference), by the
    differences of their breakdowns. What placement costs is said where results differ in nothing else, layouts that do
    not fit are named, and steps that are not the same work are called so. One result alone is described.
    """
    assert results, "an answer needs a result"
    if len(results) == 1:
        return _alone(results[0])
    ranked = ranking(results)
    names = dict(zip(map(id, ranked), short_names(ranked), strict=True))
    winner = ranked[0]
    fitting = [result for result in ranked if result.fits]
    sentences = []
    if not fitting:
        sentences.append(f"No layout fits in memory. Were memory no object, {names[id(winner)]} would be fastest:")
    else:
        sentences.append(f"{names[id(winner)]} is the fastest layout that fits:")
    sentences[0] += f" {_numbers(winner)}."
    reference = results[0]
    others = [ranked[1]] if ranked[1].fits == winner.fits else []
    if reference not in (winner, *others) and reference.fits == winner.fits:
        others.append(reference)
    for other in others:
        role = "the reference " if other is reference else ("the runner-up " if other is ranked[1] else "")
        sentences.append(_against(winner, other, role + names[id(other)]))
    sentences += [*placements(results, names), *_misfits(ranked, names, winner), *_unlike(results)]
    return " ".join(sentences)


def _alone(result: Result) -> str:
    groups = sorted(by_group(result.breakdown_s).items(), key=lambda pair: -pair[1])
    parts = [f"{percent(value / result.step_time_s)} {group.name}" for group, value in groups[:MOST_NAMED]]
    fits = "it fits" if result.fits else "it does not fit"
    free = min(stage.free_bytes for stage in result.memory)
    rest = f"with {gibibytes(free)} free" if result.fits else f"by {gibibytes(-free)}"
    return f"{short_names([result])[0]}: {_numbers(result)}; {fits} {rest}. Most of the step goes to {_joined(parts)}."


def _numbers(result: Result) -> str:
    rate = f"{result.tokens_per_s_per_gpu:,.0f} tokens/s/GPU"
    return f"{seconds(result.step_time_s)} a step, {rate}, MFU {percent(result.mfu)}"


def _against(winner: Result, other: Result, name: str) -> str:
    """How much faster than `other`, and which causes make the difference."""
    gap_s = other.step_time_s - winner.step_time_s
    if gap_s <= TIE_FRAC * winner.step_time_s:
        return f"It is level with {name} (within {percent(TIE_FRAC)})."
    less, more = contributions(winner, other)
    why = f"It beats {name} by {seconds(gap_s)} ({percent(gap_s / other.step_time_s)})"
    if less:
        why += f": it spends {_joined([f'{seconds(value)} less in {cause}' for cause, value in less])}"
    if more:
        why += f", against {_joined([f'{seconds(value)} more in {cause}' for cause, value in more])}"
    return why + "."


def contributions(winner: Result, other: Result) -> tuple[list[tuple[str, float]], list[tuple[str, float]]]:
    """Groups of causes in which the winner spends less, and more, than `other`: (name, seconds), the largest first.

    As many as explain the gap between the two: what is left out adds up to less than a tenth of it.
    """
    mine, theirs = by_group(winner.breakdown_s), by_group(other.breakdown_s)
    saved = {group: theirs.get(group, 0.0) - mine.get(group, 0.0) for group in GROUPS}
    gap_s = other.step_time_s - winner.step_time_s
    named: list[tuple[str, float]] = []
    for group, value in sorted(saved.items(), key=lambda pair: -abs(pair[1])):
        if abs(gap_s - sum(value for _, value in named)) <= UNEXPLAINED_FRAC * gap_s:
            break
        named.append((group.name, value))
    less = [(name, value) for name, value in named if value > 0]
    more = [(name, -value) for name, value in named if value < 0]
    return less, more


def _misfits(ranked: Sequence[Result], names: dict[int, str], winner: Result) -> list[str]:
    """Which layouts do not fit, by how much, and which of them would have been faster."""
    if not winner.fits:
        return []
    misfits = [result for result in ranked if not result.fits]
    if not misfits:
        return []
    parts = []
    for result in misfits:
        short_by = gibibytes(result.peak_bytes - result.scenario.gpu.memory_bytes)
        faster = ", though it would be faster" if result.step_time_s < winner.step_time_s else ""
        parts.append(f"{names[id(result)]} (by {short_by}{faster})")
    verb = "does" if len(parts) == 1 else "do"
    return [f"{_joined(parts)} {verb} not fit in memory."]


def _unlike(results: Sequence[Result]) -> list[str]:
    """A warning where the steps are not the same work."""
    scenarios = [result.scenario for result in results]
    facts: dict[str, set[object]] = {
        "model": {scenario.model.model_dump_json() for scenario in scenarios},
        "sequence length": {scenario.training.seq_len for scenario in scenarios},
        "global batch": {scenario.training.global_batch for scenario in scenarios},
    }
    differing = [name for name, values in facts.items() if len(values) > 1]
    if not differing:
        return []
    return [f"Mind that a step is not the same work in all of them: they differ in {_joined(differing)}."]


def _joined(parts: Sequence[str]) -> str:
    """`a, b and c`.

    >>> _joined(["a", "b", "c"])
    'a, b and c'
    """
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
