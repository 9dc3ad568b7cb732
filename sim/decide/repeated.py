"""What repeated tokens are worth: the data-constrained law of Muennighoff 2023, and its best model of a budget."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from scipy.optimize import minimize_scalar

from sim.decide.law import FLOP_PER_PARAMETER_TOKEN, Optimum

SOURCE = "arXiv 2305.16264, equations 5 and 6; constants of huggingface/datablations README"

REPEATED_TOKENS: Final = 15.387756
"""R_D*: repetitions after which the value of another one has fallen to 1 / e."""
REPEATED_PARAMETERS: Final = 5.309743
"""R_N*: the same for parameters beyond what the unique tokens can use."""

E: Final = 1.8691436784054858
A: Final = 520.8249516599187
B: Final = 1487.716093782861
ALPHA: Final = 0.3526596
BETA: Final = 0.3526596
SCALE: Final = ((ALPHA * A) / (BETA * B)) ** (1 / (ALPHA + BETA))
"""G of the optimum N* = G (C / 6)^(beta / (alpha + beta))."""


def value_of_epochs(epochs: float) -> float:
    """Effective tokens of `epochs` passes over the tokens of one: D' / D; 1 for up to one pass.

    D' = U + U R* (1 - exp(-R / R*)), R = epochs - 1 (arXiv 2305.16264, equation 5).

    >>> [round(value_of_epochs(epochs), 2) for epochs in (1, 4, 16, 40)]
    [1.0, 0.93, 0.66, 0.38]
    """
    return 1.0 if epochs <= 1 else effective_tokens(1.0, epochs) / epochs


def effective_tokens(unique_tokens: float, epochs: float) -> float:
    """Fresh tokens that `epochs` passes over `unique_tokens` are worth."""
    if epochs <= 1:
        return unique_tokens * epochs
    return unique_tokens * (1 + REPEATED_TOKENS * (1 - math.exp(-(epochs - 1) / REPEATED_TOKENS)))


def marginal_value(epochs: float) -> float:
    """What the last of `epochs` passes adds for each of its tokens, as a share of a fresh token."""
    return 1.0 if epochs <= 1 else math.exp(-(epochs - 1) / REPEATED_TOKENS)


def effective_parameters(parameters: float, unique_tokens: float) -> float:
    """Parameters that count: those beyond what is optimal for the unique tokens decay (equation 6).

    U_N = min(N, (U_D G)^(beta / alpha) G): the optimal size for the unique tokens seen once.
    """
    base = float(min(parameters, (unique_tokens * SCALE) ** (BETA / ALPHA) * SCALE))
    excess = max(parameters / base - 1, 0.0)
    return base * (1 + REPEATED_PARAMETERS * (1 - math.exp(-excess / REPEATED_PARAMETERS)))


def loss(parameters: float, tokens: float, unique_tokens: float) -> float:
    """Nats per token of C4 after `tokens` of which `unique_tokens` are different.

    >>> loss(6.34e9, 242e9, 25e9)
    2.2256440889984477
    """
    unique = min(tokens, unique_tokens)
    fresh = effective_tokens(unique, tokens / unique)
    return float(E + A / effective_parameters(parameters, unique) ** ALPHA + B / fresh**BETA)


def optimum(flop: float, unique_tokens: float) -> Optimum:
    """The best model of a budget when only `unique_tokens` are different: a search over sizes in log space.

    Error: within 1e-6 of the minimum of the law's loss, which is flat; sizes agree to 0.1 % with the README's grid.
    """

    def loss_at(log_parameters: float) -> float:
        parameters = math.exp(log_parameters)
        return loss(parameters, flop / FLOP_PER_PARAMETER_TOKEN / parameters, unique_tokens)

    grid = np.linspace(math.log(1e6), math.log(1e14), 400)
    best = int(np.argmin([loss_at(value) for value in grid]))
    bounds = (float(grid[max(best - 1, 0)]), float(grid[min(best + 1, len(grid) - 1)]))
    found = minimize_scalar(loss_at, bounds=bounds, method="bounded", options={"xatol": 1e-9})
    parameters = math.exp(float(found.x))
    return Optimum(parameters, flop / FLOP_PER_PARAMETER_TOKEN / parameters)
