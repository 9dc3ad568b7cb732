"""Zero bubble found for the times at hand: ZB-1p and ZB-2p (arXiv 2401.10241 section 3.1), by a greedy search.

Every rank takes what is ready: an input gradient before a forward pass, and weight gradients in the gaps that are left,
as long as what it keeps stays within the memory of p or 2 p micro-batches. The best of a few ways to do that is taken.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Literal, final

from sim.program.table import SCHEDULES, Action, Kind, PassTimes, Placement, Table

SAME = 1e-9
"""Moments that are closer, in the unit of the times, are one."""

GAPS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""How much of a weight gradient must fit into a gap whose end is known, for it to be put there."""


@dataclass(frozen=True)
class RankCosts:
    """What a micro-batch takes on one rank, in any unit of time, and the share of what its forward pass kept that
    weight gradients still need after the input gradients."""

    forward: float
    input_gradient: float
    weight_gradient: float
    kept_frac: float


EVEN = RankCosts(1.0, 1.0, 1.0, 1.0)


@final
@dataclass(frozen=True)
class AutomaticZeroBubble:
    """limit: micro-batches that a rank may keep, in multiples of p.  costs: of each rank; equal ones where none are
    known.  send: time from a rank to its neighbour."""

    name: str
    limit: int
    costs: tuple[RankCosts, ...] = ()
    send: float = 0.0
    placement: Placement = "loop"
    span: Literal["pipeline", "rank"] = "rank"

    def refusal(self, p: int, v: int, m: int) -> str | None:
        """One chunk on each rank; any p and m."""
        del p, m
        return None if v == 1 else f"vpp = {v}, but {self.name} has one chunk on each rank (allowed 1)"

    def fitted(self, costs: Sequence[RankCosts], send: float = 0.0) -> AutomaticZeroBubble:
        """The schedule for ranks that take these times."""
        return replace(self, costs=tuple(costs), send=send)

    def table(self, p: int, v: int, m: int) -> Table:
        """The table with the shortest own span of a rank."""
        assert v == 1
        costs = self.costs or (EVEN,) * p
        found = [
            _Greedy(costs, m, float(self.limit * p), self.send, gap, is_eager).played()
            for gap, is_eager in itertools.product(GAPS, (False, True))
        ]
        return min(found, key=lambda play: play[0])[1]

    def bubble_of_ideal(self, p: int, v: int, m: int, times: PassTimes) -> Fraction | None:
        """None is published for a schedule that depends on the times."""
        del p, v, m, times
        return None

    def bubble_assumptions(self, p: int, v: int, m: int, times: PassTimes) -> str | None:
        """None holds."""
        del p, v, m, times
        return f"{self.name} is found for the times at hand: no closed form is published"


@dataclass
class _Rank:
    """Progress of a rank. forwards, inputs, weights: passes done.  arrived: when the input of each forward pass is
    there, and the gradient of each backward pass, as far as known."""

    free: float = 0.0
    start: float | None = None
    forwards: int = 0
    inputs: int = 0
    weights: int = 0
    arrived: dict[tuple[Kind, int], float] = field(default_factory=dict)
    row: list[Action] = field(default_factory=list)


class _Greedy:
    """One way through the step. gap: see `GAPS`.  is_eager: whether a forward pass may delay the first gradient."""

    def __init__(
        self, costs: Sequence[RankCosts], m: int, limit: float, send: float, gap: float, is_eager: bool
    ) -> None:
        self._costs, self._m, self._limit, self._send = costs, m, limit, send
        self._gap, self._is_eager = gap, is_eager
        self._ranks = [_Rank() for _ in costs]
        self._ranks[0].arrived = {(Kind.F, mb): 0.0 for mb in range(m)}

    def played(self) -> tuple[float, Table]:
        """The longest own span of a rank, and the table."""
        heap = [(0.0, number) for number in range(len(self._ranks))]
        while heap:
            now, number = heapq.heappop(heap)
            rank = self._ranks[number]
            if rank.free > now + SAME:
                continue
            kind = self._choice(rank, self._costs[number], now)
            if kind is not None:
                self._do(number, kind, now, heap)
        spans = [rank.free - (rank.start or 0.0) for rank in self._ranks]
        assert all(rank.weights == self._m for rank in self._ranks), "the search is stuck"
        return max(spans), tuple(tuple(rank.row) for rank in self._ranks)

    def _choice(self, rank: _Rank, costs: RankCosts, now: float) -> Kind | None:
        """What a free rank does now; nothing where that is not there yet and no weight gradient fits in between."""
        never = float("inf")
        gradient = rank.arrived.get((Kind.I, rank.inputs), never)
        kept = rank.forwards - rank.inputs + costs.kept_frac * (rank.inputs - rank.weights)
        fits = kept + 1 <= self._limit + SAME
        activation = rank.arrived.get((Kind.F, rank.forwards), never) if fits else never
        if gradient <= now + SAME:
            return Kind.I
        delays = rank.inputs == 0 and gradient < now + costs.forward
        if activation <= now + SAME and (self._is_eager or not delays):
            return Kind.F
        if rank.weights == rank.inputs:
            return None
        is_full = not fits and rank.forwards < self._m
        gap = min(gradient, activation) - now
        return Kind.W if is_full or gap >= self._gap * costs.weight_gradient else None

    def _do(self, number: int, kind: Kind, now: float, heap: list[tuple[float, int]]) -> None:
        """The rank is busy with a pass, and its neighbour gets the result."""
        rank, costs, last = self._ranks[number], self._costs[number], len(self._ranks) - 1
        rank.start = now if rank.start is None else rank.start
        match kind:
            case Kind.F:
                rank.free, mb = now + costs.forward, rank.forwards
                rank.forwards += 1
                if number < last:
                    self._send_to(number + 1, (Kind.F, mb), rank.free, heap)
                else:
                    rank.arrived[Kind.I, mb] = rank.free
            case Kind.I:
                rank.free, mb = now + costs.input_gradient, rank.inputs
                rank.inputs += 1
                if number > 0:
                    self._send_to(number - 1, (Kind.I, mb), rank.free, heap)
            case _:
                rank.free, mb = now + costs.weight_gradient, rank.weights
                rank.weights += 1
        rank.row.append(Action(number, kind, mb))
        heapq.heappush(heap, (rank.free, number))

    def _send_to(self, number: int, what: tuple[Kind, int], done: float, heap: list[tuple[float, int]]) -> None:
        arrives = done + self._send
        self._ranks[number].arrived[what] = arrives
        heapq.heappush(heap, (arrives, number))


for _name, _limit in (("zb_1p", 1), ("zb_2p", 2)):
    SCHEDULES.register(_name)(AutomaticZeroBubble(_name, _limit))
