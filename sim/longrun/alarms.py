"""How soon an alarm notices a loss spike, and how often it cries wolf."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sim.spec.spikes import RunbookStep, Spikes


def above(sigmas: float) -> float:
    """Chance that a normal value is more than `sigmas` above its mean.

    >>> round(1 / above(2))
    44
    """
    return math.erfc(sigmas / math.sqrt(2)) / 2


def steps_to_a_run(chance: float, length: int) -> float:
    """Expected steps until `length` in a row are above, each with `chance`: (1 - p^n) / ((1 - p) p^n).

    Source: W. Feller, An Introduction to Probability Theory, volume 1, XIII.7. Infinite where it cannot be.

    >>> steps_to_a_run(0.5, 2)
    6.0
    """
    run = math.pow(chance, length)
    if run == 0:
        return math.inf
    return length if chance == 1 else (1 - run) / ((1 - chance) * run)


@dataclass(frozen=True)
class Alarm:
    """Expected steps from a spike to its alarm, and between false alarms."""

    delay_steps: float
    false_every_steps: float


def alarm(spikes: Spikes) -> Alarm:
    """Of all rules together, whose signals have independent, normal noise from step to step.

    That is the simplest case: real noise is correlated, and its tails are heavier, which means more false alarms. Rules
    of several lengths need the longest run of all of them at once, which is what makes them safe.
    """
    length = max(rule.consecutive for rule in spikes.rules)
    noise = math.prod(above(rule.sigmas) for rule in spikes.rules)
    spike = math.prod(above(rule.sigmas - spikes.sigmas) for rule in spikes.rules)
    return Alarm(steps_to_a_run(spike, length), steps_to_a_run(noise, length))


def runbook_s(steps: Sequence[RunbookStep]) -> float:
    """Expected time of a diagnosis that stops where the cause is found."""
    expected, still = 0.0, 1.0
    for step in steps:
        expected += still * step.time_s
        still *= 1 - step.finds_frac
    return expected
