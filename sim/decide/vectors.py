"""Test vectors of every law: what is published, and what the law gives."""

from __future__ import annotations

from sim.decide.answer import Column, Grid, Value
from sim.decide.laws import LAWS


def vectors_table() -> Grid:
    """One row for each vector."""
    rows: list[tuple[Value, ...]] = []
    for name, law in LAWS.items():
        for vector in law.vectors:
            got = float(getattr(law.optimum(vector.flop), vector.what))
            what = vector.what.replace("_", " ")
            rows.append((name, what, vector.flop, vector.value, got, got / vector.value - 1, vector.rel, vector.source))
    return Grid(
        "law_vectors",
        "Scaling laws against published figures",
        (
            Column("law"),
            Column("figure"),
            Column("at", "FLOP"),
            Column("published", "tokens"),
            Column("the law", "tokens"),
            Column("off", "share"),
            Column("allowed", "share"),
            Column("source"),
        ),
        tuple(rows),
    )
