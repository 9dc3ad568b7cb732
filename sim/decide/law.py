"""What a scaling law is: compute, parameters and tokens of the best model, and for those that predict it the loss."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, final

FLOP_PER_PARAMETER_TOKEN = 6.0
"""Of training: 2 forward and 4 backward for each weight and token (arXiv 2001.08361, section 2.1)."""

FLOP_PER_PARAMETER_SERVED = 2.0
"""Of inference: the forward pass alone (the same section)."""


@dataclass(frozen=True)
class Optimum:
    """The best model of a compute budget: `flop` = 6 x `parameters` x `tokens`."""

    parameters: float
    tokens: float

    @property
    def flop(self) -> float:
        """Of training."""
        return FLOP_PER_PARAMETER_TOKEN * self.parameters * self.tokens

    @property
    def tokens_per_parameter(self) -> float:
        """D / N."""
        return self.tokens / self.parameters


@dataclass(frozen=True)
class Fitted:
    """Where a law was fitted. Outside, it is an extrapolation.

    parameters, tokens_per_parameter, flop: smallest and largest of the runs; None where the source prints none.
    """

    parameters: tuple[float, float] | None = None
    tokens_per_parameter: tuple[float, float] | None = None
    flop: tuple[float, float] | None = None

    def outside(self, at: Optimum) -> list[str]:
        """In words, every way in which the point lies outside."""
        points = (
            ("parameters", at.parameters, self.parameters),
            ("tokens per parameter", at.tokens_per_parameter, self.tokens_per_parameter),
            ("training FLOP", at.flop, self.flop),
        )
        return [
            f"{name} {value:.3g}, fitted from {limits[0]:.3g} to {limits[1]:.3g}"
            for name, value, limits in points
            if limits is not None and not limits[0] <= value <= limits[1]
        ]


@dataclass(frozen=True)
class Vector:
    """A published figure and what the law must give: `what` at `flop` is `value` within `rel` (relative)."""

    what: str
    flop: float
    value: float
    rel: float
    source: str


class Law(Protocol):
    """One scaling law."""

    @property
    def title(self) -> str:
        """Authors, year and which constants."""
        ...

    @property
    def source(self) -> str:
        """Where the constants are printed."""
        ...

    @property
    def caution(self) -> str:
        """What its constants are known to get wrong; empty where nothing is."""
        ...

    @property
    def constants(self) -> Mapping[str, float]:
        """By the source's own letters."""
        ...

    @property
    def standard_errors(self) -> Mapping[str, float]:
        """Of those constants for which the source prints one."""
        ...

    @property
    def fitted(self) -> Fitted:
        """Where it was fitted."""
        ...

    @property
    def vectors(self) -> tuple[Vector, ...]:
        """Published figures that it must reproduce."""
        ...

    def optimum(self, flop: float) -> Optimum:
        """The best model that `flop` can train."""
        ...

    def formula(self) -> str:
        """How, in symbols."""
        ...


@final
@dataclass(frozen=True)
class LossLaw:
    """L(N, D) = E + A / N^alpha + B / D^beta, nats per token (arXiv 2203.15556, equation 2 and appendix D.3).

    N counts all parameters, embeddings too, and D tokens that are seen once.
    """

    title: str
    source: str
    E: float
    A: float
    B: float
    alpha: float
    beta: float
    fitted: Fitted
    vectors: tuple[Vector, ...]
    standard_errors: Mapping[str, float]
    caution: str = ""

    @property
    def constants(self) -> Mapping[str, float]:
        """The five."""
        return {"E": self.E, "A": self.A, "B": self.B, "alpha": self.alpha, "beta": self.beta}

    def formula(self) -> str:
        """The optimum's closed form."""
        return "G = (alpha A / (beta B))^(1 / (alpha + beta)); N* = G (C / 6)^(beta / (alpha + beta)); D* = C / (6 N*)"

    def loss(self, parameters: float, tokens: float) -> float:
        """Nats per token."""
        return float(self.E + self.A / parameters**self.alpha + self.B / tokens**self.beta)

    def optimum(self, flop: float) -> Optimum:
        """The smallest loss under 6 N D = flop (arXiv 2203.15556, equation 4).

        >>> from sim.decide.laws import LAWS
        >>> round(LAWS["epoch_printed"].optimum(5.76e23).tokens_per_parameter, 1)
        18.4
        """
        both = self.alpha + self.beta
        scale = (self.alpha * self.A / (self.beta * self.B)) ** (1 / both)
        parameters = scale * (flop / FLOP_PER_PARAMETER_TOKEN) ** (self.beta / both)
        return Optimum(parameters, flop / FLOP_PER_PARAMETER_TOKEN / parameters)

    def tokens_for(self, loss: float, parameters: float) -> float:
        """Tokens with which a model of this size has the loss; infinity where it never gets there."""
        rest = loss - self.E - self.A / parameters**self.alpha
        return math.inf if rest <= 0 else float((self.B / rest) ** (1 / self.beta))

    def least_parameters(self, loss: float) -> float:
        """Size below which no number of tokens gives the loss; infinity for a loss that no model has."""
        return math.inf if loss <= self.E else float((self.A / (loss - self.E)) ** (1 / self.alpha))

    def cheapest_for(self, loss: float) -> Optimum:
        """The smallest compute with the loss: where alpha A / N^alpha = beta B / D^beta.

        Of loss - E, A / N^alpha takes the share beta / (alpha + beta). Source: the optimum above, inverted.
        """
        share = (loss - self.E) * self.beta / (self.alpha + self.beta)
        parameters = (self.A / share) ** (1 / self.alpha)
        return Optimum(parameters, self.tokens_for(loss, parameters))


@final
@dataclass(frozen=True)
class TokenLaw:
    """D*(C) = A C^alpha: best tokens of a budget; the law predicts no loss (arXiv 2407.21783, section 3.2.1)."""

    title: str
    source: str
    A: float
    alpha: float
    fitted: Fitted
    vectors: tuple[Vector, ...]
    standard_errors: Mapping[str, float]
    caution: str = ""

    @property
    def constants(self) -> Mapping[str, float]:
        """The two."""
        return {"A": self.A, "alpha": self.alpha}

    def formula(self) -> str:
        """The law itself."""
        return "D* = A C^alpha; N* = C / (6 D*)"

    def optimum(self, flop: float) -> Optimum:
        """Tokens by the law, parameters from 6 N D = flop."""
        tokens = self.A * flop**self.alpha
        return Optimum(flop / FLOP_PER_PARAMETER_TOKEN / tokens, tokens)


@final
@dataclass(frozen=True)
class FrontierLaw:
    """N*(C) proportional to C^a through a printed point: Hoffmann's approaches 1 and 2 (arXiv 2203.15556, table 2)."""

    title: str
    source: str
    a: float
    parameters: float
    flop: float
    fitted: Fitted
    vectors: tuple[Vector, ...]
    standard_errors: Mapping[str, float]
    caution: str = ""

    @property
    def constants(self) -> Mapping[str, float]:
        """The exponent and the point that the line goes through."""
        return {"a": self.a, "N0": self.parameters, "C0": self.flop}

    def formula(self) -> str:
        """The line."""
        return "N* = N0 (C / C0)^a; D* = C / (6 N*)"

    def optimum(self, flop: float) -> Optimum:
        """On the line."""
        parameters = self.parameters * (flop / self.flop) ** self.a
        return Optimum(parameters, flop / FLOP_PER_PARAMETER_TOKEN / parameters)
