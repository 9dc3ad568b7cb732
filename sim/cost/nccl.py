"""What NCCL expects of its algorithms and protocols, by which it chooses among them.

Source of every table and formula: NVIDIA/nccl 2.30.7, src/graph/tuning.cc (latencies, bandwidths, factors),
src/graph/topo.h (rates of links). What is expected only decides; the time of a call is that of the topology's
measured lines (`sim.spec.fabrics.calibration`). Error of the choice: sizes at which measured sweeps change protocol
are met to a factor of two on nodes of A100, H100, H200 and B200.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import floor, inf, log2

from sim.spec.fabrics.calibration import PROTOCOLS, Line, Lines

WIRE_FACTOR: Mapping[str, float] = {"ll": 2.0, "ll128": 128 / 120, "simple": 1.0}
"""Bytes on the wire for each byte: LL sends a 4-byte flag with 4 bytes, LL128 8 of 128 (src/include/device.h)."""

NVLINK_EXPECTED_FRAC = 0.8
"""Share of NVLink's datasheet rate in channels: 24 x 10 of 300 GB/s (A100), 24 x 15 of 450 (H100), 16 x 45 of 900
(B200); src/graph/topo.h and the speeds that src/graph/search.cc tries."""

NETWORK_EXPECTED_FRAC = 0.96
"""Share of a NIC's rate: 12 GB/s for 100 Gbit/s (src/graph/topo.h)."""

_BASE_US = {"tree": (6.8, 14.0, 8.4), "ring": (6.6, 14.0, 8.4)}
_NVLINK_US = {"tree": (0.6, 1.25, 4.0), "ring": (0.6, 1.9, 3.4)}
_NETWORK_US = {"tree": (5.0, 8.5, 14.0), "ring": (2.7, 4.0, 14.0)}
_NVLS_US, _NVLS_NETWORK_US, _NVLS_TREE_NETWORK_US = 25.0, 18.0, 20.9
_COLLNET_NVLINK_US, _COLLNET_MEMBER_US, _COLLNET_NETWORK_US = 3.7, 0.4, 31.0
_COLLNET_FRAC = {"ampere": 1.0, "hopper": 0.85, "blackwell": 0.85}

_RING_FRAC = {"ll": 0.5, "ll128": 0.92, "simple": 1.0}
_TREE_FRAC = {"ll": 1 / 3.8, "ll128": 120 / 128, "simple": 0.92}
_TREE_FRAC_ONE_NODE = {"ll": 1 / 3.8, "ll128": 7 / 9, "simple": 0.92}

_LL_BYTES_PER_S = {"ampere": 87.7e9, "hopper": 141e9, "blackwell": 282e9}
"""llMaxBw on one node."""

_LL_BYTES_PER_S_BY_NODES = (39e9, 20.4e9)
"""llMaxBw on two nodes and on more, hosts with Intel CPUs."""


@dataclass(frozen=True)
class _Generation:
    """Columns of the tables: per channel, bytes/s on one node, two nodes and more.

    nvls_frac: share that NVLS reaches, 0 where there is none.  nvls_members: members from which it is chosen; AWS's
    tuner plugin has 5 for H200 and 6 for B200, as nccl-tests' sweeps show.
    """

    channels: int
    ring_ll128: tuple[float, float, float]
    tree: tuple[float, float, float]
    tree_ll128: tuple[float, float, float]
    nvls_tree: tuple[float, float, float]
    nvls_frac: float
    nvls_members: int


_GENERATIONS = {
    "ampere": _Generation(24, (20e9,) * 3, (24e9, 23.6e9, 17.8e9), (20e9,) * 3, (24e9, 23.6e9, 17.8e9), 0.0, 0),
    "hopper": _Generation(
        24, (36.7e9,) * 3, (38.7e9, 41.4e9, 36e9), (36.7e9, 36.7e9, 29e9), (inf, 57.7e9, 45.5e9), 0.85, 5
    ),
    "blackwell": _Generation(
        16, (40e9,) * 3, (70e9, 42.8e9, 24e9), (55.6e9, 31.67e9, 20e9), (inf, 96e9, 80e9), 0.74, 6
    ),
}

NVLS_CHANNELS = 16

_NVLS_KERNEL_CHANNELS = {"ampere": 16, "hopper": 16, "blackwell": 32}
"""Channels over which an NVLS kernel spreads its chunks. Those of Blackwell are read off sweeps of 8 B200, whose rates
jump at twice the sizes at which those of 8 H100 do."""

_NVLS_CHUNK_BYTES = 16 * 1024

_NVLS_ROUNDS = ((2, 0, 1), (4, 2, 0), (16, 0, 1 / 2), (32, 8, 0), (256, 0, 1 / 4), (512, 64, 0), (inf, 0, 1 / 8))
"""(up to which x, constant, factor of x), x the rounds that the smallest chunks would need."""


