"""Closed forms of a job that checkpoints and fails: exact renewal, and the approximations in use.

In all of them M is the mean time between failures, C the time a checkpoint blocks, R the restart after a failure, D the
time until a failed node is replaced, and tau the training between two checkpoints, all in s. Failures are exponential,
and strike during checkpoints and restarts too.
"""

from __future__ import annotations

import math

from scipy.special import lambertw

LONGEST = 700.0
"""Times the MTBF beyond which e^x has no float."""


def segment_time_s(tau_s: float, mtbf_s: float, block_s: float, restart_s: float, down_s: float = 0.0) -> float:
    """Expected time of tau seconds of training and their checkpoint: (M + D) e^(R/M) (e^((tau+C)/M) - 1).

    Source: J. T. Daly, A higher order estimate of the optimum checkpoint interval, FGCS 22 (2006), equation 20, there
    with D in R. Error: none for exponential failures, that cannot strike while a node is replaced (D). Infinite where
    it is too long for a float.
    """
    if (restart_s + tau_s + block_s) / mtbf_s > LONGEST:
        return math.inf
    return (mtbf_s + down_s) * math.exp(restart_s / mtbf_s) * math.expm1((tau_s + block_s) / mtbf_s)


def ettr(tau_s: float, mtbf_s: float, block_s: float, restart_s: float, down_s: float = 0.0) -> float:
    """Share of wall time that is training which is kept: tau over the expected time of a segment.

    With tau = 0 and C = 0 the limit, M / (M + D) e^(-R/M).

    >>> round(ettr(300, 1.846 * 3600, 0, 300), 3)
    0.934
    """
    if tau_s + block_s == 0:
        return mtbf_s / (mtbf_s + down_s) * math.exp(-restart_s / mtbf_s)
    return tau_s / segment_time_s(tau_s, mtbf_s, block_s, restart_s, down_s)


def without_checkpoints(mtbf_s: float, stall_s: float) -> float:
    """Share where a failure costs no training but a stall: the limit of `ettr` for tau -> 0 and C = 0, e^(-R/M)."""
    return math.exp(-stall_s / mtbf_s)


def exact_interval_s(mtbf_s: float, block_s: float) -> float:
    """Training between checkpoints that maximises `ettr`: M (1 + W0(-e^(-1 - C/M))), W0 Lambert's function.

    The restart has no influence on it. Source: the root of the derivative of `segment_time_s` (Daly 2006, section 3).
    """
    return mtbf_s * (1 + float(lambertw(-math.exp(-1 - block_s / mtbf_s)).real))


def young_interval_s(mtbf_s: float, block_s: float) -> float:
    """sqrt(2 C M). Source: J. W. Young, CACM 17 (1974). Error: + 1.5 % at C/M = 0.001, + 17 % at 0.1."""
    return math.sqrt(2 * block_s * mtbf_s)


def daly_interval_s(mtbf_s: float, block_s: float) -> float:
    """sqrt(2CM) (1 + sqrt(C/2M) / 3 + (C/2M) / 9) - C, and M where C >= 2M.

    Source: Daly 2006, equation 37, as in https://github.com/LLNL/scr. Error: below 0.05 % for C/M <= 0.1.
    """
    if block_s >= 2 * mtbf_s:
        return mtbf_s
    ratio = block_s / (2 * mtbf_s)
    return math.sqrt(2 * block_s * mtbf_s) * (1 + math.sqrt(ratio) / 3 + ratio / 9) - block_s


def meta_ettr(tau_s: float, mtbf_s: float, block_s: float, restart_s: float, queue_s: float = 0.0) -> float:
    """Linear form (1 - (R + queue + tau/2) / M) / (1 + C/tau).

    Source: arXiv 2410.21680, section 3. Error: below 1 % while less than a tenth is lost; beyond about 30 % of loss it
    is far too low, and below 0 in the end.
    """
    return (1 - (restart_s + queue_s + tau_s / 2) / mtbf_s) / (1 + block_s / tau_s)


RULES = {
    "exact": exact_interval_s,
    "young": young_interval_s,
    "daly": daly_interval_s,
    "meta": young_interval_s,
}
"""Interval by rule; the linear form gives the same optimum as Young's (arXiv 2410.21680: sqrt(2 w / (N r_f)))."""
