"""A number in a file has its unit, in the value or in the key (as in dumps, see `test_load`)."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.errors import SimError
from sim.spec.load import load

BASE = "extends: llama2-7b_8xa100_zero3\n"


def scenario(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "numbers.yaml"
    path.write_text(BASE + text)
    return path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gpu: {use: a100-80gb-sxm, memory: 80}\n", r"2:27: gpu\.memory: .*got 80 without a unit.*'80 GiB'"),
        ("gpu: {use: a100-80gb-sxm, peak: {bf16: 312}}\n", r"2:34: gpu\.peak\.bf16: .*without a unit.*TFLOP/s"),
        (
            "topology: {use: dgx-a100, nodes: 1, nvlink: {bandwidth: 300, efficiency: 0.8, latency: 1 us}}\n",
            r"2:46: topology\.nvlink\.bandwidth: .*got 300 without a unit.*'400 Gbit/s'",
        ),
    ],
)
def test_a_number_without_a_unit_is_refused_at_its_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SimError, match=message):
        load(scenario(tmp_path, text))


def test_an_override_needs_a_unit_too(tmp_path: Path) -> None:
    with pytest.raises(SimError, match=r"--set gpu\.memory: .*got 80 without a unit"):
        load(scenario(tmp_path, ""), ["gpu.memory=80"])
