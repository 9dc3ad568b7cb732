"""Data-mixing laws that the user fitted: losses of a mix, and the mix with the smallest one."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, minimize

from sim.decide.plan import MixingLaw
from sim.errors import SimError

Floats = NDArray[np.float64]


def losses(law: MixingLaw, shares: Sequence[float]) -> list[float]:
    """Loss of each domain: c_i + k_i exp(sum_j t_ij r_j) (arXiv 2403.16952, equation 7)."""
    return [
        c + k * math.exp(sum(t * share for t, share in zip(row, shares, strict=True)))
        for c, k, row in zip(law.c, law.k, law.t, strict=True)
    ]


def best_mix(law: MixingLaw, limits: Sequence[float]) -> list[float]:
    """Shares with the smallest weighted loss; no source above its limit.

    The loss is convex in the shares for positive k, so that the minimum is the only one. Raises SimError where the
    limits
    leave no mix.
    """
    if sum(limits) < 1:
        raise SimError(
            f"data.sources: their epochs allow {sum(limits):.1%} of the tokens in all, allowed 100 % or more"
        )
    weights = np.array(law.weights or [1 / len(law.domains)] * len(law.domains))
    k, t = np.array(law.k), np.array(law.t)

    def loss(shares: Floats) -> float:
        return float(weights @ (k * np.exp(t @ shares)))

    highest = np.minimum(np.array(limits, dtype=np.float64), 1.0)
    found = minimize(
        loss,
        highest / highest.sum(),
        method="SLSQP",
        bounds=Bounds(np.zeros_like(highest), highest),
        constraints=LinearConstraint(np.ones((1, len(highest))), 1.0, 1.0),
        options={"ftol": 1e-12, "maxiter": 500},
    )
    shares = np.clip(np.asarray(found.x), 0.0, highest)
    return [float(share) for share in shares / shares.sum()]
