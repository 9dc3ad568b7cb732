"""Epoch AI's refit of Hoffmann's third approach to the data points read from the paper's figure, unrounded."""

from __future__ import annotations

from sim.decide.hoffmann import FITTED, GOPHER_FLOP
from sim.decide.law import LossLaw, Vector
from sim.decide.laws import LAWS

LAWS.register("epoch")(
    LossLaw(
        title="Epoch AI (Besiroglu 2024) refit of Hoffmann's approach 3, unrounded",
        source="epoch-research/analyzing-chinchilla, printed output of data_analysis.ipynb; arXiv 2404.10102",
        E=1.81686,
        A=482.00572,
        B=2085.4342,
        alpha=0.34781,
        beta=0.36585,
        fitted=FITTED,
        vectors=(
            Vector("tokens_per_parameter", GOPHER_FLOP, 18.3, 0.003, "the same notebook's constants"),
            Vector("parameters", GOPHER_FLOP, 70e9, 0.10, "Chinchilla as trained, arXiv 2203.15556"),
        ),
        standard_errors={"E": 0.02566, "A": 124.52, "B": 1293.28, "alpha": 0.01540, "beta": 0.02060},
    )
)
