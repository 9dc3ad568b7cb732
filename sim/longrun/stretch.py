"""Uninterrupted training: where it stands after any time, in closed form, so that no step needs an event."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tier:
    """A place for checkpoints: every so many steps training waits `block_s`, and `persist_s` later it can be read."""

    every_steps: int
    block_s: float
    persist_s: float


@dataclass(frozen=True)
class Stretch:
    """Steps of equal time from `offset` steps after the start of a phase on, with their checkpoints."""

    offset: int
    step_s: float
    tiers: tuple[Tier, ...]

    def time_at(self, steps: int) -> float:
        """When `steps` more steps are done, with the checkpoints due up to there.

        >>> Stretch(0, 1.0, (Tier(3, 0.5, 0.0),)).time_at(7)
        8.0
        """
        time_s, offset = steps * self.step_s, self.offset
        for tier in self.tiers:
            every = tier.every_steps
            time_s += ((offset + steps) // every - offset // every) * tier.block_s
        return time_s

    def trained_at(self, steps: int) -> float:
        """When the last of `steps` steps ends, before the checkpoint that may follow it."""
        return self.time_at(steps - 1) + self.step_s if steps else 0.0

    def steps_at(self, time_s: float) -> int:
        """Steps done at `time_s`.

        >>> [Stretch(0, 1.0, (Tier(3, 0.5, 0.0),)).steps_at(time_s) for time_s in (2.9, 3.2, 4.4, 4.5)]
        [2, 3, 3, 4]
        """
        # time_at(n) differs from n times the mean by less than one checkpoint of each tier.
        mean_s = self.step_s + sum(tier.block_s / tier.every_steps for tier in self.tiers)
        around, slack = time_s / mean_s, 2 + sum(tier.block_s for tier in self.tiers) / self.step_s
        low, high = max(0, int(around - slack)), int(around + slack)
        while low < high:
            middle = (low + high + 1) // 2
            if self.trained_at(middle) <= time_s:
                low = middle
            else:
                high = middle - 1
        return low

    def snapshot_before(self, steps: int, tier: Tier) -> int:
        """Steps of this stretch up to the newest checkpoint within `steps`; 0 or less where none is in it."""
        return (self.offset + steps) // tier.every_steps * tier.every_steps - self.offset
