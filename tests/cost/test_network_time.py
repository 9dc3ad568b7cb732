"""The time of a lone collective and the choice of its algorithm."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from sim.cost.collectives import Pattern
from sim.cost.lines import Way, loaded, lone_line, pattern_of
from sim.cost.network_time import choose, lone_call, lone_time_s
from sim.errors import SimError
from sim.spec.network import Algorithms, Network
from sim.spec.topology import FABRICS, Fabric


def cluster(name: str, **overrides: object) -> Fabric:
    fields = yaml.safe_load((Path(__file__).parents[2] / "topologies" / f"{name}.yaml").read_text())
    return FABRICS[fields.pop("fabric")](**fields | overrides).build()


def with_nccl(name: str, changes: dict[str, object], **overrides: object) -> Fabric:
    """The cluster with other values of its `nccl`."""
    nccl = yaml.safe_load((Path(__file__).parents[2] / "topologies" / f"{name}.yaml").read_text())["nccl"]
    return cluster(name, nccl=nccl | changes, **overrides)


def unmeasured(**overrides: object) -> Fabric:
    """A cluster of H100 of whose collectives only links and hops are known."""
    fields = yaml.safe_load((Path(__file__).parents[2] / "topologies" / "dgx-h100.yaml").read_text())
    spec = FABRICS[fields.pop("fabric")](**fields | overrides)
    return spec.model_copy(update={"nccl": None}).build()


TWO_NODES = cluster("dgx-h100", nodes=2)
RAILS_OF_64 = cluster("dgx-h100", nodes=64)
ONE_RAIL = np.arange(0, 512, 8)[None]


UNMEASURED = unmeasured(nodes=64)
ANY = Network()


def named(op: str, algorithm: str, protocol: str = "auto") -> Network:
    return Network(algorithms=Algorithms(**{op: algorithm}), protocol=protocol)


def test_a_named_algorithm_is_taken_even_if_it_is_slow():
    assert choose("all_reduce", 1e3, ONE_RAIL, RAILS_OF_64, named("all_reduce", "ring")).algorithm == "ring"


def test_without_measured_lines_auto_takes_trees_for_small_and_rings_for_large_messages():
    assert choose("all_reduce", 1e5, ONE_RAIL, UNMEASURED, ANY)[:2] == ("tree", "simple")
    assert choose("all_reduce", 1e10, ONE_RAIL, UNMEASURED, ANY)[:2] == ("ring", "simple")


def test_without_measured_lines_auto_runs_rings_on_two_whole_nodes():
    """A tree would load the NICs half as much there, but measured rates are the ring's."""
    two = unmeasured(nodes=2)
    assert choose("all_reduce", 1e9, np.arange(16)[None], two, ANY).algorithm == "ring"
    assert choose("all_gather", 1e9, np.arange(16)[None], two, ANY).algorithm == "ring"


def test_without_measured_lines_auto_looks_at_the_slowest_group():
    spine = {"count": 4, "oversubscription": 32, "efficiency": 0.96, "latency": "0.3 us"}
    fabric = unmeasured(nodes=16, nodes_per_unit=8, spine=spine)
    rail = np.arange(0, 128, 8)
    inside, across = rail[:8], rail[4:12]
    chosen = [choose("all_reduce", 1e7, np.stack(groups), fabric, ANY)[0] for groups in ([inside], [across])]
    assert chosen == ["tree", "ring"]
    assert choose("all_reduce", 1e7, np.stack([inside, across]), fabric, ANY).algorithm == "ring"


