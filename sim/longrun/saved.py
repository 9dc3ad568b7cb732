"""Which checkpoints can be read: those in storage whose write has ended, and copies in the memory of other nodes."""

from __future__ import annotations

from sim.longrun.plan import Plan
from sim.longrun.stretch import Stretch


class Saved:
    """Newest step that can be read from each tier, and the write under way to storage.

    load_s: of the checkpoint that the last rollback chose.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan, self._checkpoint = plan, plan.file.checkpoint
        self._steps = [0] * len(plan.phases[0].tiers)
        self._writing: list[tuple[float, int] | None] = [None] * len(self._steps)
        self.load_s = 0.0

    def book(self, start_step: int, stretch: Stretch, steps: int, times_s: tuple[float, float]) -> None:
        """A stretch ended after `steps`; times_s = (when it started, how long it ran, the last checkpoint included)."""
        start_s, passed_s = times_s
        self._settle(start_s + passed_s)
        for index, tier in enumerate(stretch.tiers):
            newest = stretch.snapshot_before(steps, tier)
            if stretch.time_at(newest) > passed_s * (1 + 1e-12):
                newest -= tier.every_steps
            if newest <= 0:
                continue
            if newest > tier.every_steps:
                self._steps[index] = start_step + newest - tier.every_steps
            self._writing[index] = (start_s + stretch.time_at(newest) + tier.persist_s, start_step + newest)
        self._settle(start_s + passed_s)

    def _settle(self, now_s: float) -> None:
        """Writes that have ended by now can be read."""
        for index, writing in enumerate(self._writing):
            if writing is not None and writing[0] <= now_s * (1 + 1e-15):
                self._steps[index], self._writing[index] = writing[1], None

    def after_failure(self, nodes_hit: int, now_s: float) -> int:
        """Step from which the job goes on after a failure that hit so many nodes at once; writes under way are lost.

        Copies lie on groups of neighbours (Gemini, SOSP 2023): fewer hits than copies leave one.
        """
        self._settle(now_s)
        self._writing = [None] * len(self._steps)
        copies = self._checkpoint.memory_copies
        is_in_memory = copies is not None and nodes_hit < copies and self._steps[1] >= self._steps[0]
        if is_in_memory:
            self.load_s = self._checkpoint.memory_load_s or 0.0
            return self._steps[1]
        return self._from_storage(self._steps[0])

    def before(self, step: int, now_s: float) -> int:
        """Newest kept checkpoint in storage up to `step`; the start of the run where none is kept any more."""
        self._settle(now_s)
        self._writing = [None] * len(self._steps)
        return self._from_storage(self._kept(min(step, self._steps[0])))

    def _kept(self, step: int) -> int:
        wanted = step if step == self._steps[0] else self._plan.snapshot_before(step)
        keep, oldest = self._checkpoint.keep, self._steps[0]
        if keep is None:
            return wanted
        for _ in range(keep - 1):
            oldest = self._plan.snapshot_before(oldest - 1) if oldest else 0
        return wanted if wanted >= oldest else 0

    def _from_storage(self, step: int) -> int:
        self._steps = [step] * len(self._steps)
        self.load_s = self._plan.saving.load_s if step else 0.0
        return step

    def now(self, step: int) -> None:
        """A checkpoint of `step` was written."""
        self._steps = [step] * len(self._steps)
        self._writing = [None] * len(self._steps)
