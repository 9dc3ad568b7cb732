"""Loss spikes of one run: when they come, when they are noticed, and what is done."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from sim.longrun.alarms import alarm, runbook_s
from sim.spec.spikes import Remedy, Spikes

NEVER = 2**62


@dataclass(frozen=True)
class Answer:
    """What an alarm leads to: a pause, and the step up to which a checkpoint is good (None: go on as before)."""

    pause_s: float
    rollback_to: int | None
    spike_step: int
    remedy: int


class SpikeWatch:
    """Counts down, in steps that are trained, to the next spike, the notice of one, and the next false alarm.

    After a remedy that did not help the same spike comes again at its step, and the next remedy is tried.
    """

    def __init__(self, spikes: Spikes | None, rng: np.random.Generator) -> None:
        self._spikes, self._rng = spikes, rng
        self._alarm = alarm(spikes) if spikes is not None else None
        self._pause_s = runbook_s(spikes.runbook) if spikes is not None else 0.0
        self._noticed: tuple[int, int, int] | None = None
        self._next_spike = self._draw_spike()
        self._next_false = self._draw_false()
        self.spikes = 0
        self.healed = 0
        self.false_alarms = 0
        self.remedies: dict[str, int] = {}
        self.skipped_batches = 0

    @property
    def steps_left(self) -> int:
        """Steps until something is due, at least 1."""
        left = self._next_spike if self._noticed is None else self._noticed[0]
        return max(1, min(left, self._next_false))

    def trained(self, steps: int) -> None:
        """So many steps were trained."""
        self._next_false -= steps
        if self._noticed is None:
            self._next_spike -= steps
        else:
            left, step, remedy = self._noticed
            self._noticed = (left - steps, step, remedy)

    def due(self, step: int) -> Answer | None:
        """What has to be answered at this step; a spike that just began is not noticed yet."""
        if self._spikes is None:
            return None
        if self._noticed is None and self._next_spike <= 0:
            self._begins(step)
        if self._noticed is not None and self._noticed[0] <= 0:
            _, at, remedy = self._noticed
            return self._answer(at, remedy)
        if self._next_false <= 0:
            self.false_alarms += 1
            self._next_false = self._draw_false()
            return self._answer(step, 0) if self._spikes.acts_alone else Answer(self._pause_s, None, step, 0)
        return None

    def _begins(self, step: int) -> None:
        assert self._spikes is not None
        assert self._alarm is not None
        self.spikes += 1
        if self._rng.random() < self._spikes.heals_frac:
            self.healed += 1
            self._next_spike = self._draw_spike()
        else:
            self._noticed = (self._delay(), step, 0)

    def _answer(self, spike_step: int, remedy: int) -> Answer:
        chosen = self._remedy(remedy)
        return Answer(self._pause_s, max(0, spike_step - chosen.rollback_steps), spike_step, remedy)

    def answered(self, answer: Answer, step: int) -> None:
        """The remedy was applied and the job stands at `step`."""
        chosen = self._remedy(answer.remedy)
        self.remedies[chosen.action] = self.remedies.get(chosen.action, 0) + 1
        self.skipped_batches += chosen.skip_batches
        if self._noticed is None or self._noticed[0] > 0:
            return
        if self._rng.random() < chosen.cures_frac:
            self._noticed, self._next_spike = None, self._draw_spike()
            return
        assert self._spikes is not None
        following = min(answer.remedy + 1, len(self._spikes.remedies) - 1)
        self._noticed = (answer.spike_step - step + self._delay(), answer.spike_step, following)

    def _remedy(self, index: int) -> Remedy:
        assert self._spikes is not None
        return self._spikes.remedies[index]

    def _delay(self) -> int:
        assert self._alarm is not None
        return max(1, round(min(self._alarm.delay_steps, NEVER)))

    def _draw_spike(self) -> int:
        if self._spikes is None:
            return NEVER
        return math.ceil(1000 / self._spikes.per_1000_steps * self._rng.standard_exponential())

    def _draw_false(self) -> int:
        if self._alarm is None or self._alarm.false_every_steps > NEVER:
            return NEVER
        return math.ceil(self._alarm.false_every_steps * self._rng.standard_exponential())
