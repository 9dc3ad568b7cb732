"""The one checker of schedule tables: counts, places, order, and no deadlock."""

from __future__ import annotations

from collections.abc import Iterable

from sim.errors import SimError
from sim.program.table import Action, Cell, Kind, Placement, Table, actions_of, awaited, grid, home

Place = tuple[int, int]

_WHOLE = (Kind.F, Kind.B)
_SPLIT = (Kind.F, Kind.I, Kind.W)


class TableError(SimError):
    """A table that cannot be a pipeline schedule. The message shows the grid with the cells marked."""

    def __init__(self, message: str, table: Table, places: Iterable[Place]) -> None:
        super().__init__(f"{message}\n{grid(table, frozenset(places))}")


def check_table(table: Table, p: int, v: int, m: int, placement: Placement = "loop") -> None:
    """Check a table of p pipeline ranks, v chunks on each and m micro-batches.

    Every (stage, micro-batch) runs F once and either B once or I and W once each, on the rank where the stage lies, in
    that order, and ranks that run their cells in order and wait for their neighbours all come to the end. A pair waits
    for what both of its passes need.

    Raises TableError, with the grid and the offending cells marked.
    """
    if len(table) != p:
        raise TableError(f"the table has {len(table)} ranks (allowed {p})", table, ())
    if placement == "both" and (v != 1 or m % 2):
        raise TableError(
            f"vpp = {v} and {m} micro-batches, but half of them run through each copy of the model (allowed vpp 1 and "
            "an even number of micro-batches)",
            table,
            (),
        )
    _check_actions(table, p * v, m, placement)
    _check_counts(table, p * v, m, placement)
    _check_order(table)
    _check_progress(table, p * v)


def _check_actions(table: Table, num_stages: int, m: int, placement: Placement) -> None:
    seen: set[Action] = set()
    for (rank, position), action in _actions(table):
        problem = _problem_of_action(action, num_stages, m)
        place = home(action, len(table), m, placement)
        if problem is None and place != rank:
            problem = f"{action} runs on rank {rank}, but {_living(action, placement)} lives on rank {place}"
        if problem is None and action in seen:
            problem = f"{action} runs twice"
        if problem is not None:
            raise TableError(f"rank {rank}, position {position}: {problem}", table, [(rank, position)])
        seen.add(action)


def _living(action: Action, placement: Placement) -> str:
    return f"stage {action.stage}" + (f" of micro-batch {action.microbatch}" if placement == "both" else "")


def _problem_of_action(action: Action, num_stages: int, m: int) -> str | None:
    if not 0 <= action.stage < num_stages:
        return f"{action} is of stage {action.stage} (allowed 0 to {num_stages - 1})"
    if not 0 <= action.microbatch < m:
        return f"{action} is of micro-batch {action.microbatch} (allowed 0 to {m - 1})"
    return None


def _check_counts(table: Table, num_stages: int, m: int, placement: Placement) -> None:
    present = {action for row in table for action in actions_of(row)}
    for stage in range(num_stages):
        for mb in range(m):
            kinds = {kind for kind in Kind if Action(stage, kind, mb) in present}
            wanted = _SPLIT if kinds & {Kind.I, Kind.W} else _WHOLE
            if kinds != set(wanted):
                _raise_counts(table, home(Action(stage, Kind.F, mb), len(table), m, placement), stage, mb, kinds)


def _raise_counts(table: Table, rank: int, stage: int, mb: int, kinds: set[Kind]) -> None:
    """A superfluous action is marked where it stands, a missing one at the end of its rank's row."""
    wanted = _SPLIT if kinds & {Kind.I, Kind.W} else _WHOLE
    extra = kinds - set(wanted)
    if extra:
        places = [place for place, action in _actions(table) if action == Action(stage, Kind.B, mb)]
        raise TableError(
            f"{stage}B{mb} runs beside {stage}I{mb} or {stage}W{mb} (allowed B, or I and W)", table, places
        )
    missing = [Action(stage, kind, mb) for kind in wanted if kind not in kinds]
    longer = tuple((*row, *missing) if index == rank else row for index, row in enumerate(table))
    end = len(table[rank])
    message = f"rank {rank} never runs {', '.join(map(str, missing))} (marked at the end of its row)"
    raise TableError(message, longer, [(rank, end + index) for index in range(len(missing))])


def _actions(table: Table) -> Iterable[tuple[Place, Action]]:
    for rank, row in enumerate(table):
        for position, cell in enumerate(row):
            for action in actions_of([cell]):
                yield (rank, position), action


def _check_order(table: Table) -> None:
    """F before B or I, I before W: within a rank, and not in one pair."""
    done: dict[Action, Place] = {}
    before = {Kind.B: Kind.F, Kind.I: Kind.F, Kind.W: Kind.I}
    for place, action in _actions(table):
        if action.kind in before:
            needed = Action(action.stage, before[action.kind], action.microbatch)
            if done.get(needed, place) == place:
                how = "beside" if needed in done else "before"
                message = f"rank {place[0]}, position {place[1]}: {action} runs {how} {needed}"
                raise TableError(message, table, [place])
        done[action] = place


def _check_progress(table: Table, num_stages: int) -> None:
    """Play the table until nobody can go on. What stays is a deadlock: its cells are marked."""
    done: set[Action] = set()
    position = [0] * len(table)
    is_moving = True
    while is_moving:
        is_moving = False
        for rank, row in enumerate(table):
            while position[rank] < len(row) and _is_ready(row[position[rank]], done, num_stages):
                done |= set(actions_of([row[position[rank]]]))
                position[rank] += 1
                is_moving = True
    stuck = [(rank, position[rank]) for rank, row in enumerate(table) if position[rank] < len(row)]
    if stuck:
        waits = [f"{table[rank][at]} for {_missing(table[rank][at], done, num_stages)[0]}" for rank, at in stuck]
        raise TableError(f"deadlock: {', '.join(waits)}", table, stuck)


def _is_ready(cell: Cell, done: set[Action], num_stages: int) -> bool:
    return not _missing(cell, done, num_stages)


def _missing(cell: Cell, done: set[Action], num_stages: int) -> list[Action]:
    """What a cell waits for and does not have: of each pass the first that would do."""
    needs = [awaited(action, num_stages) for action in actions_of([cell])]
    return [needed[0] for needed in needs if needed and not any(each in done for each in needed)]