@pytest.mark.parametrize(
    ("name", "op", "gpus", "nbytes", "way"),
    [
        # Sizes between which nccl-tests' sweeps of ai-dynamo/aiconfigurator jump: NCCL 2.27 changes protocol.
        ("single-node-a100", "all_gather", 2, 2**20, ("ring", "ll")),
        ("single-node-a100", "all_gather", 2, 2**21, ("ring", "simple")),
        ("single-node-a100", "all_gather", 4, 2**20, ("ring", "ll")),
        ("single-node-a100", "all_gather", 4, 2**21, ("ring", "simple")),
        ("single-node-a100", "all_reduce", 2, 2**19, ("ring", "ll")),
        ("single-node-a100", "all_reduce", 2, 2**20, ("ring", "simple")),
        ("single-node-b200", "all_gather", 4, 2**22, ("ring", "ll")),
        ("single-node-b200", "all_gather", 4, 2**23, ("ring", "simple")),
        # stas00/ml-engineering network/README.md: rings on four, the switch on eight; NVIDIA/nccl-tests issue 309.
        ("single-node-h200", "all_reduce", 4, 2**30, ("ring", "simple")),
        ("single-node-h200", "all_reduce", 8, 2**30, ("nvls", "simple")),
        ("single-node-h200", "all_reduce", 8, 2**18, ("ring", "ll")),
        ("dgx-h100", "all_reduce", 16, 2**30, ("nvls_tree", "simple")),
        ("dgx-h100", "all_reduce", 16, 2**12, ("tree", "ll")),
        ("dgx-a100", "all_reduce", 16, 2**30, ("ring", "simple")),
    ],
)
def test_auto_is_what_nccl_chooses(name, op, gpus, nbytes, way):
    fabric = cluster(name) if "single" in name else cluster(name, nodes=2)
    assert choose(op, nbytes, np.arange(gpus)[None], fabric, ANY)[:2] == way


def test_a_protocol_is_taken_where_it_exists_and_else_refused():
    members = np.arange(16)[None]
    assert choose("all_gather", 1e9, members, TWO_NODES, Network(protocol="ll"))[:2] == ("ring", "ll")
    with pytest.raises(SimError, match=r"all_to_all: no such protocol .*\(got 'll128', allowed auto, ll, simple\)"):
        choose("all_to_all", 1e9, members, TWO_NODES, Network(protocol="ll128"))
    with pytest.raises(SimError, match=r"\(got 'll', allowed auto, simple\)"):
        choose("all_gather", 1e9, members, unmeasured(nodes=2), Network(protocol="ll"))


def test_switches_of_the_network_reduce_only_where_the_topology_says_so():
    """256 A100: one way up and down the network, and half of a tree's bytes on the NICs."""
    members = np.arange(32 * 8)[None]
    without = cluster("dgx-a100", nodes=32)
    with_sharp = with_nccl("dgx-a100", {"sharp": True}, nodes=32)
    with pytest.raises(SimError, match=r"collnet does not run in these groups \(got 'collnet', allowed auto, "):
        choose("all_reduce", 2**26, members, without, named("all_reduce", "collnet"))
    assert choose("all_reduce", 2**26, members, without, ANY).algorithm == "tree"
    assert choose("all_reduce", 2**26, members, with_sharp, ANY)[:2] == ("collnet", "simple")
    slow, fast = (lone_call("all_reduce", 2**26, members, fabric, ANY).time_s for fabric in (without, with_sharp))
    assert fast < slow


def slow_nvls(chunk: str) -> dict[str, object]:
    """H100's lines with a kernel that is slower than the ports."""
    path = Path(__file__).parents[2] / "topologies" / "single-node-h100.yaml"
    lines = yaml.safe_load(path.read_text())["nccl"]["nvlink"]
    return {"nvls_chunk": chunk, "nvlink": lines | {"nvls": {"launch": "20 us", "steps": 0, "bandwidth": "100 GB/s"}}}


def test_chunks_of_nvls_double_at_nccl_s_sizes():
    """8 H100: a round moves 16 channels x 8 members x 16 KiB; 64 rounds of chunks of 128 KiB for 1 GiB, 128 for 2."""
    straight, bent = (with_nccl("single-node-h100", slow_nvls(chunk)) for chunk in ("0 us", "100 us"))
    members, nvls = np.arange(8)[None], named("all_reduce", "nvls")
    for nbytes, rounds in (
        (2**20, 0.5),
        (2**23, 2),
        (2**26, 8),
        (2**29, 64),
        (3 * 2**28, 64),
        (2**30, 64),
        (2**31, 128),
    ):
        times_s = [lone_call("all_reduce", nbytes, members, fabric, nvls).time_s[0] for fabric in (straight, bent)]
        assert times_s[1] - times_s[0] == pytest.approx(rounds * 1e-4)


def test_chunks_without_a_line_of_nvls_are_refused():
    with pytest.raises(ValueError, match=r"nvls_chunk has no effect without nvlink.nvls \(got 1e-05 s, allowed none\)"):
        with_nccl("dgx-a100", {"nvls_chunk": "10 us"}, nodes=2)


