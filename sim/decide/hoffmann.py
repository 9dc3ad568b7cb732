"""What Hoffmann's approaches have in common: the runs that they were fitted to, and the budget of their example."""

from __future__ import annotations

from sim.decide.law import Fitted

GOPHER_FLOP = 5.76e23
"""Training compute of Gopher, which Chinchilla was trained with (arXiv 2203.15556, table 3)."""

FITTED = Fitted(parameters=(70e6, 16e9), tokens_per_parameter=(0.0, 100.0), flop=(6e18, 3e21))
"""Over 400 runs of 70M to 16B parameters; IsoFLOP budgets of 6e18 to 3e21 (arXiv 2203.15556, abstract and section 3.2).
Up to about 100 tokens a parameter; laws fitted there overstate what more data brings (arXiv 2401.00448, section 5)."""
