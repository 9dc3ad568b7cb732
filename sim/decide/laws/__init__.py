"""Scaling laws of pretraining loss, one file each, with the constants that its authors state and what it reproduces."""

from __future__ import annotations

from sim.decide.law import Law
from sim.registry import Registry

LAWS: Registry[Law] = Registry("scaling law", "sim.decide.laws")