@dataclass(frozen=True)
class Call:
    """A collective as NCCL sees it.

    size, num_nodes: members and nodes of a group.  ring_s_per_byte: expected seconds for each byte of the message on
    the slowest link of a ring at the rates above.  channels: number that the user asks for.
    """

    op: str
    size: int
    num_nodes: int
    generation: str
    ring_s_per_byte: float
    nvlink_bytes_per_s: float
    channels: int | None = None

    @property
    def steps(self) -> int:
        """Steps of a ring."""
        return 2 * (self.size - 1) if self.op == "all_reduce" else self.size - 1

    @property
    def row(self) -> int:
        """Column of the tables by nodes: one, two, more."""
        return min(self.num_nodes, 3) - 1


def expected(call: Call, algorithm: str, protocol: str) -> tuple[float, float]:
    """Latency and seconds for each byte that NCCL expects of a pair that it has for the call.

    >>> call = Call("all_gather", 2, 1, "ampere", 0.5 / 240e9, 240e9)
    >>> latency_s, s_per_byte = expected(call, "ring", "simple")
    >>> round(latency_s * 1e6, 1), round(1e-9 / s_per_byte)
    (11.8, 480)
    """
    table = _GENERATIONS[call.generation]
    match algorithm:
        case "nvls" | "nvls_tree":
            return _expected_nvls(call, table)
        case "collnet":
            return _expected_collnet(call, table)
        case "tree":
            return _expected_tree(call, table, protocol)
        case _:
            return _expected_ring(call, table, protocol)


def _expected_ring(call: Call, table: _Generation, protocol: str) -> tuple[float, float]:
    """(src/graph/tuning.cc, ncclTopoTuneModel): steps between nodes at the network's latency, others at NVLink's."""
    column = PROTOCOLS.index(protocol)
    rounds = 2 if call.op == "all_reduce" else 1
    between = 0 if call.num_nodes == 1 else rounds * (call.num_nodes - 1)
    inside = call.steps - between
    latency_us = _BASE_US["ring"][column] + inside * _NVLINK_US["ring"][column] + between * _NETWORK_US["ring"][column]
    ratio = call.size / call.steps
    most = {"ll": _ll_bytes_per_s(call), "ll128": _channels(call, table) * table.ring_ll128[call.row], "simple": inf}
    rate = min(_RING_FRAC[protocol] / call.ring_s_per_byte, most[protocol] * ratio)
    return latency_us * 1e-6, 1 / rate


def _expected_tree(call: Call, table: _Generation, protocol: str) -> tuple[float, float]:
    column = PROTOCOLS.index(protocol)
    per_node = call.size // call.num_nodes
    depth = floor(log2(call.num_nodes))
    steps_us = (per_node - 1) * _NVLINK_US["tree"][column] + depth * _NETWORK_US["tree"][column]
    channels = _channels(call, table)
    most = {
        "ll": _ll_bytes_per_s(call),
        "ll128": channels * table.tree_ll128[call.row],
        "simple": channels * table.tree[call.row],
    }
    frac = (_TREE_FRAC_ONE_NODE if call.num_nodes == 1 else _TREE_FRAC)[protocol]
    bus = call.steps / call.size / call.ring_s_per_byte
    return (_BASE_US["tree"][column] + 2 * steps_us) * 1e-6, 1 / (0.5 * min(frac * bus, most[protocol]))


def _expected_nvls(call: Call, table: _Generation) -> tuple[float, float]:
    """NVLS in a node, NVLSTree over nodes: twice the channels' rate, but for the channel that synchronises.

    An all_gather or reduce_scatter goes at the channels' rate, less a member's own part.
    """
    inside = _nvls_bytes_per_s(call, table)
    if call.op != "all_reduce":
        return _NVLS_US * 1e-6, 2 / inside * call.size / (call.size - 1)
    bus = call.steps / call.size / call.ring_s_per_byte
    latency_us = _NVLS_US
    if call.num_nodes > 1:
        between = bus * (2 if call.num_nodes == 2 else 1)
        inside = min(inside, between, NVLS_CHANNELS * table.nvls_tree[call.row])
        latency_us += 2 * floor(log2(call.num_nodes)) * _NVLS_TREE_NETWORK_US
    return latency_us * 1e-6, call.steps / call.size / inside


def _nvls_bytes_per_s(call: Call, table: _Generation) -> float:
    return 2 * table.nvls_frac * call.nvlink_bytes_per_s * (NVLS_CHANNELS - 1) / NVLS_CHANNELS


def nvls_piece(nbytes: float, size: int, generation: str) -> int:
    """Number of the piece of `nvls_rounds` that a message of `nbytes` is on."""
    small = nbytes / _nvls_round_bytes(size, generation)
    return next(number for number, (most, _, _) in enumerate(_NVLS_ROUNDS) if small <= most)


