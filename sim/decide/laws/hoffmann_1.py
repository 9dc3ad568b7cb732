"""Hoffmann's first approach: for each compute, the size with the smallest loss among all training curves."""

from __future__ import annotations

from sim.decide.hoffmann import FITTED, GOPHER_FLOP
from sim.decide.law import FrontierLaw, Vector
from sim.decide.laws import LAWS

LAWS.register("hoffmann_1")(
    FrontierLaw(
        title="Hoffmann 2022, approach 1 (minimum over training curves)",
        source="arXiv 2203.15556, table 2 (a = 0.50) and table 3 (67B at 5.76e23 FLOP)",
        a=0.50,
        parameters=67e9,
        flop=GOPHER_FLOP,
        fitted=FITTED,
        vectors=(
            Vector("parameters", 1.92e19, 0.4e9, 0.05, "arXiv 2203.15556, table 3"),
            Vector("parameters", 1.23e22, 10e9, 0.05, "arXiv 2203.15556, table 3"),
            Vector("tokens", GOPHER_FLOP, 1.5e12, 0.06, "arXiv 2203.15556, table 3"),
        ),
        standard_errors={},
        caution="the printed exponent is rounded to two digits; table 3 itself drifts from the line by 5 % in N "
        "over six "
        "orders of compute",
    )
)
