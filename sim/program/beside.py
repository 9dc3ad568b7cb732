"""Programs of several jobs as one: each on ranks and streams of its own, their flows on the links of one fabric."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sim.program.flows import Flows
from sim.program.program import Program
from sim.spec.topology import Ints


@dataclass(frozen=True)
class Beside:
    """A program of several jobs, and where the columns of each begin and end in it: job i has slots
    slots[i] .. slots[i + 1], and so on."""

    program: Program
    slots: tuple[int, ...]
    payloads: tuple[int, ...]
    flows: tuple[int, ...]


def beside(programs: Sequence[Program]) -> Beside:
    """All programs in one, which start together. They are unfolded, and their flows are on the same links."""
    first = programs[0]
    assert all(program.fidelity == "full" for program in programs)
    assert all((program.flows.link_bytes_per_s == first.flows.link_bytes_per_s).all() for program in programs)
    slots = _cuts([len(program.node) for program in programs])
    payloads = _cuts([len(program.payloads) for program in programs])
    ranks = _cuts([len(program.ranks) for program in programs])
    flows = _cuts([len(program.flows) for program in programs])

    def joined(column: str, cuts: tuple[int, ...]) -> Ints:
        """A column of numbers, counted on from program to program; -1 stays."""
        return _counted_on([getattr(program, column) for program in programs], cuts)

    whole = replace(
        first,
        payloads=tuple(payload for program in programs for payload in program.payloads),
        ranks=tuple(
            replace(rank, first=rank.first + start, end=rank.end + start)
            for program, start in zip(programs, slots, strict=False)
            for rank in program.ranks
        ),
        payload=joined("payload", payloads),
        stream=np.concatenate([program.stream for program in programs]),
        rank=joined("rank", ranks),
        block=np.concatenate([program.block for program in programs]),
        node=joined("node", slots),
        flow=joined("flow", flows),
        source=joined("source", slots),
        target=joined("target", slots),
        receiver=joined("receiver", ranks),
        is_beside=np.concatenate([program.is_beside for program in programs]),
        pace=np.concatenate([program.pace for program in programs]),
        is_irregular=any(program.is_irregular for program in programs),
        flows=_flows([program.flows for program in programs], flows, ranks),
    )
    return Beside(whole, slots, payloads, flows)


def _flows(parts: Sequence[Flows], flows: tuple[int, ...], ranks: tuple[int, ...]) -> Flows:
    types = _cuts([len(part.types) for part in parts])
    return replace(
        parts[0],
        types=tuple(kind for part in parts for kind in part.types),
        type=_counted_on([part.type for part in parts], types),
        latency_s=np.concatenate([part.latency_s for part in parts]),
        work_per_byte=np.concatenate([part.work_per_byte for part in parts]),
        limit_per_s=np.concatenate([part.limit_per_s for part in parts]),
        row_flow=_counted_on([part.row_flow for part in parts], flows),
        row_link=np.concatenate([part.row_link for part in parts]),
        row_load=np.concatenate([part.row_load for part in parts]),
        member_flow=_counted_on([part.member_flow for part in parts], flows),
        member_rank=_counted_on([part.member_rank for part in parts], ranks),
        member_role=np.concatenate([part.member_role for part in parts]),
    )


def _cuts(sizes: list[int]) -> tuple[int, ...]:
    """Where each part begins, and the end of the last.

    >>> _cuts([2, 3])
    (0, 2, 5)
    """
    return tuple(np.cumsum([0, *sizes]).tolist())


def _counted_on(columns: list[Ints], cuts: tuple[int, ...]) -> Ints:
    """The columns one after the other, each counted from its cut.

    >>> _counted_on([np.array([0, 1]), np.array([0, -1])], (0, 2, 3)).tolist()
    [0, 1, 2, -1]
    """
    parts = [np.where(column < 0, column, column + cut) for column, cut in zip(columns, cuts, strict=False)]
    joined: Ints = np.concatenate(parts)
    return joined
