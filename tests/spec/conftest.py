"""A small scenario that is valid, written out in full, for tests that break it."""

import pytest

SCENARIO = """\
# Does it load?
model:
  name: tiny
  num_layers: 4
  hidden: 64
  num_heads: 8
  num_kv_heads: 4
  head_dim: 8
  ffn_hidden: 128
  gated_mlp: true
  vocab: 1000
  tied_embeddings: false
  max_seq_len: 128
gpu: h100-sxm
topology:
  fabric: single_node
  name: box
  gpus_per_node: 8
  nvlink: {bandwidth: 450 GB/s, efficiency: 0.8, latency: 1 us}
  sources: {gpus_per_node: x, nvlink.bandwidth: x, nvlink.efficiency: x, nvlink.latency: x}
layout:
  tp: 2
  dp: 2
  pp: 2
  schedule: 1f1b
training:
  seq_len: 128
  global_batch: 8
  micro_batch: 1
  precision: bf16
  recompute: none
"""


@pytest.fixture
def scenario_text():
    return SCENARIO


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder with `base.yaml`, a valid scenario of 8 GPUs."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.yaml").write_text(SCENARIO)
    return tmp_path
