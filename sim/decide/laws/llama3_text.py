"""Llama 3's compute-optimal tokens with the rounded constants of the paper's text: a trap, kept to be seen."""

from __future__ import annotations

from sim.decide.law import Fitted, TokenLaw, Vector
from sim.decide.laws import LAWS

LAWS.register("llama3_text")(
    TokenLaw(
        title="Llama 3 2024, tokens of a budget, constants of the text",
        source="arXiv 2407.21783, section 3.2.1",
        A=0.29,
        alpha=0.53,
        fitted=Fitted(parameters=(40e6, 16e9), flop=(6e18, 1e22)),
        vectors=(Vector("tokens", 3.8e25, 10.5e12, 0.01, "the law with these constants"),),
        standard_errors={},
        caution="rounded: gives 10.5T tokens at 3.8e25 FLOP where the paper's own figure has 16.55T; do not "
        "plan with it",
    )
)
