"""De Vries' rounding of Hoffmann's third approach, which the inference-aware optimum was published with."""

from __future__ import annotations

from sim.decide.hoffmann import FITTED, GOPHER_FLOP
from sim.decide.law import LossLaw, Vector
from sim.decide.laws import LAWS

LAWS.register("de_vries")(
    LossLaw(
        title="De Vries 2023 constants of Hoffmann's approach 3, as Sardana 2024 uses them",
        source="arXiv 2401.00448, appendix A, footnote 2",
        E=1.69,
        A=406.4,
        B=410.7,
        alpha=0.336,
        beta=0.283,
        fitted=FITTED,
        vectors=(Vector("tokens_per_parameter", GOPHER_FLOP, 55.2, 0.001, "the closed form with these constants"),),
        standard_errors={},
        caution="fitted at up to 100 tokens a parameter; far above that it overstates what more data brings "
        "(arXiv 2401.00448, section 5)",
    )
)
