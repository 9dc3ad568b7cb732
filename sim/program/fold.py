"""Which ranks, flows and links cannot be told apart: one of each is simulated.

Colour refinement on the graph of ranks, flows and links: two ranks are alike when they run the same operations and
belong to flows that are alike; two flows when they are of one type and have members and links that are alike; two
links when they have the same capacity and carry the same loads of flows that are alike. Refined to a stable
partition, progressive filling of the classes gives every member the rate that it would have in the whole.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from sim.program.flows import Flows
from sim.spec.colours import Colours, Partition, bags, number, partition, refined, salts, salts_of_numbers
from sim.spec.topology import Ints


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
    rank, flow, link = _refine(rank_program, flows)
    quotient = _quotient(flows, rank, flow, link)
    return Folding(rank.number, rank.first, rank.counts(), quotient, flow.number)


def _refine(rank_program: Ints, flows: Flows) -> tuple[Partition, Partition, Partition]:
    """Ranks, flows and links in classes. Each step makes one of them stable against another, until nothing splits.

    The order of the steps does not change what comes out; ranks and flows come first because members are far fewer
    than rows.
    """
    load, role = salts_of_numbers(flows.row_load), salts(flows.member_role)
    rank = partition(rank_program)
    flow = partition(flows.type, number(flows.latency_s), number(flows.work_per_byte), number(flows.limit_per_s))
    link = partition(number(flows.link_bytes_per_s), flows.link_tier)
    while True:
        rank, flow = _settle_members(rank, flow, flows, role)
        link = refined(link, bags(len(link.number), flows.row_link, flow, flows.row_flow, load))
        crossing = refined(flow, bags(len(flows), flows.row_flow, link, flows.row_link, load))
        if len(crossing) == len(flow):
            return rank, flow, link
        flow = crossing


def _settle_members(rank: Partition, flow: Partition, flows: Flows, role: Colours) -> tuple[Partition, Partition]:
    """Ranks and flows, stable against each other."""
    while True:
        flow = refined(flow, bags(len(flows), flows.member_flow, rank, flows.member_rank, role))
        joined = refined(rank, bags(len(rank.number), flows.member_rank, flow, flows.member_flow, role))
        if len(joined) == len(rank):
            return rank, flow
        rank = joined


def _quotient(flows: Flows, rank: Partition, flow: Partition, link: Partition) -> Flows:
    num_links = len(link)
    # All links of a class carry the same: the loads of all flows of a class that cross one of them. The first tells.
    is_told = np.zeros(len(link.number), dtype=bool)
    is_told[link.first] = True
    rows = np.flatnonzero(is_told[flows.row_link])
    key = flow.number[flows.row_flow[rows]] * num_links + link.number[flows.row_link[rows]]
    cell, at = np.unique(key, return_inverse=True)
    row_flow, row_link = cell // num_links, cell % num_links
    row_load = np.bincount(at, weights=flows.row_load[rows], minlength=len(cell)).astype(np.float64)
    is_told = np.zeros(len(flows), dtype=bool)
    is_told[flow.first] = True
    rows = np.flatnonzero(is_told[flows.member_flow])
    columns = (flow.number[flows.member_flow[rows]], rank.number[flows.member_rank[rows]], flows.member_role[rows])
    member = partition(*columns).first
    member = member[np.lexsort([column[member] for column in reversed(columns)])]
    return replace(
        flows,
        type=flows.type[flow.first],
        latency_s=flows.latency_s[flow.first],
        work_per_byte=flows.work_per_byte[flow.first],
        limit_per_s=flows.limit_per_s[flow.first],
        row_flow=row_flow,
        row_link=row_link,
        row_load=row_load,
        member_flow=columns[0][member],
        member_rank=columns[1][member],
        member_role=columns[2][member],
        link_bytes_per_s=flows.link_bytes_per_s[link.first],
        link_count=link.counts(),
        link_tier=flows.link_tier[link.first],
    )
