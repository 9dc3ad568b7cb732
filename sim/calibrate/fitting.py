"""Constants of a formula fitted to measured times by their relative error."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares

from sim.spec.topology import Floats

SCALE = 0.1
"""Relative error beyond which a row counts by its distance and no longer by the square of it."""


@dataclass(frozen=True)
class Bounds:
    """Where the fit of one constant starts, and between which values it stays."""

    start: float
    low: float
    high: float


@dataclass(frozen=True)
class Prior:
    """What is known of one constant before any row is seen: the logarithm of its ratio to `expected` is of the order of
    `spread`. It counts as much as `share` of all rows, and beyond `spread` hardly more (a Cauchy distribution), so that
    rows that clearly say otherwise win.
    """

    index: int
    expected: float
    spread: float
    share: float


def fit_relative(
    model: Callable[[Floats], Floats],
    measured_s: Floats,
    bounds: Sequence[Bounds],
    *,
    weights: Floats | None = None,
    priors: Sequence[Prior] = (),
) -> Floats:
    """Constants under which `model` (constants -> (rows,), s) is nearest to `measured_s`, (constants,).

    The error of a row is log(model / measured), so that twice and half as long count the same and a short kernel as
    much as a long one; its cost is 2 x SCALE^2 (sqrt(1 + (error / SCALE)^2) - 1), which an outlier enters linearly.
    `weights` say how much each row counts (all 1 unless given).
    Source: soft L1 loss of bundle adjustment (Triggs et al. 2000, doi 10.1007/3-540-44480-7_21), Levenberg-Marquardt
    within bounds as in scipy.optimize.least_squares.
    """
    counts = np.ones_like(measured_s) if weights is None else weights
    assert counts.shape == measured_s.shape, "a weight for every row"
    log_measured = np.log(measured_s)

    def residuals(constants: Floats) -> Floats:
        rows = _robust(np.log(model(constants)) - log_measured, SCALE) * np.sqrt(counts)
        return np.append(rows, [_prior_residual(prior, constants, counts.sum()) for prior in priors])

    start, low, high = (np.array([getattr(bound, name) for bound in bounds]) for name in ("start", "low", "high"))
    found = least_squares(residuals, start, bounds=(low, high), x_scale=np.maximum(np.abs(start), 1e-6 * (high - low)))
    return np.asarray(found.x, dtype=float)


def _prior_residual(prior: Prior, constants: Floats, num_rows: float) -> float:
    """Such that a constant that is `spread` away costs as much as `share` of the rows being SCALE away."""
    distance = np.log(constants[prior.index] / prior.expected) / prior.spread
    return float(np.sqrt(prior.share * num_rows * np.log1p(distance**2)) * SCALE)


def _robust(error: Floats, scale: float) -> Floats:
    """The residual whose square is the soft L1 cost of an error."""
    robust: Floats = np.sign(error) * scale * np.sqrt(2.0 * (np.hypot(1.0, error / scale) - 1.0))
    return robust