def nvls_rounds(piece: int, size: int, generation: str) -> tuple[float, float]:
    """Rounds of an NVLS kernel on `size` GPUs, on a piece of the sizes: a constant, and rounds for each byte.

    A round moves one chunk for each channel and each member. NCCL takes chunks of 16 KiB, and doubles them at 4, 16 and
    512 rounds of those, to 2, 8 and 64 rounds (src/enqueue.cc, calcCollChunking). Error: from half of such a size to
    it, rounds are taken to be as many as there, so that no larger message is faster; NCCL makes up to twice as many.

    >>> [nvls_piece(nbytes * 2**20, 8, "hopper") for nbytes in (4, 8, 32, 512, 1024, 2048)]
    [0, 1, 2, 4, 5, 6]
    >>> nvls_rounds(5, 8, "hopper")
    (64.0, 0.0)
    """
    _, constant, factor = _NVLS_ROUNDS[piece]
    return float(constant), factor / _nvls_round_bytes(size, generation)


def _nvls_round_bytes(size: int, generation: str) -> float:
    return float(_NVLS_KERNEL_CHANNELS[generation] * size * _NVLS_CHUNK_BYTES)


def _expected_collnet(call: Call, table: _Generation) -> tuple[float, float]:
    """Switches of the network that add: NVLS over nodes where NVSwitches add, too, else CollNetDirect.

    Left out: what NCCL subtracts from CollNetDirect where GPUs share NICs.
    """
    bus = call.steps / call.size / call.ring_s_per_byte
    if has_nvls(call):
        rate = min(_nvls_bytes_per_s(call, table), bus)
        return (_NVLS_US + _NVLS_NETWORK_US) * 1e-6, call.steps / call.size / rate
    per_node = call.size // call.num_nodes
    inside_us = min(1, per_node - 1) * _COLLNET_NVLINK_US + (per_node - 1) * _COLLNET_MEMBER_US
    latency_us = 2 * inside_us + _COLLNET_NETWORK_US
    return latency_us * 1e-6, 1 / (0.5 * _COLLNET_FRAC[call.generation] * bus)


def has_nvls(call: Call) -> bool:
    """Whether NCCL takes NVLS into account: switches that reduce, and enough members in each node."""
    table = _GENERATIONS[call.generation]
    return table.nvls_frac > 0 and call.size // call.num_nodes >= table.nvls_members


def _channels(call: Call, table: _Generation) -> int:
    return call.channels or table.channels


def _ll_bytes_per_s(call: Call) -> float:
    if call.num_nodes == 1:
        return _LL_BYTES_PER_S[call.generation]
    return _LL_BYTES_PER_S_BY_NODES[call.row - 1]


def prior_network(nvlink: Lines) -> Lines:
    """Lines between nodes where only those of a node were measured: its launches, and the steps of NCCL's tables.

    Latencies of trees between nodes over that of Simple, which the topologies' hops add up to; the rate of LL is that
    of more than two nodes. Error: not measured; on two and four nodes of H100 within 20 %.
    """
    ll, ll128, simple = (microseconds / _NETWORK_US["tree"][2] for microseconds in _NETWORK_US["tree"])
    return Lines(
        ll=Line(launch_s=nvlink.ll.launch_s, steps=ll, bytes_per_s=_LL_BYTES_PER_S_BY_NODES[-1]),
        ll128=Line(launch_s=nvlink.ll128.launch_s, steps=ll128, bytes_per_s=nvlink.ll128.bytes_per_s),
        simple=Line(launch_s=nvlink.simple.launch_s, steps=simple),
        sends_ll=Line(launch_s=nvlink.sends_ll.launch_s, steps=simple, bytes_per_s=nvlink.sends_ll.bytes_per_s),
        sends=Line(launch_s=nvlink.sends.launch_s, steps=simple),
        nvls=None
        if nvlink.nvls is None
        else Line(
            launch_s=nvlink.nvls.launch_s, steps=_NVLS_TREE_NETWORK_US / 14.0, bytes_per_s=nvlink.nvls.bytes_per_s
        ),
    )


def prior_lines(generation: str) -> Lines:
    """Lines inside a node by NCCL's tables alone, where nobody measured them. Error: 7 % (H100) to 37 % (B200)."""
    low_latency = _LL_BYTES_PER_S[generation]
    lines = [
        Line(launch_s=base_us * 1e-6, steps=step_us / _NVLINK_US["ring"][1])
        for base_us, step_us in zip(_BASE_US["ring"], _NVLINK_US["ring"], strict=True)
    ]
    ll, ll128, simple = lines
    return Lines(
        ll=Line(launch_s=ll.launch_s, steps=ll.steps, bytes_per_s=low_latency),
        ll128=Line(launch_s=ll128.launch_s, steps=ll128.steps, bytes_per_s=2 * low_latency),
        simple=simple,
        sends_ll=Line(launch_s=simple.launch_s, steps=1.0, bytes_per_s=low_latency),
        sends=Line(launch_s=2 * simple.launch_s, steps=1.0),
        nvls=None if generation == "ampere" else Line(launch_s=_NVLS_US * 1e-6, steps=1.0, bytes_per_s=2 * low_latency),
    )
