"""Waiting for one of several repair crews, and how many spares it takes."""

from __future__ import annotations

from scipy import stats

NEVER = 1e-200
"""Chance that all crews are busy, below which nobody waits."""


def erlang_wait_s(crews: int, arrivals_per_s: float, repair_s: float) -> float:
    """Mean wait before a repair starts, s, for Poisson failures and exponential repairs.

    P(wait) / (c / repair - arrivals), with P(wait) by Erlang's C formula from its B formula's recursion. Source: any
    text on queues, M/M/c.

    Raises ValueError where the crews cannot keep up.

    >>> erlang_wait_s(1, 0.5, 1.0)
    1.0
    """
    load = arrivals_per_s * repair_s
    if load >= crews:
        raise ValueError(f"{crews} crews cannot keep up with {load:g} repairs at a time")
    blocked = 1.0
    for busy in range(1, crews + 1):
        blocked = load * blocked / (busy + load * blocked)
        if blocked < NEVER:
            return 0.0
    waits = blocked / (1 - (load / crews) * (1 - blocked))
    return waits / (crews / repair_s - arrivals_per_s)


def spares_needed(nodes: int, mtbf_s: float, away_s: float, available_frac: float) -> int:
    """Fewest spares with which the job has all its nodes for `available_frac` of the time.

    Nodes away are Poisson with mean nodes away / mtbf (any distribution of the time away, M/G/inf).

    >>> spares_needed(76, 1.9 * 3600 * 76, 2.2 * 3600, 0.999)
    6
    """
    return int(stats.poisson.ppf(available_frac, nodes * away_s / mtbf_s))
