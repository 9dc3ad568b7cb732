"""Hoffmann's second approach: parabolas through the final losses of nine compute budgets (IsoFLOP profiles)."""

from __future__ import annotations

from sim.decide.hoffmann import FITTED, GOPHER_FLOP
from sim.decide.law import FrontierLaw, Vector
from sim.decide.laws import LAWS

LAWS.register("hoffmann_2")(
    FrontierLaw(
        title="Hoffmann 2022, approach 2 (IsoFLOP profiles)",
        source="arXiv 2203.15556, table 2 (a = 0.49) and figure 3 (63B at Gopher's compute)",
        a=0.49,
        parameters=63e9,
        flop=GOPHER_FLOP,
        fitted=FITTED,
        vectors=(Vector("tokens", GOPHER_FLOP, 1.4e12, 0.10, "arXiv 2203.15556, figure 3"),),
        standard_errors={},
        caution="figure 3's 63B and 1.4T are 5.3e23 FLOP by 6 N D, 8 % below the 5.76e23 that they are printed for",
    )
)
