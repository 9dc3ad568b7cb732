"""Training and serving together: the size that is cheapest over a model's life, in FLOP and in money."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from scipy.optimize import minimize_scalar

from sim.decide.law import FLOP_PER_PARAMETER_SERVED, LossLaw, Optimum

SOURCE = "arXiv 2401.00448 (Sardana 2024), equations 2 and 4"


@dataclass(frozen=True)
class Demand:
    """What is asked of the model over its life, tokens.

    prompt_share: of the tokens that are read, the others are written.
    """

    tokens: float
    prompt_share: float

    @property
    def prompt_tokens(self) -> float:
        """Read: all at once, which keeps the GPU busy."""
        return self.tokens * self.prompt_share

    @property
    def output_tokens(self) -> float:
        """Written one at a time, which is bound by memory."""
        return self.tokens - self.prompt_tokens


@dataclass(frozen=True)
class Prices:
    """Dollars of a FLOP: $ per GPU-hour over what a GPU does in it (peak x utilisation), for each kind of work."""

    training_usd_per_flop: float
    prompt_usd_per_flop: float
    output_usd_per_flop: float


def usd_per_flop(usd_per_gpu_hour: float, peak_flop_per_s: float, utilisation: float) -> float:
    """Dollars of a FLOP that is done."""
    return usd_per_gpu_hour / (3600 * peak_flop_per_s * utilisation)


def life_flop(at: Optimum, demand: Demand) -> float:
    """Training and serving: 6 N D + 2 N D_inf (arXiv 2401.00448, equation 2)."""
    return at.flop + FLOP_PER_PARAMETER_SERVED * at.parameters * demand.tokens


def life_usd(at: Optimum, demand: Demand, prices: Prices) -> float:
    """Training, reading and writing, each at its price (arXiv 2401.00448, equation 4)."""
    served = FLOP_PER_PARAMETER_SERVED * at.parameters
    prompt_usd = served * demand.prompt_tokens * prices.prompt_usd_per_flop
    output_usd = served * demand.output_tokens * prices.output_usd_per_flop
    return at.flop * prices.training_usd_per_flop + prompt_usd + output_usd


def cheapest(law: LossLaw, loss: float, cost: Callable[[Optimum], float], largest: float = math.inf) -> Optimum:
    """The size, and its tokens, that has the loss at the smallest `cost`; no larger than `largest`.

    Raises ValueError where no model of that size has the loss. Error: 1e-8 in the logarithm of the size.
    """
    least = law.least_parameters(loss)
    if least >= largest:
        raise ValueError(
            f"a loss of {loss:.4f} needs more than {least:.3g} parameters, whatever the data, but at most "
            f"{largest:.3g} fit"
        )
    highest = min(largest, 100 * law.cheapest_for(loss).parameters)

    def at(log_parameters: float) -> Optimum:
        parameters = math.exp(log_parameters)
        return Optimum(parameters, law.tokens_for(loss, parameters))

    # Cost has one minimum: training's falls, then rises with the size, serving's rises all the way.
    bounds = (math.log(least) + 1e-6, math.log(highest))
    found = minimize_scalar(
        lambda value: math.log(cost(at(value))), bounds=bounds, method="bounded", options={"xatol": 1e-8}
    )
    return at(float(found.x))


def wins_from(larger: Optimum, smaller: Optimum) -> float:
    """Tokens served at which the smaller of two models with one loss has paid for its longer training, in FLOP.

    6 (N_s D_s - N_l D_l) = 2 (N_l - N_s) D_inf.
    """
    saved = FLOP_PER_PARAMETER_SERVED * (larger.parameters - smaller.parameters)
    return (smaller.flop - larger.flop) / saved if saved > 0 else math.inf


def wins_from_usd(larger: Optimum, smaller: Optimum, prompt_share: float, prices: Prices) -> float:
    """The same in money."""
    token_usd = prompt_share * prices.prompt_usd_per_flop + (1 - prompt_share) * prices.output_usd_per_flop
    saved = FLOP_PER_PARAMETER_SERVED * (larger.parameters - smaller.parameters) * token_usd
    return (smaller.flop - larger.flop) * prices.training_usd_per_flop / saved if saved > 0 else math.inf
