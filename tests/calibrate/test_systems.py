from __future__ import annotations

import numpy as np
import pytest

from sim.calibrate.systems import (
    MANY_NODES,
    ONE_NODE,
    OWN_TOPOLOGY,
    Run,
    Site,
    placed,
    site_of,
    why_mistuned,
)
from sim.calibrate.topology_file import fabric_spec, read_topology
from sim.errors import SimError


def site(run: Run, topology: str | None = None) -> Site:
    found = site_of(run, topology)
    assert isinstance(found, Site), found
    return found


@pytest.mark.parametrize("name", sorted({*ONE_NODE.values(), *MANY_NODES.values(), *OWN_TOPOLOGY.values()}))
def test_every_topology_that_a_system_means_ships(name: str) -> None:
    assert read_topology(name).name == name


@pytest.mark.parametrize(
    ("run", "topology", "technology", "constants"),
    [
        (Run("NVIDIA H100 80GB HBM3", "intra-node", 8, 1, 8), "single-node-h100", "nvlink", ""),
        (Run("", "intra-node", 4, 1, 4, "systems/data/h200_sxm/comm"), "single-node-h200", "nvlink", ""),
        (Run("AWS P6-B200", "8x400Gb EFAv4", 8, 1, 8), "single-node-b200", "nvlink", ""),
        (Run("NVIDIA B300 SXM6 AC", "intra-node", 8, 1, 8), "single-node-b200", "nvlink", "NVLink of b200"),
        (Run("GB200 rack", "NVLink5", 72, 18, 4), "gb200-nvl72", "nvlink", ""),
        (Run("Dell HGX H100", "8x400Gb CX-7 IB NDR", 16, 2, 8), "dgx-h100", "infiniband", ""),
        (Run("A100-40GB", "8x200Gb RoCE", 16, 2, 8), "dgx-a100", "roce", "network of InfiniBand"),
        (Run("AWS P6-B200", "8x400Gb EFAv4", 32, 4, 8), "dgx-b200", "efa", "network of InfiniBand"),
        (Run("ALCF polaris A100-40GB", "2x200Gb Slingshot-11/node", 32, 8, 4), "polaris", "slingshot", ""),
        (Run("ALCF sirius A100-40GB", "Slingshot-11", 8, 2, 4), "polaris", "slingshot", "NICs not stated"),
        (Run("NVIDIA A100-PCIE-80GB", "intra-node", 2, 1, 2), "pcie-a100-2nic", "nvlink", ""),
        (Run("MI300X x8", "xGMI", 8, 1, 8), "single-node-mi300x", "nvlink", ""),
        (Run("H200", "not stated", 16, 2, 8), "dgx-h200", "not stated", "network of InfiniBand, NICs not stated"),
    ],
)
def test_words_name_a_topology(run: Run, topology: str, technology: str, constants: str) -> None:
    found = site(run)
    assert (found.topology, found.technology, found.constants) == (topology, technology, constants)
    assert found.members.shape == (1, run.gpus)


@pytest.mark.parametrize(
    ("run", "reason"),
    [
        (Run("NVIDIA L40S", "intra-node", 8, 1, 8), "no topology of this system ships: 'NVIDIA L40S'"),
        (Run("NVIDIA H100 PCIe", "intra-node", 2, 1, 2), "no topology of h100-pcie ships"),
        (Run("MI355X x8", "xGMI", 8, 1, 8), "no topology of mi355x ships"),
        (Run("H100", "intra-node", 16, 1, 16), "single-node-h100 cannot have it: the topology is too small"),
    ],
)
def test_a_system_without_a_topology_has_a_reason(run: Run, reason: str) -> None:
    found = site_of(run)
    assert isinstance(found, str)
    assert found.startswith(reason)


def test_the_nics_of_a_row_are_those_of_the_fabric() -> None:
    """4 NICs of 100 Gbit/s for 8 GPUs: 2 GPUs share 12.5 GB/s; as many NICs as GPUs stay on rails."""
    shared = site(Run("p4de A100-80GB SXM", "4x100Gb EFA", 16, 2, 8)).fabric
    nic = shared.links.tiers.index("nic")
    rates = shared.links.wire_bytes_per_s[shared.links.tier == nic]
    assert (len(rates), set(rates)) == (16, {12.5e9})
    assert site(Run("HGX H100", "8x200Gb IB", 16, 2, 8)).spec.model_dump()["nic"]["bytes_per_s"] == 25e9


def test_a_server_has_the_gpus_that_its_nics_divide() -> None:
    """4 GPUs with 2 NICs are a server of 4; one GPU on each node with 8 NICs is one of 8."""
    assert site(Run("a100", "2x200Gb IB", 8, 2, 4)).fabric.gpus_per_node == 4
    alone = site(Run("a100", "8x200Gb IB", 2, 2, 1))
    assert alone.members.tolist() == [[0, 8]]


def test_a_named_topology_goes_before_the_words() -> None:
    assert site(Run("whatever", "", 16, 2, 8), "dgx-a100").topology == "dgx-a100"


@pytest.mark.parametrize(
    ("system", "note", "reason"),
    [
        ("ALCF polaris A100-40GB", "nccl_2_18 env-setup 1 (README)", "env-setup 1 of polaris (tuned: 4, 5)"),
        ("ALCF polaris A100-40GB", "nccl_2_18 env-setup 5 (README)", ""),
        ("ALCF sophia A100-40GB", " env-setup 2 (README)", "env-setup 2 of sophia (tuned: 6)"),
        ("HGX H100", "env-setup 1", ""),
        ("ALCF polaris A100-40GB", "", ""),
    ],
)
def test_settings_that_are_slow_on_purpose_are_known_by_their_note(system: str, note: str, reason: str) -> None:
    assert why_mistuned(system, note).endswith(reason)
    assert bool(why_mistuned(system, note)) == bool(reason)


def test_gpus_are_the_first_of_each_node() -> None:
    fabric = fabric_spec(read_topology("dgx-h100"), ["nodes=2"]).build()
    assert placed(fabric, 4, 2).tolist() == [[0, 1, 8, 9]]
    assert np.array_equal(placed(fabric, 12, 1), np.arange(12)[None, :])
    with pytest.raises(SimError, match="too small"):
        placed(fabric, 18, 2)
    with pytest.raises(SimError, match="too small"):
        placed(fabric, 6, 3)
