"""Which ranks, flows and links cannot be told apart: one of each is simulated.

Colour refinement on the graph of ranks, flows and links: two ranks are alike when they run the same operations and
belong to flows that are alike; two flows when they are of one type and have members and links that are alike; two
links when they have the same capacity and carry the same loads of flows that are alike. Refined to a stable
partition, progressive filling of the classes gives every member the rate that it would have in the whole.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sim.program.flows import Flows
from sim.spec.topology import Floats, Ints

Colours = NDArray[np.uint64]


@dataclass(frozen=True)
class Folding:
    """Classes of ranks and the quotient of the flows.

    rank_class: class of every rank (ranks,).  representative: first rank of each class.  multiplicity: ranks of each.
    flows: one flow for each class of flows, on one link for each class of links; its members are rank classes.
    flow_class: class of every flow of the whole.
    """

    rank_class: Ints
    representative: Ints
    multiplicity: Ints
    flows: Flows
    flow_class: Ints


def unfolded(num_ranks: int, flows: Flows) -> Folding:
    """Every rank for itself."""
    ranks = np.arange(num_ranks)
    return Folding(ranks, ranks, np.ones(num_ranks, dtype=np.int64), flows, np.arange(len(flows)))


def fold(rank_program: Ints, flows: Flows) -> Folding:
    """Coarsest stable partition that starts from `rank_program`, the number of the program of every rank."""
    rank_class, flow_class, link_class = _refine(rank_program, flows)
    _, representative, multiplicity = np.unique(rank_class, return_index=True, return_counts=True)
    quotient = _quotient(flows, rank_class, flow_class, link_class)
    return Folding(rank_class, representative, multiplicity, quotient, flow_class)


def _mix(*parts: NDArray[np.uint64] | Ints) -> Colours:
    """A hash of each row of the parts (splitmix64); equal rows give equal colours in every run."""
    state = np.zeros(len(parts[0]), dtype=np.uint64)
    for part in parts:
        state = (state ^ part.astype(np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state = state ^ (state >> np.uint64(31))
    return state


def _number(values: Floats) -> Ints:
    """A number as an integer key that ignores rounding in the twelfth digit."""
    is_plain = (values > 0) & (values < np.inf)
    logs = np.round(np.log(np.where(is_plain, values, 1.0)) * 1e11)
    return np.where(is_plain, logs, np.where(values > 0, 2.0**62, -(2.0**62))).astype(np.int64)


def _bag(size: int, index: Ints, colours: Colours) -> Colours:
    """Colour of the bag of `colours` that fall on each of `size` indices: order does not matter, number does."""
    total = np.zeros(size, dtype=np.uint64)
    np.add.at(total, index, colours)
    return total


def _refine(rank_program: Ints, flows: Flows) -> tuple[Ints, Ints, Ints]:
    load = _number(flows.row_load)
    rank = _mix(rank_program)
    flow = _mix(flows.type, _number(flows.latency_s), _number(flows.work_per_byte), _number(flows.limit_per_s))
    link = _mix(_number(flows.link_bytes_per_s), flows.link_tier)
    known = 0
    while True:
        members = _bag(len(flow), flows.member_flow, _mix(rank[flows.member_rank], flows.member_role))
        crossed = _bag(len(flow), flows.row_flow, _mix(link[flows.row_link], load))
        flow = _mix(flow, members, crossed)
        link = _mix(link, _bag(len(link), flows.row_link, _mix(flow[flows.row_flow], load)))
        rank = _mix(rank, _bag(len(rank), flows.member_rank, _mix(flow[flows.member_flow], flows.member_role)))
        found = sum(len(np.unique(colour)) for colour in (rank, flow, link))
        if found == known:
            return _in_order(rank), _in_order(flow), _in_order(link)
        known = found


def _in_order(colours: Colours) -> Ints:
    """Class numbers in the order of their first member."""
    _, first, inverse = np.unique(colours, return_index=True, return_inverse=True)
    order = np.empty(len(first), dtype=np.int64)
    order[np.argsort(first, kind="stable")] = np.arange(len(first))
    result: Ints = order[inverse]
    return result


def _quotient(flows: Flows, rank_class: Ints, flow_class: Ints, link_class: Ints) -> Flows:
    _, flow_first = np.unique(flow_class, return_index=True)
    _, link_first, link_count = np.unique(link_class, return_index=True, return_counts=True)
    num_links = len(link_first)
    # All links of a class carry the same: the loads of all flows of a class that cross one of them. The first tells.
    is_told = np.zeros(len(flows.link_count), dtype=bool)
    is_told[link_first] = True
    rows = is_told[flows.row_link]
    key = flow_class[flows.row_flow[rows]] * num_links + link_class[flows.row_link[rows]]
    cell, at = np.unique(key, return_inverse=True)
    row_flow, row_link = cell // num_links, cell % num_links
    row_load = np.bincount(at, weights=flows.row_load[rows], minlength=len(cell)).astype(np.float64)
    is_told = np.zeros(len(flows), dtype=bool)
    is_told[flow_first] = True
    rows = is_told[flows.member_flow]
    columns = (flow_class[flows.member_flow[rows]], rank_class[flows.member_rank[rows]], flows.member_role[rows])
    member = np.stack(columns, axis=1)
    member = np.unique(member, axis=0)
    return replace(
        flows,
        type=flows.type[flow_first],
        latency_s=flows.latency_s[flow_first],
        work_per_byte=flows.work_per_byte[flow_first],
        limit_per_s=flows.limit_per_s[flow_first],
        row_flow=row_flow,
        row_link=row_link,
        row_load=row_load,
        member_flow=member[:, 0],
        member_rank=member[:, 1],
        member_role=member[:, 2],
        link_bytes_per_s=flows.link_bytes_per_s[link_first],
        link_count=link_count,
        link_tier=flows.link_tier[link_first],
    )
