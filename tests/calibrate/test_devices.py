from __future__ import annotations

import pytest

from sim.calibrate.devices import device
from sim.spec.find import names


@pytest.mark.parametrize("name", names("gpus"))
def test_a_name_of_the_catalogue_is_itself(name: str) -> None:
    found = device(name)
    assert found is not None
    assert (found.gpu, found.note) == (name, "")


@pytest.mark.parametrize(
    ("text", "gpu"),
    [
        ("NVIDIA H100 80GB HBM3", "h100-sxm"),
        ("H100 SXM5 (clock fixed 1830MHz)", "h100-sxm"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("h100_sxm", "h100-sxm"),
        ("a100_sxm", "a100-80gb-sxm"),
        ("NVIDIA A100-SXM4-40GB", "a100-40gb-sxm"),
        ("NVIDIA A100-SXM4-80GB", "a100-80gb-sxm"),
        ("NVIDIA A100 80GB PCIe", "a100-80gb-pcie"),
        ("h200_sxm", "h200-sxm"),
        ("b200_sxm", "b200-sxm"),
        ("NVIDIA B200", "b200-sxm"),
        ("gb200", "gb200"),
        ("NVIDIA GB300", "gb300"),
        ("b300", "b300-sxm"),
        ("NVIDIA H20-3e", "h20"),
        ("AMD Instinct MI300X", "mi300x"),
        ("Ascend910B", "ascend-910b"),
        ("TPU v5p", "tpu-v5p"),
    ],
)
def test_names_that_files_use_are_read(text: str, gpu: str) -> None:
    found = device(text)
    assert found is not None
    assert (found.gpu, found.note) == (gpu, "")


@pytest.mark.parametrize(
    ("text", "gpu"), [("NVIDIA A100-PCIE-40GB", "a100-40gb-sxm"), ("Tesla V100-PCIE-32GB", "v100-sxm2")]
)
def test_the_part_with_the_same_memory_stands_for_one_that_the_catalogue_lacks_and_says_so(text: str, gpu: str) -> None:
    found = device(text)
    assert found is not None
    assert found.gpu == gpu
    assert found.note == f"{text!r} is read as {gpu}, the nearest of the catalogue"


@pytest.mark.parametrize(
    "text", ["NVIDIA GeForce RTX 4090", "GH200", "h100 against h200", "", "910b2", "flashattention3"]
)
def test_what_is_no_single_known_chip_is_none(text: str) -> None:
    assert device(text) is None
