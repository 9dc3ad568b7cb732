"""Hoffmann's third approach with the rounded constants of the paper's body: a trap, kept to be seen."""

from __future__ import annotations

from sim.decide.hoffmann import FITTED, GOPHER_FLOP
from sim.decide.law import LossLaw, Vector
from sim.decide.laws import LAWS

LAWS.register("hoffmann_3_printed")(
    LossLaw(
        title="Hoffmann 2022, approach 3 (parametric loss), as printed",
        source="arXiv 2203.15556, appendix D.3, equation 10",
        E=1.69,
        A=406.4,
        B=410.7,
        alpha=0.34,
        beta=0.28,
        fitted=FITTED,
        vectors=(
            Vector("tokens_per_parameter", GOPHER_FLOP, 92.6, 0.001, "the closed form with the printed constants"),
        ),
        standard_errors={},
        caution="rounding beta to 0.28 moves the optimum from 59 to 93 tokens a parameter; do not plan with it",
    )
)
