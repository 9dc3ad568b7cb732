"""A plan that is decided in seconds: a small model on one node."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sim.decide.load import Planned, load_plan
from sim.decide.planner import Decided, decide

SMALL = """\
# A small model on one node.
model: {name: small, num_layers: 8, hidden: 1024, num_heads: 8, num_kv_heads: 8, head_dim: 128, ffn_hidden: 4096,
  gated_mlp: true, vocab: 32000, tied_embeddings: false, max_seq_len: 2048}
gpu: h100-sxm
topology: single-node-h100
law: epoch
budget: {tokens_per_parameter: 20}
price: {usd_per_gpu_hour: 2.0, date: 2026-01, source: a test}
deployment: {tokens: 1e11, prompt_share: 0.25, like: {parameters: 0.3e9, tokens: 6e9}}
training: {seq_len: 2048, global_batch: 32}
layouts:
  named: {tp: 2, pp: 2, zero: 2}
data:
  sources:
    web: {tokens: 1e12, share: 0.9}
    books: {tokens: 50e6, share: 0.1, max_epochs: 4}
  long_context: {tokens: 0.2e9, seq_len: 4096, cp: 2, global_batch: 8}
"""

Write = Callable[..., Path]


@pytest.fixture(scope="session")
def small_text() -> str:
    """The file."""
    return SMALL


@pytest.fixture(scope="session")
def decided(tmp_path_factory: pytest.TempPathFactory) -> Decided:
    """The small plan, decided."""
    path = tmp_path_factory.mktemp("plans") / "small.yaml"
    path.write_text(SMALL)
    return decide(load_plan(path))


@pytest.fixture
def planned(tmp_path: Path) -> Callable[..., Planned]:
    """The small plan with texts replaced and values set at dotted paths."""

    def load(*settings: str, replaced: tuple[str, str] = ("", "")) -> Planned:
        path = tmp_path / "plan.yaml"
        assert replaced[0] in SMALL
        path.write_text(SMALL.replace(*replaced) if replaced[0] else SMALL)
        return load_plan(path, settings)

    return load
