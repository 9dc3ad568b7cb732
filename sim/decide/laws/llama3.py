"""Llama 3's compute-optimal tokens with the constants in the label of the paper's figure."""

from __future__ import annotations

from sim.decide.law import Fitted, TokenLaw, Vector
from sim.decide.laws import LAWS

LAWS.register("llama3")(
    TokenLaw(
        title="Llama 3 2024, tokens of a budget, constants of the figure",
        source="arXiv 2407.21783, section 3.2.1, label of figure 3",
        A=0.299,
        alpha=0.537,
        fitted=Fitted(parameters=(40e6, 16e9), flop=(6e18, 1e22)),
        vectors=(
            Vector("tokens", 3.8e25, 16.3e12, 0.002, "the law with these constants"),
            Vector("tokens", 3.8e25, 16.55e12, 0.04, "arXiv 2407.21783, section 3.2.1"),
            Vector("parameters", 3.8e25, 402e9, 0.04, "arXiv 2407.21783, section 3.2.1"),
        ),
        standard_errors={},
    )
)
