"""A row that states all, and the same with other cells."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sim.validation.case import Case, Maker
from sim.validation.published import COLUMNS, PublishedRun

DENSE = {
    "case_id": "mine", "source": "somebody", "gpu": "h100-sxm-80gb", "num_gpus": "16", "gpus_per_node": "8",
    "network": "8x400Gb/s NDR IB per node", "model": "Llama 3.1 8B", "kind": "dense", "layers": "32",
    "hidden": "4096", "heads": "32", "kv_heads": "8", "ffn_hidden": "14336", "gated_mlp": "1", "vocab": "128256",
    "tied_embeddings": "0", "seq_len": "4096", "TP": "2", "PP": "2", "CP": "1", "shard": "zero1",
    "sequence_parallel": "1", "micro_batch": "1", "global_batch": "16", "precision": "bf16", "recompute": "none",
    "schedule": "1f1b", "framework": "Megatron-Core", "year": "2024", "step_time_derived_s": "2.5", "tier": "A",
}  # fmt: skip


@pytest.fixture(scope="session")
def maker() -> Maker:
    """The rules that ship, and what scenarios name, read once."""
    return Maker()


@pytest.fixture(scope="session")
def run_with() -> Callable[..., PublishedRun]:
    """The row with some of its cells replaced."""
    return lambda **cells: PublishedRun("mine.csv", 2, dict.fromkeys(COLUMNS, "") | DENSE | cells)


@pytest.fixture(scope="session")
def case_with(maker: Maker, run_with: Callable[..., PublishedRun]) -> Callable[..., Case]:
    """Its case."""
    return lambda **cells: maker.case(run_with(**cells))
