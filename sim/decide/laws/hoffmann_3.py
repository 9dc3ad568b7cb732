"""Hoffmann's third approach, a parametric loss, with the constants that stand unrounded in the paper's TeX source."""

from __future__ import annotations

from sim.decide.hoffmann import FITTED, GOPHER_FLOP
from sim.decide.law import LossLaw, Vector
from sim.decide.laws import LAWS

LAWS.register("hoffmann_3")(
    LossLaw(
        title="Hoffmann 2022, approach 3 (parametric loss), unrounded constants",
        source="arXiv 2203.15556, TeX source, as read by epoch-research/analyzing-chinchilla data_analysis.ipynb",
        E=1.69337,
        A=406.401,
        B=410.723,
        alpha=0.33917084,
        beta=0.2849083,
        fitted=FITTED,
        vectors=(Vector("tokens_per_parameter", GOPHER_FLOP, 58.9, 0.001, "the same notebook's constants"),),
        standard_errors={},
        caution="its optimum at Chinchilla's budget has 59 tokens a parameter, three times what its own paper "
        "trained with "
        "(arXiv 2404.10102)",
    )
)
