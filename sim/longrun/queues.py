"""Waiting for one of several repair crews: Erlang's formula and the machine-repair model."""

from __future__ import annotations

import numpy as np


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
    waits = blocked / (1 - (load / crews) * (1 - blocked))
    return waits / (crews / repair_s - arrivals_per_s)


def machines_down(machines: int, crews: int, mtbf_s: float, repair_s: float) -> float:
    """Mean number of `machines` that are in repair or wait for it; each fails once in `mtbf_s` while it works.

    Stationary state of the birth-death chain with rates (N - k) / mtbf up and min(k, c) / repair down. Source: the
    machine-repair model, M/M/c//N.

    >>> round(machines_down(1, 1, 9.0, 1.0), 12)
    0.1
    """
    down = np.arange(1, machines + 1)
    births = np.log((machines - down + 1) / mtbf_s)
    deaths = np.log(np.minimum(down, crews) / repair_s)
    logs = np.concatenate(([0.0], np.cumsum(births - deaths)))
    weights = np.exp(logs - logs.max())
    return float((np.arange(machines + 1) * weights).sum() / weights.sum())


def spares_needed(nodes: int, mtbf_s: float, away_s: float, available_frac: float) -> int:
    """Fewest spares with which the job has all its nodes for `available_frac` of the time.

    Nodes away are Poisson with mean nodes away / mtbf (any distribution of the time away, M/G/inf).

    >>> spares_needed(76, 1.9 * 3600 * 76, 2.2 * 3600, 0.999)
    5
    """
    mean = nodes * away_s / mtbf_s
    term = cumulative = float(np.exp(-mean))
    spares = 0
    while cumulative < available_frac:
        spares += 1
        term *= mean / spares
        cumulative += term
    return spares