def test_ll_puts_two_bytes_on_the_wire_for_each_and_ll128_sixteen_fifteenths():
    members = np.arange(0, 16, 8)[None]
    loads = {
        protocol: loaded(Way("ring", protocol), "all_gather", members, TWO_NODES).pattern.bytes_per_byte
        for protocol in ("ll", "ll128", "simple")
    }
    assert loads["ll"] == pytest.approx(2 * loads["simple"])
    assert loads["ll128"] == pytest.approx(16 / 15 * loads["simple"])


def test_a_protocol_s_kernel_limits_it_where_links_do_not():
    fabric = cluster("single-node-a100")
    latency_s, s_per_byte = lone_line(Way("ring", "ll"), "all_reduce", np.arange(8)[None], fabric)
    line = fabric.links.nccl.nvlink.ll
    assert s_per_byte == pytest.approx([15 / 8 / line.bytes_per_s])
    assert latency_s == pytest.approx([line.launch_s + 2 * 7 / 8 * 8 * line.steps * 1.9e-6])


def test_few_channels_make_nccl_keep_simple():
    """One channel of LL128 carries 20 GB/s on A100, so Simple is expected to be faster from smaller messages on."""
    fabric = cluster("single-node-a100")
    members = np.arange(8)[None]
    assert choose("all_reduce", 2**23, members, fabric, ANY).protocol == "ll128"
    assert choose("all_reduce", 2**23, members, fabric, Network(channels=1)).protocol == "simple"


def test_channels_are_refused_where_nccl_does_not_choose():
    with pytest.raises(SimError, match=r"network.channels changes nothing .*\(got 4, allowed none\)"):
        choose("all_gather", 1e9, np.arange(16)[None], unmeasured(nodes=2), Network(channels=4))


def test_one_gibibyte_on_sixteen_gpus_at_50_gib_per_s_takes_two_times_fifteen_sixteenths_of_20_ms():
    nvlink = {"bandwidth": "50 GiB/s", "efficiency": 1, "latency": "0 us"}
    fabric = cluster("single-node-h100", gpus_per_node=16, nvlink=nvlink)
    pattern = pattern_of("ring", "all_reduce", np.arange(16)[None], fabric)
    assert lone_time_s(pattern, 2**30, fabric) == pytest.approx([37.5e-3], rel=1e-12)


@pytest.mark.parametrize(
    ("op", "name", "message"),
    [
        ("all_gather", "tree", r"tree is not an algorithm for it \(got 'tree', allowed auto, .*hierarchical, ring\)"),
        ("all_to_all", "ring", r"allowed auto, pairwise, two_level\)"),
        ("all_reduce", "rign", r"unknown collective algorithm \(got 'rign'.*did you mean 'ring'"),
    ],
)
def test_a_name_that_cannot_run_the_collective_is_refused(op, name, message):
    with pytest.raises(SimError, match=message):
        choose(op, 1e6, np.arange(16)[None], TWO_NODES, named(op, name))


def test_a_name_that_cannot_run_in_these_groups_is_refused():
    wanted = named("all_reduce", "hierarchical")
    with pytest.raises(SimError, match=r"hierarchical does not run in these groups .*halving_doubling, nvls, ring"):
        choose("all_reduce", 1e6, np.arange(8)[None], TWO_NODES, wanted)
    with pytest.raises(SimError, match=r"tree does not run in these groups .*allowed auto, ring\)"):
        choose("all_reduce", 1e6, np.arange(9)[None], TWO_NODES, named("all_reduce", "tree"))
    with pytest.raises(SimError, match=r"nvls does not run in these groups"):
        choose("all_reduce", 1e6, np.arange(8)[None], cluster("single-node-a100"), named("all_reduce", "nvls"))


def test_a_message_takes_its_latency_and_the_time_on_its_slowest_link():
    pattern = Pattern(
        group=np.array([0, 0, 1]),
        link=np.array([0, 40, 40]),  # an NVLink at 369 GB/s and a NIC's PCIe link at 51.66
        bytes_per_byte=np.array([1.0, 0.1, 0.5]),
        latency_s=np.array([1e-6, 2e-6]),
    )
    expected = [1e-6 + 1e9 / (450e9 * 0.82), 2e-6 + 0.5e9 / (63e9 * 0.82)]
    assert lone_time_s(pattern, 1e9, TWO_NODES) == pytest.approx(expected, rel=1e-9)
