"""Epoch AI's refit with the constants as the paper prints them."""

from __future__ import annotations

from sim.decide.hoffmann import FITTED, GOPHER_FLOP
from sim.decide.law import LossLaw, Vector
from sim.decide.laws import LAWS

LAWS.register("epoch_printed")(
    LossLaw(
        title="Epoch AI (Besiroglu 2024) refit of Hoffmann's approach 3, as printed",
        source="arXiv 2404.10102, equation 4",
        E=1.8172,
        A=482.01,
        B=2085.43,
        alpha=0.3478,
        beta=0.3658,
        fitted=FITTED,
        vectors=(
            Vector("tokens_per_parameter", GOPHER_FLOP, 18.4, 0.003, "the closed form with the printed constants"),
        ),
        standard_errors={"E": 0.0257, "A": 124.52, "B": 1293.28, "alpha": 0.0154, "beta": 0.0206},
    )
)
