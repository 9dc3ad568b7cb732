"""A time that no played step of a layout undercuts, without playing it.

Times are those of kernels that nothing slows and of communication that has the network to itself, in the order and with
the algorithms of the step. An operation takes no less in company, and starts no earlier when those before it end later;
so a chain of operations, each of which waits for the one before, lasts at least the sum of their times alone. What is
taken here are such chains, from an operation of a rank to a later one of that rank:

- all passes of a pipeline rank one after the other, with the communication inside layers that its kernels wait for;
- before them the passes that bring the first micro-batch to that rank, and after them either those that take its last
  gradient back, or the gradient norm that joins all ranks;
- the reduction of gradients that is left when the last backward pass ends, the norm, the optimizer;
- everything on one stream of data-parallel communication of a rank, one call after the other.

Kernels that communication runs beside are slower: while a kind of it runs on a rank, which it does for at least its
time alone, kernels either wait or lose a share of their rate. What they lose at least is part of the bound, see
`lost_s`.

Left out: links that are shared, and what each of many sends adds where ranks wait for each other by turns, which
`lone_step_s` has.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import final

from sim.cost.pace import slowed
from sim.cost.slowdown import combined
from sim.errors import SimError
from sim.program.lower import hop_stream, lower, num_microbatches, schedule_table, stages_of_rank
from sim.program.operations import PP_BACKWARD, PP_FORWARD, Block, Collective, Send
from sim.program.reductions import buckets
from sim.program.replication import replication
from sim.program.schedule_file import SUFFIX, schedule_of
from sim.program.schedules.zb_auto import AutomaticZeroBubble
from sim.program.shapes import BYTES, shapes
from sim.program.shards import Shard
from sim.program.stage import DEFAULT_PREFETCH_LAYERS, Unit, end_block, recomputed_units, units_of_layers
from sim.program.table import Action, Cell, Kind, Pair, actions_of, home
from sim.results.steady import own_spans
from sim.simulation import played
from sim.spec.layout import Layout, layers_of_stages
from sim.spec.scenario import Scenario
from sim.spec.stack import pace_of
from sim.spec.topology import Fabric
from sim.study.lone import NO_TIME, LonePass, LoneTimes

GRADIENTS = (Kind.B, Kind.I)


@dataclass(frozen=True)
class Bound:
    """What the step of a layout takes at least, s, and of what the longest chain is made: the passes of its busiest
    rank, what kernels lose meanwhile to communication beside them (or, where that takes longer, the reduction of
    gradients that is left after them), what comes before and after them in the pipeline, and the end of the step."""

    passes_s: float
    beside_s: float
    pipeline_s: float
    end_s: float

    @property
    def step_s(self) -> float:
        """All of it."""
        return self.passes_s + self.beside_s + self.pipeline_s + self.end_s


def lost_s(moving: Iterable[tuple[float, float]], absent_s: float) -> float:
    """Time that kernels lose at least while communication runs beside them.

    moving: of each kind, the time for which it runs, s, and the factor f on the time of a kernel meanwhile: it does
    1 / f of its work, with several kinds the product of that. absent_s: time in which no kernel of the chain runs, and
    nothing is lost. A set S of kinds costs 1 - prod_S 1 / f of its time, which is submodular in S, so that the loss is
    least where the kinds run nested in each other: the shortest within the next longer one, and all while nothing runs.

    >>> lost_s([(4.0, 2.0)], 1.0), lost_s([(4.0, 2.0), (2.0, 2.0)], 0.0)
    (1.5, 2.5)
    """
    total_s = shorter_s = 0.0
    kept = sorted((max(time_s - absent_s, 0.0), factor) for time_s, factor in moving)
    for number, (time_s, _) in enumerate(kept):
        total_s += (time_s - shorter_s) * (1.0 - 1.0 / combined(factor for _, factor in kept[number:]))
        shorter_s = time_s
    return total_s


@dataclass(frozen=True)
class _Row:
    """A rank's row: passes by stage and kind, pairs by their stages, the first action, the last one that sends a
    gradient back, the passes after that, and the last one of all."""

    passes: tuple[tuple[tuple[int, Kind], int], ...]
    pairs: tuple[tuple[tuple[int, int], int], ...]
    first: Action
    last: Action
    after: tuple[tuple[tuple[int, Kind], int], ...]
    end: Action

    @staticmethod
    def of(row: Sequence[Cell]) -> _Row:
        """Facts of a row."""
        actions = list(actions_of(row))
        last = max(index for index, action in enumerate(actions) if action.kind in GRADIENTS)
        passes = Counter((cell.stage, cell.kind) for cell in row if isinstance(cell, Action))
        pairs = Counter((cell.forward.stage, cell.backward.stage) for cell in row if isinstance(cell, Pair))
        after = Counter((action.stage, action.kind) for action in actions[last + 1 :])
        return _Row(
            tuple(passes.items()), tuple(pairs.items()), actions[0], actions[last], tuple(after.items()), actions[-1]
        )

    def count(self, stage: int, *kinds: Kind) -> int:
        """Passes of these kinds on a stage, those in pairs too."""
        alone = sum(number for (each, kind), number in self.passes if each == stage and kind in kinds)
        sides = ((Kind.F, 0), (Kind.B, 1))
        return alone + sum(
            number for stages, number in self.pairs for kind, side in sides if kind in kinds and stages[side] == stage
        )


@dataclass(frozen=True)
class _Stage:
    """A virtual stage: its units, their passes, the passes of all, and its parameters. Stages that are alike are one
    object."""

    units: tuple[Unit, ...]
    unit_times: tuple[dict[Kind, LonePass], ...]
    times: dict[Kind, LonePass]
    shard: Shard


@dataclass(frozen=True)
class _End:
    """End of the step on a rank: up to the norm that joins all ranks, that norm (0 where there is none), the rest."""

    before_s: float
    norm_s: float
    after_s: float

    @property
    def total_s(self) -> float:
        """All of it."""
        return self.before_s + self.norm_s + self.after_s


@final
class Bounds:
    """Bounds of layouts of one scenario on one fabric; what they share is kept.

    Raises SimError for a scenario whose kernels have times of their own (jitter of every operation).
    """

    def __init__(self, scenario: Scenario, fabric: Fabric) -> None:
        if sigma := scenario.conditions.jitter.per_operation:
            raise SimError(
                f"conditions.jitter.per_operation leaves nothing to bound a step by (got {sigma:g}, allowed 0)"
            )
        self._times = LoneTimes(scenario, fabric)
        self._rows: dict[Hashable, tuple[_Row, ...]] = {}

    def of(self, scenario: Scenario) -> Bound:
        """The bound of a layout of the scenario."""
        return _Chains(scenario, self._times, self._rows_of(scenario)).longest()

    def _rows_of(self, scenario: Scenario) -> tuple[_Row, ...]:
        layout = scenario.layout
        if layout.schedule.endswith(SUFFIX) or isinstance(schedule_of(layout.schedule), AutomaticZeroBubble):
            return tuple(map(_Row.of, schedule_table(scenario)))
        key = (layout.schedule, layout.pp, layout.vpp, num_microbatches(scenario))
        if key not in self._rows:
            self._rows[key] = tuple(map(_Row.of, schedule_table(scenario)))
        return self._rows[key]


class _Chains:
    """Chains of operations of one scenario."""

    def __init__(self, scenario: Scenario, times: LoneTimes, rows: tuple[_Row, ...]) -> None:
        self._scenario, self._layout, self._times, self._rows = scenario, scenario.layout, times, rows
        self._shapes, self._rep = shapes(scenario), replication(scenario)
        self._left: dict[tuple[int, Kind], float] = {}
        self._calls: dict[int, tuple[float, float, float]] = {}
        self._stages = self._stages_of()
        self._hop_s = self._hops()
        is_split = any(kind is Kind.I for row in rows for (_, kind), _ in row.passes)
        self._back = Kind.I if is_split else Kind.B
        overlaps = scenario.training.overlap.pipeline
        blocking = scenario.layout.schedule in scenario.stack.blocking_sends
        self._waits = blocking if overlaps is None else not overlaps
        ends: dict[Hashable, _End] = {}
        self._ends = [self._end(pp_rank, ends) for pp_rank in range(len(rows))]

    def longest(self) -> Bound:
        """The longest of the chains."""
        has_norm = all(end.norm_s > 0 for end in self._ends)
        update_s = min(end.after_s for end in self._ends)
        found = []
        for pp_rank, row in enumerate(self._rows):
            end, passes, fill_s = self._ends[pp_rank], self._passes(row), self._fill_s(row)
            left_s, gathers_s, reduces_s = self._left_over_s(row.end), *self._streams_s(pp_rank)
            moving = self._moving(pp_rank, passes, gathers_s, reduces_s)
            beside_s = max(left_s, lost_s(moving, passes.exposed_s))
            found += [Bound(0.0, stream_s, 0.0, end.total_s) for stream_s in (gathers_s, reduces_s)]
            found.append(Bound(passes.path_s, beside_s, 0.0, end.total_s))
            if has_norm:
                beside_s = max(left_s, lost_s(moving, passes.exposed_s + fill_s))
                found.append(Bound(passes.path_s, beside_s, fill_s, end.before_s + end.norm_s + update_s))
            found += self._there_and_back(row, passes, fill_s, moving)
        return max(found, key=lambda bound: bound.step_s)

    def _there_and_back(
        self, row: _Row, passes: LonePass, fill_s: float, moving: list[tuple[float, float]]
    ) -> Iterable[Bound]:
        """From the first pass of the pipeline's first rank to its last through the passes of another one."""
        start, back = self._home(Action(0, Kind.F, row.first.microbatch)), Action(0, self._back, row.last.microbatch)
        if start != self._home(back):
            return
        after_s = sum(number * self._pass(*key).path_s for key, number in row.after)
        stages = range(row.last.stage)
        drain_s = sum(self._stages[stage].times[self._back].path_s for stage in stages)
        # A rank that waits for its sends has counted its own among its passes.
        drain_s += sum(self._between_s(stage + 1, stage) for stage in (stages[:-1] if self._waits else stages))
        is_end = self._rows[start].end == back and row.last.stage > 0
        left_s = self._left_over_s(back) if is_end else 0.0
        beside_s = lost_s(moving, passes.exposed_s + fill_s + drain_s + after_s)
        yield Bound(passes.path_s - after_s, beside_s, fill_s + drain_s, left_s + self._ends[start].total_s)

    def _moving(self, pp_rank: int, passes: LonePass, gathers_s: float, reduces_s: float) -> list[tuple[float, float]]:
        """Communication that runs on a rank from the start of its first pass to the end of its last one or longer:
        time of each kind, and what it does to kernels. Nothing where kernels do not slow down.

        Parameters that are there before the first pass are left out: those of ZeRO-1 and ZeRO-2, and of ZeRO-3 the
        first units.
        """
        scenario, row = self._scenario, self._rows[pp_rank]
        if not scenario.training.overlap.compute_slowdown:
            return []
        factors = slowed(scenario.gpu, pace_of(scenario.stack, scenario.gpu)).slowdown
        least = min(factors.collective, factors.send, factors.all_to_all)
        moving = [(time_s, least) for time_s in passes.moving_s]
        if self._rep.zero == 3:
            moving.append((max(gathers_s - self._ahead_s(pp_rank), 0.0), factors.collective))
        moving.append((reduces_s, least))
        sends_s = [
            sum(number * self._between_s(stage, stage + step) for (stage, kind), number in row.passes if kind in kinds)
            for kinds, step in (((Kind.F,), 1), (GRADIENTS, -1))
        ]
        return [*moving, (0.0 if self._waits else max(sends_s), factors.send)]

    def _ahead_s(self, pp_rank: int) -> float:
        """Gathers that may run before the first pass of a rank: those of as many units as are gathered ahead, and of
        the one that computes; the largest ones."""
        ahead = self._scenario.training.prefetch_layers
        number = 1 + (DEFAULT_PREFETCH_LAYERS if ahead is None else ahead)
        stages = {id(self._stages[each]): self._stages[each] for each in stages_of_rank(self._layout, pp_rank)}
        shards = Counter(unit.shard for stage in stages.values() for unit in stage.units)
        return number * max(self._calls_s(self._rep.gathers(shard)) for shard in shards)

    def _home(self, action: Action) -> int:
        placement = schedule_of(self._layout.schedule).placement
        return home(action, self._layout.pp, num_microbatches(self._scenario), placement)

    def _stages_of(self) -> tuple[_Stage, ...]:
        scenario, s, rep = self._scenario, self._shapes, self._rep
        first, layers, last = units_of_layers(scenario)
        known: dict[tuple[int, bool], dict[Kind, LonePass]] = {}

        def times_of(unit: Unit, *, again: bool) -> dict[Kind, LonePass]:
            key = (id(unit), again)
            if key not in known:
                found = self._times.unit(unit, rep, s, scenario, again=again)
                passes = (found.forward, found.backward, found.input_gradient, found.weight_gradient)
                known[key] = dict(zip(Kind, passes, strict=True))
            return known[key]

        made: dict[tuple[int, ...], _Stage] = {}
        stages, ranges = [], layers_of_stages(scenario.layout, scenario.model.num_layers)
        for number, span in enumerate(ranges):
            units = [*(first if number == 0 else []), *layers[span.start : span.stop]]
            units += last if number == len(ranges) - 1 else []
            key = tuple(map(id, units))
            if key not in made:
                repeated = recomputed_units(units[::-1], scenario.training)
                again = [len(units) - 1 - place in repeated for place in range(len(units))]
                each = tuple(times_of(unit, again=runs) for unit, runs in zip(units, again, strict=True))
                numbers = Counter(map(id, each))
                by_id = {id(times): times for times in each}
                whole = {
                    kind: sum((by_id[one][kind] * number for one, number in numbers.items()), NO_TIME) for kind in Kind
                }
                made[key] = _Stage(tuple(units), each, whole, sum((unit.shard for unit in units), Shard(0)))
            stages.append(made[key])
        return tuple(stages)

    def _hops(self) -> dict[str, float]:
        """Time of a send in each direction."""
        scenario, layout = self._scenario, self._layout
        if layout.pp == 1:
            return {}
        is_scattered = scenario.stack.sends == "scattered" and layout.tp > 1 and not layout.sequence_parallel
        nbytes = BYTES * self._shapes.tokens_sp * scenario.model.hidden / (layout.tp if is_scattered else 1)
        sends = [Send(stream, float(nbytes)) for stream in (PP_FORWARD, PP_BACKWARD)]
        return {send.stream: self._times.payload_s(send, layout) for send in sends}

    def _between_s(self, source: int, target: int) -> float:
        """Time of a send from one virtual stage to its neighbour, 0 where they share a rank."""
        stream = hop_stream(source, target, self._layout)
        return 0.0 if stream is None else self._hop_s[stream]

    def _pass(self, stage: int, kind: Kind) -> LonePass:
        """A pass, with its send where the next pass waits for that."""
        time = self._stages[stage].times[kind]
        if self._waits and kind is not Kind.W:
            sent_s = self._between_s(stage, stage + (1 if kind is Kind.F else -1))
            time += replace(NO_TIME, path_s=sent_s, exposed_s=sent_s)
        return time

    def _passes(self, row: _Row) -> LonePass:
        """All passes of a rank one after the other; of those side by side, their kernels."""
        total = sum((self._pass(*key) * number for key, number in row.passes), NO_TIME)
        for (forward, backward), number in row.pairs:
            both = self._stages[forward].times[Kind.F] + self._stages[backward].times[Kind.B]
            total += replace(both, path_s=both.compute_s, exposed_s=0.0) * number
        return total

    def _fill_s(self, row: _Row) -> float:
        """From the first operation of the pipeline's first rank until the first micro-batch of another one is there."""
        stages = range(row.first.stage)
        fill_s = sum(self._stages[stage].times[Kind.F].path_s + self._between_s(stage, stage + 1) for stage in stages)
        start = Action(0, Kind.F, row.first.microbatch)
        return fill_s + (self._first_gather_s() if self._rows[self._home(start)].first == start else 0.0)

    def _first_gather_s(self) -> float:
        """By how much the first pass of the first stage takes longer for the parameters that it waits for."""
        rep, stage = self._rep, self._stages[0]
        shards = [unit.shard for unit in stage.units]
        if rep.gathers_forward(is_first=True):
            return self._calls_s(rep.gathers(shards[0]))
        if rep.zero not in (1, 2) or not rep.overlaps_gather:
            return 0.0
        gathered_s = done_s = 0.0
        start = 0
        for shard, end in buckets(shards, rep):
            gathered_s += self._calls_s(rep.gathers(shard))
            passes_s = sum(times[Kind.F].path_s for times in stage.unit_times[start : end + 1])
            done_s = max(done_s, gathered_s) + passes_s
            start = end + 1
        return max(done_s - sum(times[Kind.F].path_s for times in stage.unit_times[:start]), 0.0)

    def _calls_s(self, calls: Iterable[Collective]) -> float:
        return sum(self._times.payload_s(call, self._layout) for call in calls)

    def _reductions_s(self, shard: Shard, *, is_last: bool) -> float:
        """Calls of the stream on which gradients are reduced."""
        if self._rep.is_int4:
            return self._calls_s([*self._rep.first_hop(shard), *self._rep.second_hop(shard)])
        chains = self._rep.reductions(shard, is_last=is_last)
        return self._calls_s(call for chain in chains for call in chain if call.kind == "dp_reduce")

    def _left_over_s(self, action: Action) -> float:
        """What of the reduction of gradients is left when the last pass of a rank ends."""
        key = (id(self._stages[action.stage]), action.kind)
        if key not in self._left:
            self._left[key] = self._left_of(self._stages[action.stage], action.kind)
        return self._left[key]

    def _left_of(self, stage: _Stage, kind: Kind) -> float:
        rep, units = self._rep, stage.units[::-1]
        if kind not in (Kind.B, Kind.W) or not rep.reduces(is_last=True):
            return 0.0
        passed_s = [times[kind].path_s for times in stage.unit_times[::-1]]
        total_s = sum(passed_s)
        done_s = 0.0
        for shard, end in buckets([unit.shard for unit in units], rep):
            ready_s = sum(passed_s[: end + 1]) if rep.overlaps_reduce else total_s
            done_s = max(done_s, ready_s) + self._reductions_s(shard, is_last=True)
        return max(done_s - total_s, 0.0)

    def _streams_s(self, pp_rank: int) -> tuple[float, float]:
        """All calls of a rank on the stream that gathers parameters ahead of each use, and on the one that reduces
        gradients."""
        rep, row = self._rep, self._rows[pp_rank]
        gathers_s = reduces_s = 0.0
        for number in stages_of_rank(self._layout, pp_rank):
            once_s, again_s, each_s = self._calls_of(self._stages[number])
            num_forward, num_backward = row.count(number, Kind.F), row.count(number, Kind.B, Kind.I)
            gathers_s += once_s * (num_forward if rep.gathers_forward(is_first=False) else 1)
            gathers_s += again_s * num_backward * rep.gathers_again
            reduces_s += each_s * (num_backward if rep.reduces(is_last=False) else 1)
        return gathers_s, reduces_s

    def _calls_of(self, stage: _Stage) -> tuple[float, float, float]:
        """Of one micro-batch: parameters gathered for a forward and for a backward pass, gradients reduced."""
        rep = self._rep
        if id(stage) not in self._calls:
            shards = [unit.shard for unit in stage.units] if rep.zero == 3 else []
            once_s = self._calls_s(call for shard in shards for call in rep.gathers(shard))
            again_s = self._calls_s(call for shard in shards for call in rep.gathers(shard, again=True))
            order = [unit.shard for unit in reversed(stage.units)]
            each_s = sum(self._reductions_s(shard, is_last=False) for shard, _ in buckets(order, rep))
            self._calls[id(stage)] = (once_s, again_s, each_s)
        return self._calls[id(stage)]

    def _end(self, pp_rank: int, known: dict[Hashable, _End]) -> _End:
        """End of the step on a rank; ranks with as many parameters share it, but for the pipeline's ends."""
        units = {stage: self._stages[stage].units for stage in stages_of_rank(self._layout, pp_rank)}
        total = sum((self._stages[stage].shard for stage in units), Shard(0))
        key = (total, pp_rank in (0, self._layout.pp - 1))
        if key not in known:
            block = end_block(self._scenario, pp_rank, self._rep, units)
            known[key] = _parts(block, self._times, self._layout)
        return known[key]


def _parts(block: Block, times: LoneTimes, layout: Layout) -> _End:
    ends = times.ends_s(block, layout)
    for operation, end_s in zip(block.operations, ends, strict=True):
        payload = operation.payload
        if isinstance(payload, Collective) and payload.kind == "grad_norm" and payload.group == "world":
            norm_s = times.payload_s(payload, layout)
            return _End(end_s - norm_s, norm_s, max(ends) - end_s)
    return _End(max(ends, default=0.0), 0.0, 0.0)


def lone_step_s(scenario: Scenario, fabric: Fabric) -> float:
    """The step as it would be if no flows shared links and no kernel slowed down: a closer bound, of a whole program.

    Counted on ranks whose first operation waits for nobody, so that it starts no later in the played step.
    """
    timeline = played(lower(scenario, fabric, "fused"), scenario, alone=True)
    begins, ends = own_spans(timeline)
    return float((ends - begins)[begins == begins.min()].max())
